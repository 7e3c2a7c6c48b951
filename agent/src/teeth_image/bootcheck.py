"""Whether a disk can start by itself in a machine's firmware mode, by its table, boot sector and loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from teeth_image import gpt

# UEFI specification 2.10, 3.5.1.1: what firmware starts from a disk that it knows nothing about.
REMOVABLE = {"x86_64": "BOOTX64.EFI", "aarch64": "BOOTAA64.EFI"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BootCheck:
    """``firmware`` is "uefi" or "bios"; ``reason`` says what was found or what is missing."""

    firmware: str
    bootable: bool
    reason: str


def uefi(table: gpt.Table, loaders: Callable[[gpt.Partition], Iterable[str]], machine: str) -> BootCheck:
    """``loaders`` gives the names in EFI/BOOT of a partition's file system."""
    return _check("uefi", *_uefi(table, loaders, machine))


def bios(table: gpt.Table, boot_sector: bytes) -> BootCheck:
    """``boot_sector``: the disk's first 512 bytes."""
    return _check("bios", *_bios(table, boot_sector))


def _check(firmware: str, bootable: bool, reason: str) -> BootCheck:
    return BootCheck(firmware=firmware, bootable=bootable, reason=reason)


def _uefi(
    table: gpt.Table, loaders: Callable[[gpt.Partition], Iterable[str]], machine: str
) -> tuple[bool, str]:
    systems = [one for one in table.partitions if one.kind == gpt.EFI_SYSTEM]
    if not systems:
        return False, "no EFI system partition"
    loader = REMOVABLE.get(machine, "BOOTX64.EFI")
    for one in systems:
        if loader in (name.upper() for name in loaders(one)):
            return True, f"partition {one.number} has EFI/BOOT/{loader}"
    return False, f"the EFI system partition has no EFI/BOOT/{loader}"


def _bios(table: gpt.Table, boot_sector: bytes) -> tuple[bool, str]:
    if boot_sector[510:512] != b"\x55\xaa" or not any(boot_sector[:440]):
        return False, "no boot code in the first sector"
    if any(one.kind == gpt.BIOS_BOOT for one in table.partitions):
        return True, "boot code in the first sector and a BIOS boot partition"
    if gpt.active_mbr_partition(boot_sector):
        return True, "boot code in the first sector and an active partition"
    return False, "boot code in the first sector, but no BIOS boot partition and no active one"
