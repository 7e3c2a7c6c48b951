"""Whether a partition table can be let onto a disk: all of it inside of the image, and of one mind.

What the kernel, the firmware and sgdisk each make of a table that contradicts itself differs, so such a
table is not written at all. UEFI specification 2.10, chapter 5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from teeth_image import gpt
from teeth_image.errors import ImageError

_PROTECTIVE = 0xEE
_WHOLE = 0xFFFF_FFFF
_ENTRY = struct.Struct("<B3xB3xII")


@dataclass(frozen=True, slots=True, kw_only=True)
class MbrEntry:
    """One of the four; addresses in logical blocks."""

    number: int
    kind: int
    first: int
    count: int

    @property
    def last(self) -> int:
        return self.first + self.count - 1


def mbr_entries(head: bytes | memoryview) -> tuple[MbrEntry, ...] | None:
    """The entries in use; None without a table (a file system's boot sector has other bytes in its place)."""
    if len(head) < 512 or bytes(head[510:512]) != b"\x55\xaa":
        return None
    entries = []
    for number in range(1, 5):
        status, kind, first, count = _ENTRY.unpack_from(head, 446 + 16 * (number - 1))
        if status not in (0, 0x80):
            return None
        if kind:
            entries.append(MbrEntry(number=number, kind=kind, first=first, count=count))
    return tuple(entries)


def check(head: bytes, *, block: int, image_size: int, disk_size: int) -> Literal["gpt", "mbr", "none"]:
    """What table an image of ``image_size`` raw bytes has, for a disk with logical blocks of ``block`` bytes.

    ``head``: the image's first gpt.HEAD bytes, or all of it. Raises ImageError(partition_table).
    """
    blocks = min(image_size, disk_size) // block
    entries = mbr_entries(head)
    if head[block : block + 8] == gpt.SIGNATURE:
        table = gpt.parse(head, block)
        _check_gpt(table, blocks)
        _check_protective(entries, table, blocks)
        return "gpt"
    if not entries:
        return "none"
    if any(one.kind == _PROTECTIVE for one in entries):
        raise _bad("has a protective MBR, but no GUID partition table that it protects")
    _check_extents([(f"partition {one.number}", one.first, one.last) for one in entries], 1, blocks - 1)
    return "mbr"


def _check_gpt(table: gpt.Table, blocks: int) -> None:
    if table.backup >= blocks:
        raise _bad(
            f"has its backup at block {table.backup}, beyond the image's {blocks} blocks: the image was cut"
        )
    if not table.entries_end <= table.first_usable <= table.last_usable < blocks:
        raise _bad(
            f"gives blocks {table.first_usable} to {table.last_usable} to partitions, of {blocks} blocks and "
            f"behind its own {table.entries_end}"
        )
    _check_extents(
        [(f"partition {one.number}", one.first, one.last) for one in table.partitions],
        table.first_usable,
        table.last_usable,
    )


def _check_protective(entries: Sequence[MbrEntry] | None, table: gpt.Table, blocks: int) -> None:
    protective = [one for one in entries or () if one.kind == _PROTECTIVE]
    if len(protective) != 1 or protective[0].first != 1:
        raise _bad("has no protective MBR: other systems would see an empty disk")
    count = protective[0].count
    if count == 0 or (count != _WHOLE and count >= blocks):
        raise _bad(f"has a protective MBR for {count + 1} blocks, the image has {blocks}")
    extents = {(one.first, one.last) for one in table.partitions}
    for one in entries or ():
        if one.kind != _PROTECTIVE and (one.first, one.last) not in extents:
            raise _bad(f"has an MBR of which partition {one.number} is none of the GUID partition table's")


def _check_extents(extents: Iterable[tuple[str, int, int]], first: int, last: int) -> None:
    """Every one inside of ``first`` to ``last``, and no two in one place."""
    before, end = "", -1
    for name, begins, ends in sorted(extents, key=lambda extent: extent[1]):
        if ends < begins:
            raise _bad(f"has {name}, which ends before it begins")
        if begins < first or ends > last:
            raise _bad(f"has {name} at blocks {begins} to {ends}, outside of {first} to {last}")
        if begins <= end:
            raise _bad(f"has {name} in the place of {before}")
        before, end = name, ends


def _bad(what: str) -> ImageError:
    return ImageError(f"the image's partition table {what}", code="partition_table")
