"""This ramdisk's own boot loader on a disk that was laid out here: written, read back, compared."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.errors import AgentError, DeviceError, image_errors
from teeth_agent.tools import mkfs_vfat, mtools
from teeth_image import grub, rootlayout

FOLDER = Path("/usr/lib/teeth-boot")
# UEFI specification 2.10, 3.5.1.1, and our own beside it, which a system's own installer leaves alone.
LOADERS = ("EFI/BOOT/BOOTX64.EFI", "EFI/teeth/grubx64.efi")
_FOLDERS = ("EFI", "EFI/BOOT", "EFI/teeth")
_LABEL = "ESP"
_STEP = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """GRUB for both firmwares: boot sector and core, and the UEFI program."""

    boot: bytes
    core: bytes
    uefi: bytes


def programs(folder: Path) -> Programs:
    """Raises AgentError(boot_loader) when the ramdisk has none."""
    try:
        return Programs(
            boot=(folder / "boot.img").read_bytes(),
            core=(folder / "core.img").read_bytes(),
            uefi=(folder / "grubx64.efi").read_bytes(),
        )
    except OSError as error:
        raise AgentError(
            f"this ramdisk has no boot loader for root images: {error.strerror}", code="boot_loader"
        ) from error


def write_esp(device: Device, layout: rootlayout.Layout, programs: Programs, *, volume: int) -> None:
    """The ESP's file system with the loaders; ``volume`` is its number. Raises DeviceError, ToolError.

    Made in memory: only what it uses is written, and all of that is read back.
    """
    start, length = layout.offset(layout.esp), layout.length(layout.esp)
    descriptor = os.memfd_create("esp", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, length)
        path = f"/proc/{os.getpid()}/fd/{descriptor}"
        mkfs_vfat.make_fat32(path, label=_LABEL, sector=layout.block, volume=volume)
        mtools.make_folders(path, _FOLDERS)
        for name in LOADERS:
            mtools.write_file(path, name, programs.uefi)
        for first, last in _extents(descriptor, length):
            buffer = aligned_buffer(min(_STEP, last - first))
            for offset in range(first, last, _STEP):
                part = buffer[: min(_STEP, last - offset)]
                os.preadv(descriptor, [part], offset)
                _put(device, start + offset, part)
    finally:
        os.close(descriptor)


def write_core(device: Device, layout: rootlayout.Layout, programs: Programs) -> None:
    """The part of the BIOS loader that lies in its partition. Raises AgentError, DeviceError."""
    room = layout.length(layout.bios) // grub.SECTOR
    with image_errors():
        core = grub.place_core(programs.core, core_at=layout.offset(layout.bios) // grub.SECTOR, room=room)
    buffer = aligned_buffer(-(-len(core) // layout.block) * layout.block)
    buffer[: len(core)] = core
    _put(device, layout.offset(layout.bios), buffer)


def write_boot_sector(device: Device, layout: rootlayout.Layout, programs: Programs) -> None:
    """The last act on a disk: from here on a BIOS starts it. Raises AgentError, DeviceError."""
    buffer = aligned_buffer(layout.block)
    device.read_into(0, buffer)
    before = bytes(buffer[: grub.SECTOR])
    with image_errors():
        sector = grub.boot_sector(programs.boot, before, core_at=layout.offset(layout.bios) // grub.SECTOR)
    buffer[: grub.SECTOR] = sector
    _put(device, 0, buffer)


def _put(device: Device, offset: int, content: memoryview) -> None:
    """Write, flush, read back, compare."""
    device.write_from(offset, content)
    device.flush()
    back = aligned_buffer(len(content))
    device.read_into(offset, back)
    if bytearray(content) != back:
        raise DeviceError(
            f"{device.path}: the boot loader at byte {offset} does not read back as written",
            code="verify_failed",
        )


def _extents(descriptor: int, length: int) -> Iterator[tuple[int, int]]:
    """(first, end) of what is in the file, in whole pages."""
    end = 0
    while end < length:
        try:
            first = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(descriptor, first, os.SEEK_HOLE)
        yield first, end
