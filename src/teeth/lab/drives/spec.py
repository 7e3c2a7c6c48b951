"""A file that describes drives to be served, in TOML; every mistake in it is told in a line of its own."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teeth.errors import UsageError
from teeth.lab.drives.behaviours import make
from teeth.lab.drives.model import DriveSpec, Medium, Method
from teeth.lab.drives.nvme import NamespaceSpec, NvmeSpec

DRIVES_MAX = 64
PORT = 3260
NVME_PORT = 4420
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_SIZE = re.compile(r"(\d+) ?(B|KiB|MiB|GiB|TiB)")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SANITIZES = {
    "block": Method.SANITIZE_BLOCK,
    "crypto": Method.SANITIZE_CRYPTO,
    "overwrite": Method.SANITIZE_OVERWRITE,
}


class SpecError(UsageError):
    """The file has mistakes; ``lines`` tells one each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\nteeth: ".join(lines))
        self.lines = lines


KINDS = ("sata", "scsi", "nvme")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveEntry:
    """One [[drive]]: what it is, where it lies (None: in memory) and what is wrong with it from the start.

    ``fill``: it begins as new, full of the lab's mark, whenever it is served.
    """

    kind: str
    spec: DriveSpec
    file: Path | None
    behaviours: tuple[str, ...]
    fill: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSpec:
    """The whole file. Without ``user`` no initiator must prove itself.

    ``nvme_host``, ``nvme_port``: where NVMe drives are listened at; ``nvme_advertised``: the address that
    their discovery service says instead.
    """

    host: str
    port: int
    control: Path
    drives: tuple[DriveEntry, ...]
    user: str = ""
    secret: str = ""
    nvme_host: str = "127.0.0.1"
    nvme_port: int = 0
    nvme_advertised: str = ""


def load(path: Path) -> ServeSpec:
    """Read a file. SpecError tells every mistake; paths in it are relative to its folder."""
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    return parse(value, path)


def parse(value: Mapping[str, Any], path: Path) -> ServeSpec:
    """What the file says, checked; see load."""
    mistakes: list[str] = []
    top = _Table(value, str(path), mistakes)
    host, port = _listen(top, "listen", f"127.0.0.1:{PORT}")
    nvme = _listen(top, "nvme_listen", f"{f'[{host}]' if ':' in host else host}:{NVME_PORT if port else 0}")
    advertised = _advertised(top)
    control = path.parent / top.text("control", f"{path.stem}.control")
    user, secret = top.text("user", ""), top.text("secret", "")
    if bool(user) != bool(secret):
        top.mistake("user and secret go together")
    if secret and not 12 <= len(secret) <= 255:
        top.mistake("secret has 12 to 255 characters (RFC 7143 9.2.1)")
    entries = top.tables("drive")
    if not entries and not mistakes:
        top.mistake("there is no [[drive]]")
    if len(entries) > DRIVES_MAX:
        top.mistake(f"more than {DRIVES_MAX} drives")
    drives = [_drive(entry, path.parent, number) for number, entry in enumerate(entries[:DRIVES_MAX], 1)]
    top.leftovers()
    found = [drive for drive in drives if drive is not None]
    _twice(found, path, mistakes)
    if mistakes:
        raise SpecError(mistakes)
    return ServeSpec(
        host=host, port=port, control=control, drives=tuple(found), user=user, secret=secret,
        nvme_host=nvme[0], nvme_port=nvme[1], nvme_advertised=advertised,
    )  # fmt: skip


def _advertised(top: _Table) -> str:
    text = top.text("nvme_advertise", "")
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        top.mistake(f"nvme_advertise = {text!r} is not an address")
        return ""


def _listen(top: _Table, name: str, default: str) -> tuple[str, int]:
    text = top.text(name, default)
    host, _, port = text.rpartition(":")
    try:
        address = str(ipaddress.ip_address(host.strip("[]")))
        number = int(port)
        if not 0 <= number <= 65535:
            raise ValueError
    except ValueError:
        top.mistake(f"{name} = {text!r} is not ADDRESS:PORT")
        return "127.0.0.1", 0
    return address, number


def _twice(drives: list[DriveEntry], path: Path, mistakes: list[str]) -> None:
    names = [drive.spec.name for drive in drives]
    files = [str(drive.file) for drive in drives if drive.file]
    for what, values in (("name", names), ("file", files)):
        mistakes.extend(
            f"{path}: {what} {value} appears twice"
            for value in sorted({v for v in values if values.count(v) > 1})
        )


def _drive(table: _Table, folder: Path, number: int) -> DriveEntry | None:
    before = len(table.mistakes)
    kind = table.choice("kind", KINDS)
    name = table.text("name", "")
    if not _NAME.fullmatch(name):
        table.mistake(
            f"name {name!r} is not lower-case letters, digits, dots and hyphens" if name else "no name"
        )
    table.where = f"{table.where} {name}".rstrip()
    nvme = kind == "nvme"
    sector = 512 if nvme else table.number("sector", 512)
    blocks = _blocks(table, sector)
    parts = {
        "blocks": blocks,
        "name": name or f"drive{number}",
        "sector": sector,
        "medium": Medium.SSD if nvme else Medium(table.choice("medium", ("ssd", "hdd"), "ssd")),
        "serial": table.text("serial", f"TEETH{number:04d}"),
        "wwn": table.text("wwn", f"5000c5007ee7{number:04x}"),
        "sanitizes": _sanitizes(table),
        **_rest(table, kind),
    }
    if parts["medium"] is Medium.HDD and "unmap" not in parts:
        parts["unmap"] = False
    file = table.text("file", "")
    behaviours = _behaviours(table, kind)
    filled = table.switch("fill", False)
    if filled and not file:
        table.mistake("fill needs file: what is left is read there")
    table.leftovers()
    if len(table.mistakes) > before:
        return None
    try:
        spec = NvmeSpec(**parts) if nvme else DriveSpec(**parts)
    except UsageError as error:
        table.mistake(error.message.removeprefix(f"drive {name}: "))
        return None
    where = folder / file if file else None
    return DriveEntry(kind=kind, spec=spec, file=where, behaviours=behaviours, fill=filled)


def _blocks(table: _Table, sector: int) -> int:
    if not table.has("size"):
        table.mistake("no size")
        return 64
    text = table.text("size", "64 KiB")
    match = _SIZE.fullmatch(text)
    if not match:
        table.mistake(f"size {text!r} is not a number and B, KiB, MiB, GiB or TiB")
        return 64
    size = int(match[1]) * _UNITS[match[2]]
    if sector in (512, 4096) and size % sector:
        table.mistake(f"size {text} is not a whole number of {sector}-byte sectors")
    return size // max(sector, 1)


def _sanitizes(table: _Table) -> frozenset[Method]:
    names = table.texts("sanitize", list(_SANITIZES))
    for name in names:
        if name not in _SANITIZES:
            table.mistake(f"sanitize {name!r} is none of {', '.join(_SANITIZES)}")
    return frozenset(_SANITIZES[name] for name in names if name in _SANITIZES)


def _namespaces(table: _Table) -> tuple[NamespaceSpec, ...]:
    """`namespaces = [{ size = "8 MiB", sector = 4096, attached = false }, ...]`."""
    found = []
    for entry in table.tables("namespaces"):
        sector = entry.number("sector", 512)
        blocks = _blocks(entry, 512)
        found.append(NamespaceSpec(blocks=blocks, sector=sector, attached=entry.switch("attached", True)))
        entry.leftovers()
    return tuple(found)


_TEXTS = ("vendor", "product", "revision", "crypto_leaves")
_NUMBERS = ("spares",)
_SWITCHES = ("unmap", "write_cache")
# What only some kinds have: texts, numbers, switches.
_OF_KIND: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "scsi": ((), ("physical", "rpm"), ("descriptor_sense",)),
    "sata": (
        ("password", "master_password", "hidden_by"),
        ("physical", "rpm", "hidden", "overlaid"),
        ("descriptor_sense", "security", "enhanced", "frozen"),
    ),
    "nvme": (
        ("nqn", "no_deallocate"),
        ("slots",),
        ("format_all", "erase_all", "formats", "crypto_format", "manages", "first_slot_fixed"),
    ),
}


def _rest(table: _Table, kind: str) -> dict[str, Any]:
    """The settings that go to the drive as they are; those it has not are left to its defaults."""
    texts, numbers, switches = _OF_KIND[kind]
    getters: tuple[tuple[tuple[str, ...], Callable[[str, Any], Any], Any], ...] = (
        (_TEXTS + texts, table.text, ""),
        (_NUMBERS + numbers, table.number, 0),
        (_SWITCHES + switches, table.switch, False),
    )
    found = {name: get(name, default) for names, get, default in getters for name in names if table.has(name)}
    if table.has("erase_seconds"):
        found["erase_seconds"] = table.decimal("erase_seconds")
    if kind == "nvme" and table.has("namespaces"):
        found["namespaces"] = _namespaces(table)
    return found


def _behaviours(table: _Table, kind: str) -> tuple[str, ...]:
    names = (*table.texts("lies", []), *table.texts("faults", []))
    for name in names:
        try:
            if kind not in make(name).kinds:
                table.mistake(f"{name.partition(':')[0]} means nothing to a drive of kind {kind}")
        except UsageError as error:
            table.mistake(str(error))
    return names


class _Table:
    """A TOML table read key by key; what is wrong is noted, and what was never asked for is one too many."""

    def __init__(self, value: Mapping[str, Any], where: str, mistakes: list[str]) -> None:
        self._value = value
        self._asked: set[str] = set()
        self.where = where
        self.mistakes = mistakes

    def mistake(self, text: str) -> None:
        self.mistakes.append(f"{self.where}: {text}")

    def has(self, name: str) -> bool:
        self._asked.add(name)
        return name in self._value

    def _get(self, name: str, kind: type | tuple[type, ...], said: str, default: Any) -> Any:
        self._asked.add(name)
        value = self._value.get(name, default)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.mistake(f"{name} = {value!r} is not {said}")
            return default
        return value

    def text(self, name: str, default: str) -> str:
        return str(self._get(name, str, "a text in quotes", default))

    def number(self, name: str, default: int) -> int:
        return int(self._get(name, int, "a whole number", default))

    def decimal(self, name: str, default: float = 0.0) -> float:
        return float(self._get(name, (int, float), "a number", default))

    def switch(self, name: str, default: bool) -> bool:
        return bool(self._get(name, bool, "true or false", default))

    def choice(self, name: str, allowed: tuple[str, ...], default: str = "") -> str:
        value = self.text(name, default)
        if value not in allowed:
            self.mistake(f"{name} {value!r} is none of {', '.join(allowed)}" if value else f"no {name}")
            return allowed[0]
        return value

    def texts(self, name: str, default: list[str]) -> list[str]:
        value = self._get(name, list, "a list of texts", default)
        if not all(isinstance(item, str) for item in value):
            self.mistake(f"{name} is not a list of texts")
            return default
        return list(value)

    def tables(self, name: str) -> list[_Table]:
        value = self._get(name, list, f"written as [[{name}]]", [])
        return [
            _Table(item if isinstance(item, dict) else {}, f"{self.where}: {name} {number}", self.mistakes)
            for number, item in enumerate(value, 1)
        ]

    def leftovers(self) -> None:
        for name in sorted(set(self._value) - self._asked):
            self.mistake(f"there is no setting {name!r} here")
