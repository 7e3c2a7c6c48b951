"""Fetching an image over HTTP so that a broken connection costs only what was in flight."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from teeth_agent.errors import AgentError
from teeth_agent.image.chunks import ChunkDigests, chunks_of
from teeth_agent.image.hosts import READS, STREAMS, HostLimits
from teeth_agent.image.origins import FOR_PEERS, FOR_SERVERS, Patience, origins_of
from teeth_agent.image.params import ImageSpec
from teeth_agent.image.source import Deadline, no_deadline
from teeth_agent.image.tap import Brakes, Tally, Tap
from teeth_image.manifest import ImageManifest

# What one read takes from the socket: large enough that hashing outweighs the call.
_BLOCK = 256 << 10


class Fetch:
    """A Source over the network: peers first where chunks can be verified, then the image's URLs in order.

    Iterating raises AgentError: fetch_failed, image_truncated, image_size, image_changed or digest_mismatch
    when no place gives the image; fetch_deadline; digest_mismatch after the last byte, which is final.
    Memory: one block of 256 KiB, with a manifest one chunk and for ``read`` another.
    ``pause`` waits so many seconds; tests replace it.
    """

    def __init__(
        self,
        image: ImageSpec,
        *,
        manifest: ImageManifest | None = None,
        deadline: Deadline | None = None,
        pause: Callable[[float], None] | None = None,
        servers: Patience = FOR_SERVERS,
        peers: Patience = FOR_PEERS,
        streams: HostLimits = STREAMS,
        reads: HostLimits = READS,
    ) -> None:
        self.kind: Literal["network", "cache"] = "network"
        self.size = image.size
        self.manifest = manifest
        self.random_access = True
        self.received = 0
        self.proven = False
        self.chunks = chunks_of(image, manifest)
        self._image = image
        self._origins = origins_of(image, verified=self.chunks is not None, servers=servers, peers=peers)
        self._brakes = Brakes(deadline or no_deadline(), pause)
        self._tally = Tally()
        self._limits = {"stream": streams, "read": reads}
        self._digest = hashlib.new(image.digest.partition(":")[0])
        self._reading = threading.Lock()
        self._held: tuple[int, bytes] | None = None

    @property
    def fetched_bytes(self) -> int:
        return self._tally.fetched

    @property
    def peer_bytes(self) -> int:
        return self._tally.from_peers

    @property
    def restarts(self) -> int:
        return self._tally.restarts

    def stop(self) -> None:
        self._brakes.stop()

    def resume(self, blocks: Iterable[memoryview | bytes]) -> None:
        """What is there from an earlier time, from the image's start; iterating goes on behind it.

        With chunks it ends between two of them. Checked like all the rest by the whole digest.
        """
        for block in blocks:
            self._digest.update(block)
            self.received += len(block)

    def __iter__(self) -> Iterator[memoryview]:
        """Blocks of the image; each is only valid until the next is asked for."""
        tap = self._tap(self.received, self.size)
        try:
            blocks = self._plain(tap) if self.chunks is None else self._verified(tap, self.chunks)
            yield from self._hashed(blocks)
        finally:
            tap.close()
        self._check_digest()
        self.proven = True

    def read(self, offset: int, length: int) -> bytes:
        """Those bytes by requests of their own. Raises as iterating does, and AgentError(no_ranges)."""
        if not 0 <= offset <= offset + length <= self.size:
            raise AgentError(
                f"bytes {offset} to {offset + length} are not in the image of {self.size}",
                code="image_truncated",
            )
        with self._reading:
            if self.chunks is None:
                return self._range(offset, length)
            wanted = self.chunks.covering(offset, length)
            joined = b"".join(self._chunk(self.chunks, index) for index in wanted)
            skip = offset - self.chunks.start(wanted.start)
            return joined[skip : skip + length]

    def _hashed(self, blocks: Iterator[memoryview]) -> Iterator[memoryview]:
        if self.chunks is None:
            for block in blocks:
                self.received += len(block)
                self._digest.update(block)
                yield block
            return
        # A chunk is hashed twice. The second time is in a thread, while it is used: hashlib lets others run.
        with ThreadPoolExecutor(1, "image-digest") as aside:
            for block in blocks:
                self.received += len(block)
                hashed = aside.submit(self._digest.update, block)
                try:
                    yield block
                finally:
                    hashed.result()

    def _plain(self, tap: Tap) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(_BLOCK, self.size)))
        while tap.position < self.size:
            yield buffer[: tap.read_into(buffer)]

    def _verified(self, tap: Tap, chunks: ChunkDigests) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(chunks.chunk, self.size)))
        for index in range(-(-tap.position // chunks.chunk), len(chunks)):
            block = buffer[: chunks.length(index)]
            _fill_right(tap, chunks, index, block)
            yield block

    def _chunk(self, chunks: ChunkDigests, index: int) -> bytes:
        if self._held is None or self._held[0] != index:
            data = memoryview(bytearray(chunks.length(index)))
            tap = self._tap(chunks.start(index), chunks.start(index) + len(data), read=True)
            try:
                _fill_right(tap, chunks, index, data)
            finally:
                tap.close()
            self._held = index, bytes(data)
        return self._held[1]

    def _range(self, offset: int, length: int) -> bytes:
        data = memoryview(bytearray(length))
        tap = self._tap(offset, offset + length, read=True)
        try:
            _fill(tap, data)
        finally:
            tap.close()
        return bytes(data)

    def _tap(self, position: int, end: int, *, read: bool = False) -> Tap:
        return Tap(
            self._origins,
            size=self.size,
            position=position,
            end=end,
            verified=self.chunks is not None,
            brakes=self._brakes,
            tally=self._tally,
            limits=self._limits["read" if read else "stream"],
            ranges_only=read,
        )

    def _check_digest(self) -> None:
        expected = self._image.digest.partition(":")[2]
        if self._digest.hexdigest() != expected:
            raise AgentError(
                f"the fetched image has digest {self._digest.hexdigest()}, expected {expected}",
                code="digest_mismatch",
            )


def _fill(tap: Tap, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        done += tap.read_into(buffer[done:])


def _fill_right(tap: Tap, chunks: ChunkDigests, index: int, buffer: memoryview) -> None:
    """One chunk that is what its digest says, from as many origins as it takes."""
    _fill(tap, buffer)
    while not chunks.right(index, buffer):
        tap.reject(chunks.start(index))
        _fill(tap, buffer)
    tap.accept()
