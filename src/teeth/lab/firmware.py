"""Which firmware the host has for a machine, and a machine's own copy of its UEFI variables."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from teeth.errors import TeethError


class Firmware(Enum):
    """How the machine starts."""

    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True, slots=True, kw_only=True)
class UefiFiles:
    """OVMF's read-only code and a variable store: one flash pair of equal layout."""

    code: Path
    variables: Path


# The 4 MiB build is what distributions keep; each pair must come from one build, as the layouts differ.
UEFI_CANDIDATES = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
)
BIOS_CANDIDATES = ("/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin")
ROM_FOLDERS = ("/usr/lib/ipxe/qemu", "/usr/share/qemu", "/usr/share/ipxe/qemu")


def find_uefi(candidates: Sequence[tuple[str, str]] = UEFI_CANDIDATES) -> UefiFiles | None:
    """The first pair of which both files exist."""
    for code, variables in candidates:
        if Path(code).is_file() and Path(variables).is_file():
            return UefiFiles(code=Path(code), variables=Path(variables))
    return None


def find_bios(candidates: Sequence[str] = BIOS_CANDIDATES) -> Path | None:
    """SeaBIOS' image; QEMU finds it by itself, so this only tells a person that it is there."""
    return next((Path(name) for name in candidates if Path(name).is_file()), None)


def find_network_rom(model: str, folders: Sequence[str] = ROM_FOLDERS) -> Path | None:
    """The iPXE option ROM of a NIC model such as ``virtio-net-pci`` or ``e1000``."""
    name = "virtio" if model.startswith("virtio-net") else model
    for folder in folders:
        path = Path(folder) / f"efi-{name}.rom"
        if path.is_file():
            return path
    return None


def own_variables(files: UefiFiles, folder: Path) -> UefiFiles:
    """``files`` with a variable store of the machine's own in ``folder``, made at the first start.

    Boot entries that a system writes live there, so a later start of the same machine finds them.
    """
    variables = folder / "uefi-vars.fd"
    if not variables.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files.variables, variables)
    return UefiFiles(code=files.code, variables=variables)


def require_uefi(folder: Path) -> UefiFiles:
    """Flash files for one machine; TeethError when the host has no OVMF."""
    files = find_uefi()
    if files is None:
        raise TeethError("no UEFI firmware (OVMF) on this host", hint="run make setup")
    return own_variables(files, folder)
