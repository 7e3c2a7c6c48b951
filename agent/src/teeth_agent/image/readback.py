"""Reading back what was written, a window at a time, while the next one is being written.

A window is flushed before it is read past the page cache, so that it comes from the device. A device with
fewer blocks than it has addresses may write a later window over an earlier one that was found good: so the
beginning of each is read once more when all is written. What none of it proves: a device whose own memory
holds the whole window may answer from there.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.image.ends import mismatch
from teeth_agent.image.pieces import ALIGN, PIECE
from teeth_agent.image.zeroruns import GRAIN

# The first is read when the second is being written, and the last is what there is to wait for in the end.
WINDOW = 64 << 20
# Where reading and writing would make heads seek, they take turns of several seconds each.
TURN = 1 << 30
# So many windows may wait to be read back; then the writing waits.
_BEHIND = 4
# Of zeros that were skipped, one block in so many bytes is looked at, at a place that is not known before.
_SAMPLE = GRAIN
_SAMPLED = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What must read back at ``offset``: zeros where ``crc`` is None (then ``length`` may be large).

    ``digests``: the sha256 of each ``chunk`` bytes that a manifest vouches for, if any. ``sampled``: all of
    it was read back before this image came, so its ends and samples will do. ``counts``: how many bytes are
    proven by it.
    """

    offset: int
    length: int
    crc: int | None
    chunk: int = 0
    digests: tuple[bytes, ...] = ()
    sampled: bool = False
    counts: int = 0


class ReadBack:
    """Takes records from writers, gives them to readers. ``seeks``: the device is a spinning one."""

    def __init__(self, device: Device, *, seeks: bool, advance: Callable[[int], None]) -> None:
        self._device = device
        self._advance = advance
        self._window = TURN if seeks else WINDOW
        self._behind = 0 if seeks else _BEHIND
        self._changed = threading.Condition()
        self._open: list[Record] = []
        self._open_bytes = 0
        self._closed: deque[list[Record]] = deque()
        self._reading = False
        self._ended = False
        self._stopped = False

    def add(self, record: Record) -> None:
        """This was written, or is said to be there. Waits while too much is not yet read back."""
        with self._changed:
            self._open.append(record)
            self._open_bytes += _SAMPLE if record.sampled else record.length
            if self._open_bytes >= self._window:
                self._close_window()
            self._changed.wait_for(lambda: self._stopped or len(self._closed) + self._reading <= self._behind)
            if self._stopped:
                raise Cancelled("the reading back was stopped")

    def end(self) -> None:
        """Nothing more is added."""
        with self._changed:
            self._close_window()
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def records(self) -> Iterator[Record]:
        """What to read, each window after a flush. Raises DeviceError(write_failed) for that."""
        beginnings: list[Record] = []
        while (window := self._next_window()) is not None:
            self._device.flush()
            beginnings.append(replace(next(_parts(window[0])), counts=0))
            for record in window:
                yield from _parts(record)
        if len(beginnings) > 1:
            yield from beginnings

    def make_reader(self) -> Callable[[Record], bool]:
        """For one thread: reads a record back. Raises DeviceError(verify_failed | read_failed)."""
        buffer = aligned_buffer(PIECE)
        zeros = bytearray(PIECE)

        def read(record: Record) -> bool:
            view = buffer[: record.length]
            self._device.read_into(record.offset, view)
            if record.crc is None:
                # bytearray == memoryview is one memcmp; the other way round compares item by item.
                good = (zeros if record.length == PIECE else bytearray(record.length)) == view
            else:
                good = _holds(record, view)
            if not good:
                raise mismatch(self._device, record.offset, record.length)
            self._advance(record.counts)
            return True

        return read

    def _close_window(self) -> None:
        if self._open:
            self._closed.append(_merged(self._open))
            self._open, self._open_bytes = [], 0
            self._changed.notify_all()

    def _next_window(self) -> list[Record] | None:
        with self._changed:
            self._reading = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopped or self._closed or self._ended)
            if self._stopped or not self._closed:
                return None
            self._reading = True
            return self._closed.popleft()


def _parts(record: Record) -> Iterator[Record]:
    """What is read at once."""
    if record.sampled:
        yield from _samples(record)
        return
    for start in range(0, record.length, PIECE):
        length = min(PIECE, record.length - start)
        yield replace(record, offset=record.offset + start, length=length, counts=length)


def _samples(record: Record) -> Iterator[Record]:
    for start in range(0, record.length, _SAMPLED):
        length = min(_SAMPLED, record.length - start)
        block = min(_SAMPLE, length)
        places = {start + secrets.randbelow((length - block) // ALIGN + 1) * ALIGN}
        if start == 0:
            places.add(0)
        if start + length == record.length:
            places.add(record.length - block)
        last = max(places)
        for place in sorted(places):
            counts = length if place == last else 0
            yield replace(record, offset=record.offset + place, length=block, counts=counts)


def _merged(records: list[Record]) -> list[Record]:
    """In the order of the device, neighbours that are sampled as one."""
    merged: list[Record] = []
    for record in sorted(records, key=lambda one: one.offset):
        before = merged[-1] if merged else None
        if before and before.sampled and record.sampled and before.offset + before.length == record.offset:
            merged[-1] = replace(before, length=before.length + record.length)
        else:
            merged.append(record)
    return merged


def _holds(record: Record, view: memoryview) -> bool:
    """Raises AgentError(digest_mismatch) where the device is right and the manifest is not."""
    if not record.digests:
        return zlib.crc32(view) == record.crc
    if chunks_hold(view, record.chunk, record.digests):
        return True
    if zlib.crc32(view) != record.crc:
        return False
    raise not_as_the_manifest_says(record.offset, record.length)


def not_as_the_manifest_says(offset: int, length: int) -> AgentError:
    return AgentError(
        f"the image is not what its manifest says, in the {length} bytes at byte {offset}",
        code="digest_mismatch",
    )


def chunks_hold(view: memoryview, chunk: int, digests: tuple[bytes, ...]) -> bool:
    """Whether each ``chunk`` bytes have their sha256; an empty one stands for zeros."""
    return all(_is(view[index * chunk : (index + 1) * chunk], digest) for index, digest in enumerate(digests))


def _is(view: memoryview, digest: bytes) -> bool:
    return hashlib.sha256(view).digest() == digest if digest else bytearray(len(view)) == view
