"""GRUB's place in front of the partitions of a GPT disk, as grub-bios-setup would choose it.

What it does there is little: the core image goes into the BIOS boot partition in one run, and the boot sector
is told where. GRUB, include/grub/i386/pc/boot.h and grub-core/boot/i386/pc/diskboot.S.
"""

from __future__ import annotations

import math
import struct

from teeth_image.errors import ImageError

SECTOR = 512
_KERNEL_SECTOR = 0x5C  # where boot.img keeps the sector of the core, 8 bytes
_DRIVE_CHECK = 0x66  # a 2-byte jump which trusts the firmware's drive number only for floppies
_NOPS = b"\x90\x90"
_BPB = slice(0x03, 0x5A)  # a file system's parameters would lie here: kept from the disk
_PARTITION_TABLE = slice(0x1B8, 0x1FE)  # disk signature and protective MBR: kept from the disk
# The core's first sector ends with a block list entry: sector (8), length in sectors (2), segment (2).
_BLOCK_LIST = struct.Struct("<QHH")
_BLOCK_LIST_AT = SECTOR - _BLOCK_LIST.size
_CORE_SEGMENT = 0x820


def boot_sector(boot: bytes, before: bytes, *, core_at: int) -> bytes:
    """grub's ``boot`` image, told in which sector its core begins, with the tables of ``before`` kept.

    ``boot`` and ``before``: one sector of 512 bytes. Raises ImageError(boot_loader).
    """
    if len(boot) != SECTOR or len(before) != SECTOR or boot[510:] != b"\x55\xaa":
        raise ImageError("grub's boot image is not one boot sector", code="boot_loader")
    sector = bytearray(boot)
    sector[_BPB] = before[_BPB]
    sector[_PARTITION_TABLE] = before[_PARTITION_TABLE]
    struct.pack_into("<Q", sector, _KERNEL_SECTOR, core_at)
    # Some firmware passes a wrong drive number; for a hard disk grub's own installer ignores it so, too.
    sector[_DRIVE_CHECK : _DRIVE_CHECK + 2] = _NOPS
    return bytes(sector)


def place_core(core: bytes, *, core_at: int, room: int) -> bytes:
    """``core`` with its block list pointing at the sectors behind its first one, in one run.

    ``room`` in sectors. Raises ImageError(boot_loader) when it does not fit, or is not in this form.
    """
    sectors = math.ceil(len(core) / SECTOR)
    if sectors > room:
        raise ImageError(f"grub's core has {sectors} sectors, its partition {room}", code="boot_loader")
    if len(core) < SECTOR:
        raise ImageError("grub's core is cut short", code="boot_loader")
    _, length, segment = _BLOCK_LIST.unpack_from(core, _BLOCK_LIST_AT)
    if (length, segment) != (sectors - 1, _CORE_SEGMENT):
        raise ImageError(
            f"grub's core describes {length} sectors at {segment:#x}, not {sectors - 1} at 0x820",
            code="boot_loader",
        )
    placed = bytearray(core)
    _BLOCK_LIST.pack_into(placed, _BLOCK_LIST_AT, core_at + 1, sectors - 1, segment)
    return bytes(placed)
