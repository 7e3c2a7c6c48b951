"""The mark that a disk is filled with before it is erased, and the host's own search for what is left.

The search reads the backing file, not the guest: it needs nobody's word.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teeth.errors import TeethError, UsageError

RECORD = 64
MAGIC = b"teeth-lab/dirty!"  # 16 bytes: no zero, no run, so neither erasing nor an image holds it by chance
_SPAN = 1 << 20  # one span is written at a time; its number is put into each of its records
_READ = 4 << 20
_TAG = 36  # bytes for the disk's name in a record


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a backing file still holds: sizes in bytes.

    ``stored`` is what is not a hole; ``surviving`` is how much of the mark is left, ``first`` where the
    first of it lies.
    """

    size: int
    stored: int
    surviving: int
    first: int | None

    @property
    def clean(self) -> bool:
        """No record of the mark is left anywhere."""
        return self.surviving == 0


def create_disk(path: Path, size: int) -> None:
    """A file of ``size`` bytes that takes no room yet; an older one is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with path.open("xb") as stream:
        stream.truncate(size)


def create_dirty_disk(path: Path, size: int, tag: str) -> None:
    """A file whose every 64-byte record names the mark, ``tag`` (the disk's serial) and its own offset.

    A record is MAGIC, the tag (36 bytes, padded with spaces), the number of its MiB (4 bytes, big endian),
    its number therein (8 bytes of text): whatever survives says where it came from. Raises UsageError
    for a size that is no multiple of 64, TeethError when the file system has no room for all of it.
    """
    if size % RECORD:
        raise UsageError(f"disk size {size} is not a multiple of {RECORD}")
    create_disk(path, size)
    free = os.statvfs(path.parent)
    if free.f_bavail * free.f_frsize < size:
        path.unlink()
        raise TeethError(f"no room for a full disk of {size >> 20} MiB in {path.parent}")
    with path.open("r+b", buffering=0) as stream:
        for span in _spans(tag, (size + _SPAN - 1) // _SPAN):
            stream.write(memoryview(span)[: min(_SPAN, size - stream.tell())])


def _spans(tag: str, count: int) -> Iterator[bytearray]:
    label = tag.encode("ascii", "replace")[:_TAG].ljust(_TAG)
    span = bytearray(b"".join(MAGIC + label + bytes(4) + b"%08x" % n for n in range(_SPAN // RECORD)))
    at = len(MAGIC) + _TAG
    for number in range(count):
        for place, value in enumerate(number.to_bytes(4, "big")):
            span[at + place :: RECORD] = bytes([value]) * (_SPAN // RECORD)
        yield span


def scan_disk(path: Path) -> Scan:
    """Search the whole file for the mark, at any alignment; holes read as zero and are stepped over."""
    keep = len(MAGIC) - 1
    surviving = stored = 0
    first: int | None = None
    with path.open("rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        for start, end in _extents(stream.fileno(), size):
            stored += end - start
            tail = b""
            at = start
            while at < end:
                block = os.pread(stream.fileno(), min(_READ, end - at), at)
                if not block:
                    break
                window = tail + block
                if found := window.count(MAGIC):
                    surviving += found * RECORD
                    if first is None:
                        first = at - len(tail) + window.find(MAGIC)
                at += len(block)
                tail = window[-keep:]
    return Scan(size=size, stored=stored, surviving=surviving, first=first)


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are not holes, as (start, end)."""
    at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, at
