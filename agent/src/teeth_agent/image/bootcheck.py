"""Whether a disk can start by itself in this machine's firmware mode."""

from __future__ import annotations

from pathlib import Path

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.tools import mtools
from teeth_image import bootcheck, gpt
from teeth_image.bootcheck import BootCheck


def firmware_mode(root: Path = Path("/")) -> str:
    return "uefi" if (root / "sys/firmware/efi").is_dir() else "bios"


def check(device: Device, table: gpt.Table, *, firmware: str, machine: str) -> BootCheck:
    """Raises DeviceError if the disk cannot be read."""
    if firmware == "uefi":
        return bootcheck.uefi(
            table,
            lambda one: mtools.names(device.path, "EFI/BOOT", offset=table.offset(one)) or (),
            machine,
        )
    head = aligned_buffer(max(512, device.logical_block))
    device.read_into(0, head)
    return bootcheck.bios(table, bytes(head[:512]))
