"""The firmware's own entry for a disk: ours of earlier times go, one is added, put first and read back.

A machine starts without it, by the removable path; so whatever fails here is said and changes nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teeth_agent import efivars
from teeth_agent.blockio import open_device
from teeth_agent.efivars import GLOBAL, Variable
from teeth_agent.errors import AgentError
from teeth_agent.image import disktable
from teeth_agent.tools import mtools
from teeth_image import efiload, gpt

TITLE = "teeth"
_ENTRY = re.compile(r"Boot([0-9A-F]{4})")
_ORDER = Variable(name="BootOrder", guid=GLOBAL)
# Non-volatile, at boot and at run time: UEFI 2.10, 8.2.
_ATTRIBUTES = 7
# What installed systems call their loaders, the one that starts under secure boot first.
_LOADERS = {
    "x86_64": ("shimx64.efi", "grubx64.efi", "systemd-bootx64.efi"),
    "aarch64": ("shimaa64.efi", "grubaa64.efi", "systemd-bootaa64.efi"),
}
_REMOVABLE = {"x86_64": "BOOTX64.EFI", "aarch64": "BOOTAA64.EFI"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """``name`` ("Boot0007"), or None with the ``reason`` why there is none; ``path``: the loader's."""

    name: str | None
    path: str
    reason: str


def put(disk: str, *, machine: str, folder: Path = efivars.FOLDER) -> Entry:
    """An entry for the loader in the EFI system partition of ``disk``. Raises nothing but DeviceError."""
    with open_device(disk, write=False) as device:
        table = disktable.read(device)
    target = _target(disk, table, machine)
    if target is None:
        return Entry(name=None, path="", reason="no boot loader in an EFI system partition")
    try:
        number = _write(target, folder)
    except AgentError as error:
        return Entry(name=None, path=target.path, reason=str(error))
    return Entry(name=f"Boot{number:04X}", path=target.path, reason="")


def _target(disk: str, table: gpt.Table, machine: str) -> efiload.Target | None:
    for one in table.partitions:
        if one.kind != gpt.EFI_SYSTEM:
            continue
        path = _loader(disk, table.offset(one), machine)
        if path is not None:
            return efiload.Target(
                number=one.number,
                first=one.first,
                blocks=one.last - one.first + 1,
                partition=one.unique,
                path=path,
            )
    return None


def _loader(disk: str, offset: int, machine: str) -> str | None:
    """The system's own loader, else the one on the removable path."""
    folders = mtools.names(disk, "EFI", offset=offset) or []
    for folder in sorted(folders, key=lambda name: (name.upper() != "TEETH", name)):
        if folder.upper() == "BOOT" or not re.fullmatch(r"[\w.+-]{1,64}", folder):
            continue
        present = {name.lower(): name for name in mtools.names(disk, f"EFI/{folder}", offset=offset) or []}
        for wanted in _LOADERS.get(machine, ()):
            if wanted in present:
                return f"EFI/{folder}/{present[wanted]}"
    removable = _REMOVABLE.get(machine, "BOOTX64.EFI")
    names = mtools.names(disk, "EFI/BOOT", offset=offset) or []
    return f"EFI/BOOT/{removable}" if removable in (name.upper() for name in names) else None


def _write(target: efiload.Target, folder: Path) -> int:
    """Its number. Raises AgentError(efi_variable)."""
    entries = dict(_entries(folder))
    old = {number for number, option in entries.items() if _is_ours(efiload.title_of(option))}
    free = next(number for number in range(0x10000) if number not in entries or number in old)
    option = efiload.build(TITLE, target)
    for number in sorted(old):
        efivars.remove(_variable(number), folder)
    efivars.write(_variable(free), _ATTRIBUTES, option, folder)
    before = efiload.read_order(efivars.read(_ORDER, folder)[1]) if _ORDER in efivars.listing(folder) else []
    order = efiload.build_order([free, *(one for one in before if one not in old and one != free)])
    efivars.write(_ORDER, _ATTRIBUTES, order, folder)
    for variable, wanted in ((_variable(free), option), (_ORDER, order)):
        if efivars.read(variable, folder)[1] != wanted:
            raise AgentError(
                f"EFI variable {variable.file} does not read back as written", code="efi_variable"
            )
    return free


def _entries(folder: Path) -> Iterator[tuple[int, bytes]]:
    for variable in efivars.listing(folder):
        match = _ENTRY.fullmatch(variable.name)
        if match is None or variable.guid != GLOBAL:
            continue
        try:
            yield int(match[1], 16), efivars.read(variable, folder)[1]
        except AgentError:
            yield int(match[1], 16), b""  # whatever it is, its number is taken


def _is_ours(title: str) -> bool:
    return title == TITLE or title.startswith(f"{TITLE} ")


def _variable(number: int) -> Variable:
    return Variable(name=f"Boot{number:04X}", guid=GLOBAL)
