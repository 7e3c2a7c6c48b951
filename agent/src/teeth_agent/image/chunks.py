"""The digests of an image's chunks, as its manifest or its command gives them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from teeth_agent.errors import AgentError

if TYPE_CHECKING:  # of what a task needs, nothing is loaded before there is one
    from teeth_agent.image.params import ImageSpec
    from teeth_image.manifest import ImageManifest

# A chunk is held whole until it is verified: what is larger breaks the bound on memory.
MAX_CHUNK = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkDigests:
    """sha256 (hex) of each ``chunk`` bytes of the ``size`` that are fetched; the last may be shorter."""

    size: int
    chunk: int
    digests: Sequence[str]

    def __len__(self) -> int:
        return len(self.digests)

    def start(self, index: int) -> int:
        return index * self.chunk

    def length(self, index: int) -> int:
        return min(self.chunk, self.size - index * self.chunk)

    def covering(self, offset: int, length: int) -> range:
        """The chunks that hold those bytes."""
        return range(offset // self.chunk, -(-(offset + length) // self.chunk)) if length else range(0)

    def right(self, index: int, data: memoryview | bytes) -> bool:
        return len(data) == self.length(index) and hashlib.sha256(data).hexdigest() == self.digests[index]


def chunks_of(image: ImageSpec, manifest: ImageManifest | None) -> ChunkDigests | None:
    """Of the manifest if there is one, else of the command itself. Raises AgentError(image_memory)."""
    if manifest is not None:
        found = ChunkDigests(size=image.size, chunk=manifest.chunk_size, digests=manifest.chunks)
    elif image.chunks is not None:
        found = ChunkDigests(size=image.size, chunk=image.chunks.size, digests=image.chunks.digests)
    else:
        return None
    if found.chunk > MAX_CHUNK:
        raise AgentError(
            f"the image's chunks have {found.chunk} bytes, at most {MAX_CHUNK} can be verified",
            code="image_memory",
        )
    return found
