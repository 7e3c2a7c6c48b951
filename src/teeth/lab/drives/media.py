"""What a drive keeps its blocks on: memory, or a sparse file that the host can read beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from teeth.errors import TeethError

_PAGE = 1 << 16
_CHUNK = 1 << 20
_EMPTY = bytes(_PAGE)


class Media(Protocol):
    """A range of ``size`` bytes; what was never written reads as zeros. Offsets are the caller's to bound."""

    size: int

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...

    def close(self) -> None: ...


class MemoryMedia:
    """Pages in a dictionary: a terabyte drive costs what was written to it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pages: dict[int, bytearray] = {}

    def read(self, offset: int, length: int) -> bytes:
        parts = []
        for page, start, stop in _pages(offset, length):
            held = self._pages.get(page)
            parts.append(bytes(stop - start) if held is None else bytes(held[start:stop]))
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        done = 0
        for page, start, stop in _pages(offset, len(data)):
            part = view[done : done + stop - start]
            done += stop - start
            if len(part) == _PAGE and part == _EMPTY:
                self._pages.pop(page, None)
                continue
            held = self._pages.setdefault(page, bytearray(_PAGE))
            held[start:stop] = part

    def close(self) -> None:
        pass


def _pages(offset: int, length: int) -> list[tuple[int, int, int]]:
    """(page, first byte in it, end in it) of each page that the range touches."""
    stop = offset + length
    return [
        (page, max(offset - page * _PAGE, 0), min(stop - page * _PAGE, _PAGE))
        for page in range(offset // _PAGE, -(-stop // _PAGE))
    ]


class FileMedia:
    """A sparse file, made when it is not there. Raises TeethError for one that cannot be used."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if os.fstat(self._fd).st_size < size:
                os.ftruncate(self._fd, size)
        except OSError as error:
            raise TeethError(f"backing file {path} cannot be used: {error.strerror}") from error

    def read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        return data + bytes(length - len(data))

    def write(self, offset: int, data: bytes) -> None:
        if os.pwrite(self._fd, data, offset) != len(data):
            raise TeethError(f"backing file {self.path}: the disk below is full")

    def close(self) -> None:
        os.close(self._fd)


def fill(media: Media, offset: int, length: int, pattern: bytes) -> None:
    """Fill with ``pattern`` repeated from ``offset`` on; zeros over what is zero already are not written, so
    that a sparse file stays one."""
    zero = not any(pattern)
    whole = pattern * max(1, -(-_CHUNK // len(pattern)))
    step = len(whole) - len(whole) % len(pattern)
    stop = offset + length
    while offset < stop:
        part = min(step, stop - offset)
        if not (zero and media.read(offset, part) == bytes(part)):
            media.write(offset, whole[:part])
        offset += part
