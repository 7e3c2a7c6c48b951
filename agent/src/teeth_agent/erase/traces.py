"""What an earlier system left in the machine's firmware: crash dumps, boot entries, boot loaders' variables.

Only what is known to be a system's own is removed. A variable that nobody here knows may be what the firmware
starts with: it is left alone and counted.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teeth_agent import efivars
from teeth_agent.efivars import GLOBAL, Variable
from teeth_agent.errors import AgentError

PSTORE = Path("/sys/fs/pstore")
# Linux: dumps of panics, <linux/efi.h>
_CRASH = "cfc8fc79-be2e-4ddc-97f0-9f98bfe298a0"
# systemd.io/BOOT_LOADER_INTERFACE
_SYSTEMD = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
# shim: requests to enrol keys; those that are enrolled cannot be seen at run time.
_SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"
_SHIM_REQUESTS = re.compile(r"Mok(?:New|Auth|Del|DelAuth|PW|PWStore|XNew|XAuth|XDel|XDelAuth)")
_ENTRY = re.compile(r"Boot([0-9A-F]{4})")
# UEFI 2.10, 10.3: media device path, hard drive.
_MEDIA, _HARD_DRIVE, _END = 0x04, 0x01, 0x7F
_NAMES_TOLD = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """``removed`` and ``failed`` are names, of files in pstore ("pstore/...") and of variables; ``left``
    counts variables that are not known to be a system's own."""

    removed: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    left: int

    def to_json(self) -> dict[str, Any]:
        return {
            "removed": list(self.removed[:_NAMES_TOLD]),
            "removed_count": len(self.removed),
            "failed": [{"name": name, "reason": reason} for name, reason in self.failed[:_NAMES_TOLD]],
            "left": self.left,
        }


def is_tenants(variable: Variable, content: Callable[[Variable], bytes]) -> bool:
    """Whether a variable is what an installed system left. ``content`` is asked for boot entries only."""
    if variable.guid in (_CRASH, _SYSTEMD):
        return True
    if variable.guid == _SHIM:
        return _SHIM_REQUESTS.fullmatch(variable.name) is not None
    if variable.guid != GLOBAL:
        return False
    return _ENTRY.fullmatch(variable.name) is not None and starts_from_disk(content(variable))


def starts_from_disk(option: bytes) -> bool:
    """Whether a load option (UEFI 2.10, 3.1.3) names a partition: an installed system's, not firmware's."""
    if len(option) < 8:
        return False
    length = struct.unpack_from("<H", option, 4)[0]
    at = 6
    while at + 2 <= len(option) and option[at : at + 2] != b"\0\0":
        at += 2
    path = option[at + 2 : at + 2 + length]
    at = 0
    while at + 4 <= len(path) and path[at] != _END:
        kind, subtype, size = struct.unpack_from("<BBH", path, at)
        if (kind, subtype) == (_MEDIA, _HARD_DRIVE):
            return True
        if size < 4:
            return False
        at += size
    return False


def without_entries(order: bytes, gone: Iterable[int]) -> bytes:
    """A BootOrder without these entries."""
    left = set(gone)
    numbers = [number for (number,) in struct.iter_unpack("<H", order[: len(order) // 2 * 2])]
    return b"".join(struct.pack("<H", number) for number in numbers if number not in left)


def remove_traces(
    *,
    mount_pstore: Callable[[Path], object],
    variables: Path = efivars.FOLDER,
    pstore: Path = PSTORE,
) -> Traces:
    """Remove them all; what cannot be removed is told, and stops nothing else. Never raises AgentError."""
    removed: list[str] = []
    failed: list[tuple[str, str]] = []
    _empty_pstore(pstore, mount_pstore, removed, failed)
    known = efivars.listing(variables)
    tenants = [one for one in known if _judge(one, variables)]
    gone = [
        one
        for one in tenants
        if _try(one.file, functools.partial(efivars.remove, one, variables), removed, failed)
    ]
    _mend_order(gone, variables, failed)
    return Traces(removed=tuple(removed), failed=tuple(failed), left=len(known) - len(tenants))


def _judge(variable: Variable, folder: Path) -> bool:
    try:
        return is_tenants(variable, lambda one: efivars.read(one, folder)[1])
    except AgentError:
        return False  # what cannot be read is not known to be a system's own


def _empty_pstore(
    folder: Path, mount: Callable[[Path], object], removed: list[str], failed: list[tuple[str, str]]
) -> None:
    if not folder.is_dir():
        return
    if not _try("pstore", lambda: mount(folder), None, failed):
        return
    for entry in sorted(folder.iterdir()):
        _try(f"pstore/{entry.name}", functools.partial(_unlink, entry), removed, failed)


def _unlink(entry: Path) -> None:
    try:
        entry.unlink()
    except OSError as error:
        raise AgentError(str(error.strerror), code="trace_left") from error


def _mend_order(gone: Sequence[Variable], folder: Path, failed: list[tuple[str, str]]) -> None:
    """Firmware that finds an entry in its order and not in its store may ask a person."""
    numbers = [
        int(found[1], 16) for one in gone if one.guid == GLOBAL and (found := _ENTRY.fullmatch(one.name))
    ]
    order = Variable(name="BootOrder", guid=GLOBAL)
    if not numbers or order not in efivars.listing(folder):
        return

    def mend() -> None:
        attributes, data = efivars.read(order, folder)
        left = without_entries(data, numbers)
        if left:
            efivars.write(order, attributes, left, folder)
        else:
            efivars.remove(order, folder)

    _try(order.file, mend, None, failed)


def _try(
    name: str, action: Callable[[], object], done: list[str] | None, failed: list[tuple[str, str]]
) -> bool:
    try:
        action()
    except AgentError as error:
        failed.append((name, str(error)))
        return False
    if done is not None:
        done.append(name)
    return True
