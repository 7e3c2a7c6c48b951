"""The partitions of a whole-disk image, and what is in each: read, with nothing believed."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from teeth.images.errors import BadImage
from teeth_image import gpt
from teeth_image.errors import ImageError

HEAD = 128 << 10  # both blocks of a GPT and its entries, as teeth_image.gpt reads them
_MBR_ENTRY = struct.Struct("<B3xB3xII")
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_MBR_EFI = 0xEF
_SECTOR = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One partition, in bytes. ``kind`` of its file system: ext, vfat, xfs, btrfs, "" for another or none."""

    number: int
    offset: int
    length: int
    efi: bool
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """``table`` None: an MBR. ``sector``: the first 512 bytes."""

    table: gpt.Table | None
    parts: tuple[Part, ...]
    sector: bytes

    @property
    def active(self) -> bool:
        return gpt.active_mbr_partition(self.sector)


def has_table(head: bytes) -> bool:
    """Whether an image begins as a partitioned disk does (and not as a file system)."""
    return gpt.block_size_of(head) is not None or bool(_mbr(head))


def read(image: Path) -> Disk:
    """Raises BadImage for a damaged table, and for partitions that are not within the image."""
    size = image.stat().st_size
    with image.open("rb") as stream:
        head = stream.read(HEAD)
        block = gpt.block_size_of(head)
        if block is None:
            table, places = (
                None,
                [(n, first, length, kind == _MBR_EFI) for n, kind, first, length in _mbr(head)],
            )
        else:
            try:
                table = gpt.parse(head, block)
            except ImageError as error:
                raise BadImage(f"its partition table is damaged: {error}") from error
            places = [
                (one.number, table.offset(one), table.length(one), one.kind == gpt.EFI_SYSTEM)
                for one in table.partitions
            ]
        for number, offset, length, _ in places:
            if offset + length > size:
                raise BadImage(
                    f"partition {number} ends at byte {offset + length}, the image at {size}",
                    hint="it was cut off, or made for another disk",
                )
        if not places:
            raise BadImage("its partition table has no partition")
        parts = [
            Part(number=number, offset=offset, length=length, efi=efi, kind=file_system(stream, offset))
            for number, offset, length, efi in places
        ]
    return Disk(table=table, parts=tuple(parts), sector=head[:_SECTOR])


def file_system(stream: BinaryIO, offset: int) -> str:
    """By its magic number: ext, vfat, xfs, btrfs, squashfs, or "" for none of these."""

    def at(where: int, count: int) -> bytes:
        stream.seek(offset + where)
        return stream.read(count)

    if at(1080, 2) == b"\x53\xef":
        return "ext"
    if at(0, 4) == b"XFSB":
        return "xfs"
    if at(0x10040, 8) == b"_BHRfS_M":
        return "btrfs"
    if at(0, 4) == b"hsqs":
        return "squashfs"
    sector = at(0, _SECTOR)
    if sector[510:512] == b"\x55\xaa" and (sector[54:57] == b"FAT" or sector[82:85] == b"FAT"):
        return "vfat"
    return ""


def _mbr(head: bytes) -> list[tuple[int, int, int, int]]:
    """(number, type, first byte, length) of the primary partitions; empty for what is no partition table."""
    if len(head) < _SECTOR or head[510:512] != b"\x55\xaa":
        return []
    found = []
    for number in range(4):
        status, kind, first, count = _MBR_ENTRY.unpack_from(head, 446 + 16 * number)
        if status & 0x7F:
            return []  # the boot sector of a file system: these bytes are something else
        if kind not in (0, *_EXTENDED, _PROTECTIVE) and first and count:
            found.append((number + 1, kind, first * _SECTOR, count * _SECTOR))
    return found
