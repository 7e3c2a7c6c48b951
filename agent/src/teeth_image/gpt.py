"""GUID partition tables, read (never written: that is sgdisk's part). UEFI specification 2.10, chapter 5."""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass

from teeth_image.errors import ImageError

SIGNATURE = b"EFI PART"
BIOS_BOOT = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
EFI_SYSTEM = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
# Both blocks and the entries of every real table: 2 + 32 blocks of 512, or 2 + 4 of 4096, with room.
HEAD = 128 << 10
_NO_GUID = uuid.UUID(int=0)
_MAX_ENTRIES = 256
_MIB = 1 << 20
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One entry; addresses in logical blocks, ``last`` included. ``unique``: its own GUID."""

    number: int
    kind: uuid.UUID
    first: int
    last: int
    name: str
    unique: uuid.UUID = _NO_GUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A valid primary table. ``block`` is the block size it was read with, in bytes.

    ``backup``: the block where its copy is said to be; ``entries_end``: the first block behind the table.
    """

    block: int
    first_usable: int
    last_usable: int
    entries: int
    partitions: tuple[Partition, ...]
    backup: int = 0
    entries_end: int = 0

    def offset(self, partition: Partition) -> int:
        return partition.first * self.block

    def length(self, partition: Partition) -> int:
        return (partition.last - partition.first + 1) * self.block

    def named(self, name: str) -> Partition | None:
        return next((one for one in self.partitions if one.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPartition:
    """Where a partition goes, in logical blocks, ``last`` included."""

    number: int
    first: int
    last: int


def block_size_of(head: bytes | memoryview) -> int | None:
    """The block size for which the image was made, by where its GPT header lies; None without one."""
    for block in (512, 4096):
        if bytes(head[block : block + len(SIGNATURE)]) == SIGNATURE:
            return block
    return None


def parse(head: bytes, block: int) -> Table:
    """The table at the front of a disk. Raises ImageError(partition_table)."""
    raw = head[block : block + _HEADER.size]
    if len(raw) < _HEADER.size or raw[:8] != SIGNATURE:
        raise _damaged("no GUID partition table")
    (_, _, length, crc, _, here, backup, first, last, _, start, count, width, entries_crc) = _HEADER.unpack(
        raw
    )
    if not _HEADER.size <= length <= block:
        raise _damaged("a header of a wrong length")
    header = bytearray(head[block : block + length])
    header[16:20] = bytes(4)
    if zlib.crc32(header) != crc:
        raise _damaged("a header with a wrong checksum")
    if here != 1 or start < 2:
        raise _damaged("a header that is for another place")
    if not (128 <= width <= 4096 and count <= _MAX_ENTRIES and start * block + count * width <= len(head)):
        raise _damaged("entries in an unusual place")
    entries = head[start * block : start * block + count * width]
    if zlib.crc32(entries) != entries_crc:
        raise _damaged("entries with a wrong checksum")
    found = [_entry(number, entries[(number - 1) * width :]) for number in range(1, count + 1)]
    return Table(
        block=block,
        first_usable=first,
        last_usable=last,
        entries=count,
        partitions=tuple(one for one in found if one is not None),
        backup=backup,
        entries_end=start + -(-count * width // block),
    )


def plan_at_end(table: Table, length: int) -> NewPartition:
    """A new partition of at least ``length`` bytes behind all others, MiB-aligned, at the end of the disk.

    Raises ImageError(no_room).
    """
    align = _MIB // table.block
    need = -(-length // table.block)
    free = max((one.last for one in table.partitions), default=table.first_usable - 1) + 1
    first = (table.last_usable + 1 - need) // align * align
    taken = {one.number for one in table.partitions}
    number = next((n for n in range(1, table.entries + 1) if n not in taken), None)
    if number is None:
        raise ImageError("the partition table is full", code="no_room")
    if first < max(free, table.first_usable):
        room = max(0, table.last_usable + 1 - free) * table.block
        raise ImageError(
            f"behind the last partition there are {room} bytes, the config drive needs {length}",
            code="no_room",
        )
    return NewPartition(number=number, first=first, last=first + need - 1)


def active_mbr_partition(head: bytes) -> bool:
    """Whether a partition of the MBR (a protective one too) is marked active."""
    return head[510:512] == b"\x55\xaa" and any(head[446 + 16 * n] == 0x80 for n in range(4))


def _entry(number: int, raw: bytes) -> Partition | None:
    kind = uuid.UUID(bytes_le=raw[:16])
    first, last = struct.unpack_from("<QQ", raw, 32)
    if kind.int == 0:
        return None
    if last < first:
        raise _damaged(f"partition {number} ends before it begins")
    name = raw[56:128].decode("utf-16-le", errors="replace").partition("\0")[0]
    unique = uuid.UUID(bytes_le=raw[16:32])
    return Partition(number=number, kind=kind, first=first, last=last, name=name, unique=unique)


def _damaged(what: str) -> ImageError:
    return ImageError(f"the disk has {what}", code="partition_table")
