"""What an ext2, ext3 or ext4 file system says of itself: Documentation/filesystems/ext4/super.rst."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

SUPERBLOCK_AT = 1024
SUPERBLOCK_BYTES = 1024
_MAGIC_AT, _MAGIC = 56, 0xEF53
_INCOMPAT_64BIT = 0x80
# GRUB 2.12, grub-core/fs/ext2.c: what it reads, and what it may pass over.
_GRUB_READS = {
    "filetype": 0x2,
    "recover": 0x4,
    "meta_bg": 0x10,
    "extents": 0x40,
    "64bit": 0x80,
    "mmp": 0x100,
    "flex_bg": 0x200,
    "csum_seed": 0x2000,
    "largedir": 0x4000,
    "encrypt": 0x10000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtFs:
    """``size`` in bytes. ``unreadable``: features that GRUB does not know, as bits."""

    unique: uuid.UUID
    size: int
    unreadable: int


def parse(superblock: bytes) -> ExtFs | None:
    """From the 1024 bytes at SUPERBLOCK_AT; None if it is no such file system."""
    if len(superblock) < SUPERBLOCK_BYTES:
        return None
    (magic,) = struct.unpack_from("<H", superblock, _MAGIC_AT)
    (low,) = struct.unpack_from("<I", superblock, 4)
    (shift,) = struct.unpack_from("<I", superblock, 24)
    (incompat,) = struct.unpack_from("<I", superblock, 96)
    (high,) = struct.unpack_from("<I", superblock, 0x150)
    if magic != _MAGIC or shift > 6:
        return None
    blocks = low | (high << 32 if incompat & _INCOMPAT_64BIT else 0)
    return ExtFs(
        unique=uuid.UUID(bytes=superblock[104:120]),
        size=blocks << (10 + shift),
        unreadable=incompat & ~sum(_GRUB_READS.values()),
    )
