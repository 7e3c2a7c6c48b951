"""An image in memory as a source of bytes, with every read on record."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from teeth_agent.errors import AgentError


class MemorySource:
    """``streamed``: what iterating yields, if it is something else than what ``read`` gives."""

    kind = "network"
    manifest = None
    restarts = 0
    peer_bytes = 0

    def __init__(
        self,
        content: bytes,
        *,
        block: int = 100_000,
        random_access: bool = True,
        streamed: bytes | None = None,
    ) -> None:
        self._content = content
        self._streamed = content if streamed is None else streamed
        self._block = block
        self.size = len(content)
        self.random_access = random_access
        self.proven = False
        self.received = 0
        self.fetched_bytes = 0
        self.reads: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[memoryview]:
        buffer = bytearray(self._block)
        digest = hashlib.sha256()
        for start in range(0, len(self._streamed), self._block):
            part = self._streamed[start : start + self._block]
            buffer[: len(part)] = part
            digest.update(part)
            self.received += len(part)
            yield memoryview(buffer)[: len(part)]
            buffer[:] = b"\xee" * self._block  # a block is valid only until the next one is asked for
        if digest.digest() != hashlib.sha256(self._streamed).digest():
            raise AgentError("what was fetched is not what was there", code="digest_mismatch")
        self.proven = True

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self._content[offset : offset + length]

    def stop(self) -> None:
        pass
