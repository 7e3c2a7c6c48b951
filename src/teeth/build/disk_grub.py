"""grub for a disk image: its two programs, its configuration, and its place in front of the partitions.

grub-bios-setup wants a block device, hence a loop device that a killed build would leave behind. What it
does for a GPT disk is little, so it is done here on the image file: see ``bios_embed``.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from teeth.errors import TeethError
from teeth.proc import run
from teeth_image import grub
from teeth_image.errors import ImageError

_COMMON = (
    "part_gpt ext2 search search_fs_uuid normal configfile linux echo test minicmd reboot halt ls cat gzio"
)
_BIOS = f"biosdisk {_COMMON}"
_UEFI = f"fat all_video {_COMMON}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrubModules:
    """The host's grub: its module folders of both platforms."""

    bios: Path
    uefi: Path


def find_grub(root: Path = Path("/usr/lib/grub")) -> GrubModules:
    """The modules as the distributions' packages install them. Raises TeethError naming what is missing."""
    modules = GrubModules(bios=root / "i386-pc", uefi=root / "x86_64-efi")
    for needed in (modules.bios / "boot.img", modules.bios / "kernel.img", modules.uefi / "kernel.img"):
        if not needed.is_file():
            raise TeethError(f"grub's {needed} is missing", hint="run make setup")
    return modules


def grub_config(*, root_uuid: uuid.UUID, kernel: str, initrd: str, arguments: str, title: str) -> str:
    """grub.cfg with one entry. ``kernel`` and ``initrd`` are absolute paths inside the root file system."""
    return (
        "set default=0\n"
        "set timeout=0\n"
        f"menuentry '{title}' --class gnu-linux {{\n"
        f"\tsearch --no-floppy --fs-uuid --set=root {root_uuid}\n"
        f"\tlinux {kernel} root=UUID={root_uuid} ro {arguments}\n"
        f"\tinitrd {initrd}\n"
        "}\n"
    )


def bios_core(modules: GrubModules, root_uuid: uuid.UUID, work: Path) -> tuple[bytes, bytes]:
    """(boot sector, core) for the i386-pc platform."""
    core = _program("i386-pc", modules.bios, _BIOS, root_uuid, work / "core.img")
    return (modules.bios / "boot.img").read_bytes(), core.read_bytes()


def uefi_program(modules: GrubModules, root_uuid: uuid.UUID, work: Path) -> Path:
    """The x86_64-efi program, which needs no other file of grub's."""
    return _program("x86_64-efi", modules.uefi, _UEFI, root_uuid, work / "bootx64.efi")


def _program(platform: str, folder: Path, modules: str, root_uuid: uuid.UUID, output: Path) -> Path:
    """The first words of grub: find the root file system by its UUID, then read its grub.cfg."""
    early = output.with_suffix(".cfg")
    early.write_text(f"search.fs_uuid {root_uuid} root\nset prefix=($root)/boot/grub\n")
    run(
        ["grub-mkimage", "-O", platform, "-d", folder, "-c", early, "-p", "/boot/grub", "-o", output,
         *modules.split()]
    )  # fmt: skip
    return output


def bios_embed(disk: Path, first: int, sectors: int, programs: tuple[bytes, bytes]) -> None:
    """Put ``programs`` (boot sector, core) on ``disk``: the core into the BIOS boot partition which has
    ``sectors`` from ``first`` on, the boot sector around the protective MBR that is there.

    Raises TeethError when the core does not fit or is not what this grub's format says.
    """
    boot, core = programs
    try:
        placed = grub.place_core(core, core_at=first, room=sectors)
        with disk.open("r+b") as stream:
            before = stream.read(grub.SECTOR)
            stream.seek(0)
            stream.write(grub.boot_sector(boot, before, core_at=first))
            stream.seek(first * grub.SECTOR)
            stream.write(placed)
    except ImageError as error:
        raise TeethError(str(error)) from error
