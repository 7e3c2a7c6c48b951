"""A whole-disk image around a tree, assembled without mounting anything.

GPT with three partitions: room for grub's BIOS core, an EFI system partition, an ext4 root. The host's
kernel needs no driver for any of them: sgdisk, mtools and ``mke2fs -d`` write into the image file.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from teeth.build.dib import as_root
from teeth.build.disk_grub import GrubModules, bios_core, bios_embed, uefi_program
from teeth.proc import run

SECTOR = 512
BLOCK = 4096  # ext4's
_MIB = 1 << 20
_ALIGN = _MIB // SECTOR
_ESP_BYTES = 64 * _MIB  # FAT32, which UEFI asks for, needs 33 MiB and more
_JOURNAL_MIB = 16
_INODE_BYTES = 256
# Old grubs and kernels read all of the rest; these two came in 2023 and grub 2.06 refuses them.
_EXT4_FEATURES = "^metadata_csum_seed,^orphan_file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One GPT entry; ``first`` and ``sectors`` in sectors of 512 bytes, ``type`` as sgdisk's code."""

    number: int
    name: str
    type: str
    first: int
    sectors: int

    @property
    def offset(self) -> int:
        """Where it begins, in bytes."""
        return self.first * SECTOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The plan of a disk: sizes in bytes."""

    size: int
    bios: Partition
    esp: Partition
    root: Partition
    inodes: int

    @property
    def partitions(self) -> tuple[Partition, ...]:
        return (self.bios, self.esp, self.root)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a tree asks of its file system: data blocks of 4096 bytes and inodes."""

    blocks: int
    inodes: int


def plan_layout(content: Content, *, free: int) -> Layout:
    """The smallest disk, in whole MiB, whose root file system holds ``content`` and ``free`` bytes more."""
    inodes = content.inodes + content.inodes // 4 + 4096  # the deployed system makes files too
    data = content.blocks * BLOCK + inodes * _INODE_BYTES + _JOURNAL_MIB * _MIB + free
    # Directories' indexes, extent blocks, group descriptors and bitmaps: below 2 % in practice.
    root_sectors = math.ceil(data * 1.02 / _MIB) * _ALIGN
    bios = Partition(number=1, name="bios", type="ef02", first=_ALIGN, sectors=_ALIGN)
    esp = Partition(number=2, name="esp", type="ef00", first=2 * _ALIGN, sectors=_ESP_BYTES // SECTOR)
    root = Partition(number=3, name="root", type="8300", first=esp.first + esp.sectors, sectors=root_sectors)
    # One MiB more for the backup table.
    return Layout(
        size=(root.first + root.sectors + _ALIGN) * SECTOR, bios=bios, esp=esp, root=root, inodes=inodes
    )


def assemble_disk(
    tree: Path, disk: Path, *, layout: Layout, root_uuid: uuid.UUID, modules: GrubModules, work: Path
) -> None:
    """Write ``disk``, a sparse raw image that boots ``tree`` by BIOS and by UEFI.

    ``tree`` holds its own /boot/grub/grub.cfg; its files keep their owners, so root reads it. Everything
    that names the disk is derived from ``root_uuid``. ``work`` is a scratch folder.
    """
    work.mkdir(parents=True, exist_ok=True)
    disk.unlink(missing_ok=True)
    with disk.open("wb") as stream:
        stream.truncate(layout.size)
    run(partition_command(disk, layout, root_uuid))
    # Root first: mke2fs discards its range, the others only write.
    run([*as_root(), *ext4_command(tree, disk, layout, root_uuid)])
    _fill_esp(disk, layout.esp, uefi_program(modules, root_uuid, work), root_uuid)
    bios_embed(disk, layout.bios.first, layout.bios.sectors, bios_core(modules, root_uuid, work))
    # mke2fs writes empty inode tables out: punched, they cost neither space nor writing later.
    run(["fallocate", "--dig-holes", disk])


def partition_command(disk: Path, layout: Layout, root_uuid: uuid.UUID) -> Sequence[str]:
    """sgdisk's words for the whole table, with GUIDs that follow from ``root_uuid``."""
    words = ["sgdisk", "--clear", f"--disk-guid={uuid.uuid5(root_uuid, 'disk')}"]
    for part in layout.partitions:
        words += [
            f"--new={part.number}:{part.first}:{part.first + part.sectors - 1}",
            f"--typecode={part.number}:{part.type}",
            f"--change-name={part.number}:{part.name}",
            f"--partition-guid={part.number}:{uuid.uuid5(root_uuid, part.name)}",
        ]
    return [*words, f"{disk}"]


def ext4_command(tree: Path, disk: Path, layout: Layout, root_uuid: uuid.UUID) -> Sequence[str]:
    """mke2fs's words: the root file system, filled from ``tree``, written into its partition."""
    # Everything initialised now: a deployed machine has no background writing to do at its first boot.
    extended = f"offset={layout.root.offset},hash_seed={root_uuid},lazy_itable_init=0,lazy_journal_init=0"
    return [
        "mke2fs", "-q", "-F", "-t", "ext4", "-b", f"{BLOCK}", "-m", "0", "-L", "root",
        "-U", f"{root_uuid}", "-O", _EXT4_FEATURES, "-E", extended, "-J", f"size={_JOURNAL_MIB}",
        "-I", f"{_INODE_BYTES}", "-N", f"{layout.inodes}", "-d", f"{tree}", f"{disk}",
        f"{layout.root.sectors * SECTOR // BLOCK}",
    ]  # fmt: skip


def _fill_esp(disk: Path, esp: Partition, program: Path, root_uuid: uuid.UUID) -> None:
    """A FAT32 file system with the program at the path firmware tries by itself (UEFI 3.5.1.1)."""
    image = f"{disk}@@{esp.offset}"
    serial = f"{root_uuid.int & 0xFFFFFFFF:08x}"
    run(
        ["mformat", "-i", image, "-F", "-v", "ESP", "-N", serial, "-T", f"{esp.sectors}",
         "-H", f"{esp.first}", "-h", "255", "-s", "63", "-c", "1", "::"]
    )  # fmt: skip
    run(["mmd", "-i", image, "::/EFI", "::/EFI/BOOT"])
    run(["mcopy", "-i", image, program, "::/EFI/BOOT/BOOTX64.EFI"])
