"""The disk that is made around the files of one system: a BIOS boot partition, an ESP, the root, and room.

Numbers are fixed: the boot loader looks for its configuration on partition 3. Pure arithmetic.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from teeth_image import gpt
from teeth_image.errors import ImageError

ROOT_NUMBER = 3
# The type of a root partition that says nothing about an architecture: every tool knows it.
LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
_MIB = 1 << 20
# FAT32 needs 65,525 clusters: 256 MiB of them on blocks of 4096 bytes. The rest is for its tables.
ESP_BYTES = 300 * _MIB
_BIOS_BYTES = _MIB
# Behind the root: the largest config drive (64 MiB) and its alignment.
ROOM_BYTES = 66 * _MIB
# GPT needs this much for its entries, whatever the block size (UEFI 2.10, 5.3.1).
_ENTRIES_BYTES = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One partition to be made; blocks, ``last`` included."""

    number: int
    kind: uuid.UUID
    name: str
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """``block`` in bytes."""

    block: int
    bios: Slot
    esp: Slot
    root: Slot

    @property
    def slots(self) -> tuple[Slot, Slot, Slot]:
        return (self.bios, self.esp, self.root)

    def offset(self, slot: Slot) -> int:
        return slot.first * self.block

    def length(self, slot: Slot) -> int:
        return (slot.last - slot.first + 1) * self.block


def plan(*, size: int, block: int, need: int) -> Layout:
    """For a disk of ``size`` bytes in blocks of ``block`` bytes, with ``need`` bytes at least for the root.

    Raises ImageError(disk_too_small).
    """
    align = _MIB // block
    last_usable = size // block - 2 - _ENTRIES_BYTES // block
    bios = _slot(1, gpt.BIOS_BOOT, "bios", align, _BIOS_BYTES // block)
    esp = _slot(2, gpt.EFI_SYSTEM, "esp", bios.last + 1, ESP_BYTES // block)
    end = (last_usable + 1 - ROOM_BYTES // block) // align * align
    length = end - (esp.last + 1)
    if length * block < max(need, _MIB):
        raise ImageError(
            f"the disk has {max(0, length * block)} bytes for the root file system, it needs {need}",
            code="disk_too_small",
        )
    return Layout(
        block=block, bios=bios, esp=esp, root=_slot(ROOT_NUMBER, LINUX, "root", esp.last + 1, length)
    )


def _slot(number: int, kind: uuid.UUID, name: str, first: int, length: int) -> Slot:
    return Slot(number=number, kind=kind, name=name, first=first, last=first + length - 1)
