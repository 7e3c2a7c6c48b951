"""That what was decompressed is what the image's owner says: by the manifest's chunks, or by one digest."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.image.ends import Ends
from teeth_agent.image.pieces import ALIGN, PIECE


@dataclass(frozen=True, slots=True, kw_only=True)
class RawChunks:
    """A manifest's digests of the raw image: sha256 of each ``size`` bytes, empty for zeros."""

    size: int
    raw_size: int
    digests: Sequence[str]

    def of(self, offset: int, length: int) -> tuple[bytes, ...]:
        """Those of exactly this piece; () if it does not begin and end with a chunk."""
        end = offset + length
        if offset % self.size or (end % self.size and end != self.raw_size) or self.size > PIECE:
            return ()
        return tuple(
            bytes.fromhex(digest) for digest in self.digests[offset // self.size : -(-end // self.size)]
        )


class RawDigest:
    """``ALGORITHM:HEX`` over pieces that come in order but are handled by several threads."""

    def __init__(self, said: str) -> None:
        self._said = said
        self._digest = hashlib.new(said.partition(":")[0])
        self._next = 0
        self._stopped = False
        self._changed = threading.Condition()

    def update(self, offset: int, length: int, view: memoryview | None) -> None:
        """Wait for this piece's turn; ``view`` None for zeros."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._next == offset)
            if self._stopped:
                raise Cancelled("the hashing was stopped")
        if view is not None:
            self._digest.update(view)
        else:
            zeros = bytes(min(length, PIECE))
            for start in range(0, length, PIECE):
                self._digest.update(zeros[: length - start])
        with self._changed:
            self._next += length
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def check(self) -> None:
        """Raises AgentError(digest_mismatch)."""
        found, expected = self._digest.hexdigest(), self._said.partition(":")[2]
        if found != expected:
            raise AgentError(
                f"the decompressed image has digest {found}, expected {expected}", code="digest_mismatch"
            )


def check_by_rereading(
    device: Device, ends: Ends, raw_size: int, said: str, advance: Callable[[int], None]
) -> None:
    """The same for an image whose pieces came in no order: from the disk, and what is held back of it.

    Raises AgentError(digest_mismatch), DeviceError(read_failed).
    """
    digest, buffer = RawDigest(said), aligned_buffer(PIECE)
    for offset in range(0, raw_size, PIECE):
        length = min(PIECE, raw_size - offset)
        view = buffer[: min(-(-length // ALIGN) * ALIGN, device.size - offset)]
        device.read_into(offset, view)
        ends.overlay(offset, view)
        digest.update(offset, length, view[:length])
        advance(length)
    digest.check()
