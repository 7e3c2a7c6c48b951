"""An image while it is looked at: a sparse file, written as the bytes come, within bounds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from teeth.errors import TeethError
from teeth.images.errors import BadImage
from teeth_image.manifest import CHUNK_SIZE

# What is left to everything else that lives on this file system: the endpoint's store does, for one.
_RESERVE = 256 << 20
_LOOK_EVERY = 64 << 20
_ZEROS = bytes(CHUNK_SIZE)


class SparseFile:
    """Zeros take no space. Raises TeethError when the disk is nearly full."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._until_look = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, offset: int, data: bytes) -> None:
        if data == _ZEROS[: len(data)]:
            return
        if self._until_look <= 0:
            require_space(self.path.parent)
            self._until_look = _LOOK_EVERY
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done
            self._until_look -= done

    def end(self, size: int) -> None:
        os.ftruncate(self._fd, size)


def require_space(folder: Path) -> None:
    facts = os.statvfs(folder)
    if facts.f_bavail * facts.f_frsize < _RESERVE:
        raise TeethError(
            f"there is no space left in {folder.parent}: {_RESERVE >> 20} MiB are left to the endpoint",
            hint="nothing was kept",
        )


def bounded(blocks: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Raises BadImage behind ``most`` bytes."""
    count = 0
    for block in blocks:
        count += len(block)
        if count > most:
            raise BadImage(f"the image unpacks to more than {most} bytes", hint="see --max-size")
        yield block


def in_chunks(blocks: Iterable[bytes], size: int = CHUNK_SIZE) -> Iterator[bytes]:
    """Cut anew: every one of ``size`` but the last."""
    waiting = bytearray()
    for block in blocks:
        if not waiting and len(block) == size:  # as files come: no copy
            yield block
            continue
        waiting += block
        while len(waiting) >= size:
            yield bytes(memoryview(waiting)[:size])
            del waiting[:size]
    if waiting:
        yield bytes(waiting)


def spooled(chunks: Iterable[bytes], path: Path) -> Iterator[bytes]:
    """The same chunks, each written to ``path`` as it passes."""
    with SparseFile(path) as file:
        offset = 0
        for chunk in chunks:
            file.write(offset, chunk)
            offset += len(chunk)
            yield chunk
        file.end(offset)


def read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_SIZE):
            yield chunk
