"""GUID partition tables: read, and one partition made longer; the rest is sgdisk's part.

UEFI specification 2.10, chapter 5.
"""

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
class Header:
    """Of one of the two copies; ``other``: the block of the other's header, ``start`` of the entries.

    ``length`` of the header and ``width`` of an entry in bytes.
    """

    length: int
    other: int
    first_usable: int
    last_usable: int
    start: int
    count: int
    width: int
    entries_crc: int

    def blocks(self, block: int) -> int:
        """That the entries take."""
        return -(-self.count * self.width // block)


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


def read_header(raw: bytes, at: int) -> Header:
    """The header in ``raw``, the block with address ``at``. Raises ImageError(partition_table)."""
    if len(raw) < _HEADER.size or raw[:8] != SIGNATURE:
        raise _damaged("no GUID partition table")
    (_, _, length, crc, _, here, other, first, last, _, start, count, width, entries_crc) = (
        _HEADER.unpack_from(raw)
    )
    if not _HEADER.size <= length <= len(raw):
        raise _damaged("a header of a wrong length")
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:length]) != crc:
        raise _damaged("a header with a wrong checksum")
    if here != at or start < 2:
        raise _damaged("a header that is for another place")
    if not 128 <= width <= 4096 or count > _MAX_ENTRIES:
        raise _damaged("entries in an unusual place")
    return Header(
        length=length,
        other=other,
        first_usable=first,
        last_usable=last,
        start=start,
        count=count,
        width=width,
        entries_crc=entries_crc,
    )


def parse(head: bytes, block: int) -> Table:
    """The table at the front of a disk. Raises ImageError(partition_table)."""
    header = read_header(head[block : 2 * block], 1)
    offset = header.start * block
    if offset + header.count * header.width > len(head):
        raise _damaged("entries in an unusual place")
    entries = head[offset : offset + header.count * header.width]
    if zlib.crc32(entries) != header.entries_crc:
        raise _damaged("entries with a wrong checksum")
    found = [_entry(n + 1, entries[n * header.width :]) for n in range(header.count)]
    return Table(
        block=block,
        first_usable=header.first_usable,
        last_usable=header.last_usable,
        entries=header.count,
        partitions=tuple(one for one in found if one is not None),
        backup=header.other,
        entries_end=header.start + header.blocks(block),
    )


def lengthened(raw: bytes, entries: bytes, *, number: int, last: int) -> tuple[bytes, bytes]:
    """A header's block and its entries as they are when partition ``number`` ends at block ``last``.

    Everything else stays as it is, byte for byte, and ``entries`` may be longer than the table.
    Raises ImageError(partition_table) if the entries are not the header's.
    """
    (here,) = struct.unpack_from("<Q", raw, 24)
    header = read_header(raw, here)
    used = header.count * header.width
    if zlib.crc32(entries[:used]) != header.entries_crc:
        raise _damaged("entries with a wrong checksum")
    changed, sealed = bytearray(entries), bytearray(raw)
    struct.pack_into("<Q", changed, (number - 1) * header.width + 40, last)
    struct.pack_into("<I", sealed, 88, zlib.crc32(changed[:used]))
    struct.pack_into("<I", sealed, 16, 0)
    struct.pack_into("<I", sealed, 16, zlib.crc32(sealed[: header.length]))
    return bytes(sealed), bytes(changed)


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
