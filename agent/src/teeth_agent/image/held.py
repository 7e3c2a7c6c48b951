"""Images that this machine holds whole, as they are given to others: chunk by chunk, each verified first."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass

from teeth_agent.errors import AgentError
from teeth_agent.image.chunks import ChunkDigests

_BLOCK = 1 << 20


class VerifiedChunks:
    """Which chunks of an image were found right, this boot. Any thread may ask."""

    def __init__(self, chunks: ChunkDigests) -> None:
        self.size = chunks.size
        self._chunks = chunks
        self._guard = threading.Lock()
        self._right: set[int] = set()

    def verified_to(self, descriptor: int, offset: int) -> int:
        """Where the chunk with the byte at ``offset`` of this file ends, after it was found to be right.

        Read and hashed once a boot: what the disk may do to it afterwards, those find who fetch it. Raises
        AgentError(digest_mismatch) and OSError.
        """
        index = offset // self._chunks.chunk
        start = self._chunks.start(index)
        end = start + self._chunks.length(index)
        with self._guard:
            known = index in self._right
        if not known:
            if _digest(descriptor, start, end) != self._chunks.digests[index]:
                raise AgentError(f"bytes {start} to {end} in the cache are not right", code="digest_mismatch")
            with self._guard:
                self._right.add(index)
        return end


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldImage:
    """An image's open file in the cache, and what is known of its chunks."""

    descriptor: int
    chunks: VerifiedChunks


def _digest(descriptor: int, start: int, end: int) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(_BLOCK, end - start)))
    while start < end:
        count = os.preadv(descriptor, [buffer[: end - start]], start)
        if count == 0:
            break
        digest.update(buffer[:count])
        start += count
    return digest.hexdigest()
