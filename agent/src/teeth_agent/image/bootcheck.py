"""Whether a disk can start by itself in this machine's firmware mode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.image import gpt
from teeth_agent.tools import mtools

# UEFI specification 2.10, 3.5.1.1: what firmware starts from a disk that it knows nothing about.
_REMOVABLE = {"x86_64": "BOOTX64.EFI", "aarch64": "BOOTAA64.EFI"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BootCheck:
    """``firmware`` is "uefi" or "bios"; ``reason`` says what was found or what is missing."""

    firmware: str
    bootable: bool
    reason: str


def firmware_mode(root: Path = Path("/")) -> str:
    return "uefi" if (root / "sys/firmware/efi").is_dir() else "bios"


def check(device: Device, table: gpt.Table, *, firmware: str, machine: str) -> BootCheck:
    """Raises DeviceError if the disk cannot be read."""
    bootable, reason = _uefi(device, table, machine) if firmware == "uefi" else _bios(device, table)
    return BootCheck(firmware=firmware, bootable=bootable, reason=reason)


def _uefi(device: Device, table: gpt.Table, machine: str) -> tuple[bool, str]:
    systems = [one for one in table.partitions if one.kind == gpt.EFI_SYSTEM]
    if not systems:
        return False, "no EFI system partition"
    loader = _REMOVABLE.get(machine, "BOOTX64.EFI")
    for one in systems:
        found = mtools.names(device.path, "EFI/BOOT", offset=table.offset(one)) or []
        if loader in (name.upper() for name in found):
            return True, f"partition {one.number} has EFI/BOOT/{loader}"
    return False, f"the EFI system partition has no EFI/BOOT/{loader}"


def _bios(device: Device, table: gpt.Table) -> tuple[bool, str]:
    head = aligned_buffer(max(512, device.logical_block))
    device.read_into(0, head)
    boot_sector = bytes(head[:512])
    if boot_sector[510:512] != b"\x55\xaa" or not any(boot_sector[:440]):
        return False, "no boot code in the first sector"
    if any(one.kind == gpt.BIOS_BOOT for one in table.partitions):
        return True, "boot code in the first sector and a BIOS boot partition"
    if gpt.active_mbr_partition(boot_sector):
        return True, "boot code in the first sector and an active partition"
    return False, "boot code in the first sector, but no BIOS boot partition and no active one"
