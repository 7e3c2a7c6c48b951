"""An image out of the cache, every byte verified before it is given out."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.image.cache.fill import right_chunk
from teeth_agent.image.chunks import ChunkDigests

if TYPE_CHECKING:  # of what a task needs, nothing is loaded before there is one
    from teeth_agent.image.params import ImageSpec
    from teeth_agent.image.source import Source
    from teeth_image.manifest import ImageManifest

_BLOCK = 4 << 20


class CachedSource:
    """A Source over a file of the cache.

    With chunks, a wrong one is fetched from ``network`` and written back. Without, the file's whole digest
    was found right before this was made; it is taken again while reading, and ``damaged`` is called when it
    is not the same, before digest_mismatch.
    """

    def __init__(
        self,
        file: int,
        image: ImageSpec,
        *,
        manifest: ImageManifest | None,
        chunks: ChunkDigests | None,
        network: Source,
        damaged: Callable[[], object],
    ) -> None:
        self.kind: Literal["network", "cache"] = "cache"
        self.size = image.size
        self.manifest = manifest
        self.random_access = True
        self.received = 0
        self.proven = False
        self.mended = 0
        self._file = file
        self._image = image
        self._chunks = chunks
        self._network = network
        self._damaged = damaged
        self._stopped = threading.Event()
        self._mending = threading.Lock()

    @property
    def restarts(self) -> int:
        return self._network.restarts

    @property
    def fetched_bytes(self) -> int:
        return self._network.fetched_bytes

    @property
    def peer_bytes(self) -> int:
        return self._network.peer_bytes

    def stop(self) -> None:
        self._stopped.set()
        self._network.stop()

    def __iter__(self) -> Iterator[memoryview]:
        digest = hashlib.new(self._image.digest.partition(":")[0])
        for block in self._blocks():
            self._check()
            digest.update(block)
            self.received += len(block)
            yield block
        if digest.hexdigest() != self._image.digest.partition(":")[2]:
            self._damaged()
            raise AgentError(
                "the image in the cache is damaged and was thrown out: it has another digest than when it "
                "was last looked at; the next try fetches it",
                code="digest_mismatch",
            )
        self.proven = True

    def read(self, offset: int, length: int) -> bytes:
        if not 0 <= offset <= offset + length <= self.size:
            raise AgentError(
                f"bytes {offset} to {offset + length} are not in the image of {self.size}",
                code="image_truncated",
            )
        self._check()
        if self._chunks is None:
            return self._pread(offset, length)
        wanted = self._chunks.covering(offset, length)
        joined = b"".join(self._chunk(self._chunks, index) for index in wanted)
        skip = offset - self._chunks.start(wanted.start)
        return joined[skip : skip + length]

    def _blocks(self) -> Iterator[memoryview]:
        if self._chunks is not None:
            for index in range(len(self._chunks)):
                yield memoryview(self._chunk(self._chunks, index))
            return
        for offset in range(0, self.size, _BLOCK):
            yield memoryview(self._pread(offset, min(_BLOCK, self.size - offset)))

    def _chunk(self, chunks: ChunkDigests, index: int) -> bytes:
        try:
            data = right_chunk(self._file, chunks, index)
        except OSError:
            data = None  # a sector that cannot be read is as good as a wrong one
        return self._mend(chunks, index) if data is None else data

    def _mend(self, chunks: ChunkDigests, index: int) -> bytes:
        data = self._network.read(chunks.start(index), chunks.length(index))
        with self._mending:
            self.mended += 1
            with contextlib.suppress(OSError):  # it is there for this time; the next finds it wrong again
                os.pwrite(self._file, data, chunks.start(index))
        return data

    def _pread(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._file, length, offset)
        except OSError as error:
            self._damaged()
            raise AgentError(
                f"the image in the cache cannot be read: {error.strerror}", code="cache_failed"
            ) from error
        if len(data) != length:
            self._damaged()
            raise AgentError("the image in the cache was cut short", code="cache_failed")
        return data

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Cancelled("the reading was stopped")
