"""The disks of a described machine."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

from teeth.errors import UsageError
from teeth.lab.blocknodes import IoError, Op
from teeth.lab.disk import Bus, VirtualDisk
from teeth.lab.tables import Table, near

_DISKS_MAX = 64
_NAMESPACES = 32


def read_disks(
    table: Table, machine: str, folder: Path, find: Callable[[str], Path]
) -> tuple[list[VirtualDisk], dict[Path, int]]:
    """[[disk]] of one machine, and the files that are to be made for them in ``folder``."""
    disks: list[VirtualDisk] = []
    made: dict[Path, int] = {}
    entries = table.tables("disk")
    if len(entries) > _DISKS_MAX:
        table.mistake(f"more than {_DISKS_MAX} disks")
    for number, entry in enumerate(entries[:_DISKS_MAX]):
        disks += _disk(entry, f"{machine.upper()[:14]}-{number}", folder / f"disk{number}.raw", find, made)
    return disks, made


def _disk(
    table: Table, serial: str, own: Path, find: Callable[[str], Path], made: dict[Path, int]
) -> list[VirtualDisk]:
    before = len(table.mistakes)
    sector = table.number("sector", 512)
    common: dict[str, Any] = {
        "bus": table.one_of("bus", Bus, Bus.VIRTIO_BLK),
        "serial": table.text("serial", serial),
        "wwn": table.text("wwn"),
        "sector_size": sector,
        "rotational": table.switch("rotational", False),
        "read_only": table.switch("read_only", False),
        "boot": table.switch("boot", False),
        "hotplug": table.switch("hotplug", False),
        "errors": tuple(_errors(table)),
    }
    parts = _files(table, own, find, made, common["bus"])
    table.leftovers()
    if len(table.mistakes) > before:
        return []
    try:
        return [
            VirtualDisk(path=path, size=size, nsid=number, **common)
            for number, (path, size) in enumerate(parts, 1)
        ]
    except UsageError as error:
        table.mistake(error.message)
        return []


def _files(
    table: Table, own: Path, find: Callable[[str], Path], made: dict[Path, int], bus: Bus
) -> list[tuple[Path, int]]:
    """File and size of each namespace; one, for whatever is not NVMe."""
    sizes = table.sizes("namespaces")
    file, size = table.text("file"), table.size("size")
    if sizes:
        if bus is not Bus.NVME or file or size:
            table.mistake("namespaces are an NVMe disk's, in place of size and file")
        if len(sizes) > _NAMESPACES:
            table.mistake(f"more than {_NAMESPACES} namespaces")
        found = [(own.with_stem(f"{own.stem}n{number}"), one) for number, one in enumerate(sizes, 1)]
        made.update(found)
        return found
    if file:
        path = find(file)
        if path.is_file():
            return [(path, size or path.stat().st_size)]
        if size is None:
            table.mistake(f"file = {file!r}: there is no such file, and without a size none is made")
            return []
        made[path] = size
        return [(path, size)]
    if size is None:
        table.mistake('no size, such as "8 GiB"')
        return []
    made[own] = size
    return [(own, size)]


def _errors(table: Table) -> list[IoError]:
    found = []
    for entry in table.tables("errors"):
        error = read_error(
            entry, ops=entry.texts("ops"), sector=entry.number("sector", -1) if entry.has("sector") else None
        )
        entry.leftovers()
        if error is not None:
            found.append(error)
    return found


def read_error(table: Table, *, ops: list[str], sector: int | None) -> IoError | None:
    """One I/O error: ``errno`` by name, ``once``."""
    known = [op.value for op in Op]
    name, once = table.text("errno", "EIO"), table.switch("once", False)
    before = len(table.mistakes)
    for op in ops:
        if op not in known:
            table.mistake(f"ops: {op!r}: there is no such one{near(op, known)}")
    number = getattr(errno, name, None) if name.startswith("E") else None
    if not isinstance(number, int):
        table.mistake(f"errno = {name!r} is not the name of an error, such as EIO")
    if len(table.mistakes) > before or not isinstance(number, int):
        return None
    try:
        chosen = tuple(Op(op) for op in ops) or (Op.READ, Op.WRITE)
        return IoError(ops=chosen, sector=sector, number=number, once=once)
    except UsageError as error:
        table.mistake(error.message)
        return None
