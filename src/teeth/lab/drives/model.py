"""What a simulated drive is: its identity and abilities, and what it remembers without power."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from teeth.errors import TeethError, UsageError

_WWN = re.compile(r"[0-9a-f]{16}")
_SECONDS = 2.0
_OVERWRITE_RATE = 64 << 20  # bytes a second that an overwrite reaches when no time is set


class Medium(Enum):
    SSD = "ssd"
    HDD = "hdd"


class Method(Enum):
    """Ways in which content is made to go; lies tell them apart."""

    SANITIZE_BLOCK = "sanitize_block"
    SANITIZE_CRYPTO = "sanitize_crypto"
    SANITIZE_OVERWRITE = "sanitize_overwrite"
    SECURITY_ERASE = "security_erase"
    SECURITY_ERASE_ENHANCED = "security_erase_enhanced"
    FORMAT = "format"
    FORMAT_CRYPTO = "format_crypto"
    DEALLOCATE = "deallocate"
    WRITE_SAME = "write_same"


SANITIZES = frozenset({Method.SANITIZE_BLOCK, Method.SANITIZE_CRYPTO, Method.SANITIZE_OVERWRITE})
SECURITY_ERASES = frozenset({Method.SECURITY_ERASE, Method.SECURITY_ERASE_ENHANCED})
FORMATS = frozenset({Method.FORMAT, Method.FORMAT_CRYPTO})
DEVICE_ERASES = SANITIZES | SECURITY_ERASES | FORMATS


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveSpec:
    """One drive. ``blocks`` counts native blocks of ``sector`` bytes; ``wwn`` is an NAA name, 16 hex digits.

    ``spares`` is how many retired blocks the medium holds behind the native ones: a block that was remapped
    keeps its old content there. ``erase_seconds`` overrides how long device-side erases take. ``hidden``
    blocks at the end lie in a host protected area from the factory (SATA; behind an accessible max address
    with ``hidden_by`` "ama"), ``overlaid`` ones behind those are taken by a device configuration overlay.
    ``sanitizes``: the methods it has; ``enhanced``: the security feature set has the enhanced erase too.
    Raises UsageError for what no drive can be.
    """

    name: str
    blocks: int
    serial: str
    wwn: str
    medium: Medium = Medium.SSD
    vendor: str = "TEETH"
    product: str = "LAB DRIVE"
    revision: str = "1.00"
    sector: int = 512
    physical: int = 0
    rpm: int = 7200
    sanitizes: frozenset[Method] = SANITIZES
    security: bool = True
    enhanced: bool = True
    frozen: bool = False
    unmap: bool = True
    write_cache: bool = True
    descriptor_sense: bool = False
    crypto_leaves: str = "noise"
    spares: int = 64
    hidden: int = 0
    hidden_by: str = "hpa"
    overlaid: int = 0
    erase_seconds: float | None = None
    password: str = ""
    master_password: str = ""

    def __post_init__(self) -> None:
        what = f"drive {self.name}"
        for label, text, limit in (
            ("serial", self.serial, 20),
            ("vendor", self.vendor, 8),
            ("product", self.product, 40),
            ("revision", self.revision, 8),
        ):
            if not text or len(text) > limit or not text.isascii() or not text.isprintable():
                raise UsageError(f"{what}: {label} {text!r} is not 1 to {limit} printable ASCII characters")
        if not _WWN.fullmatch(self.wwn):
            raise UsageError(f"{what}: wwn {self.wwn!r} is not 16 lower-case hex digits")
        self._check_sizes(what)
        self._check_choices(what)

    def _check_sizes(self, what: str) -> None:
        if self.sector not in (512, 4096):
            raise UsageError(f"{what}: sector {self.sector} is neither 512 nor 4096")
        if self.physical_size % self.sector or self.physical_size // self.sector not in (1, 2, 4, 8):
            raise UsageError(f"{what}: physical {self.physical} is not 1, 2, 4 or 8 sectors")
        if not 64 <= self.blocks < 1 << 48:
            raise UsageError(f"{what}: {self.blocks} blocks are not 64 to 2^48")
        if not 0 <= self.hidden < self.blocks:
            raise UsageError(f"{what}: {self.hidden} hidden blocks of {self.blocks}")
        if not 0 <= self.overlaid <= self.blocks - self.hidden - 1:
            raise UsageError(f"{what}: {self.overlaid} overlaid blocks of {self.blocks}")
        if not 0 <= self.spares <= 1 << 20:
            raise UsageError(f"{what}: {self.spares} spares are not 0 to 2^20")

    def _check_choices(self, what: str) -> None:
        if self.hidden_by not in ("hpa", "ama"):
            raise UsageError(f"{what}: hidden_by {self.hidden_by!r} is neither hpa nor ama")
        if self.crypto_leaves not in ("noise", "zeros"):
            raise UsageError(f"{what}: crypto_leaves {self.crypto_leaves!r} is neither noise nor zeros")
        if self.erase_seconds is not None and not 0 <= self.erase_seconds <= 864000:
            raise UsageError(f"{what}: erase_seconds {self.erase_seconds:g} is not 0 to 864000")
        if len(self.password.encode()) > 32 or len(self.master_password.encode()) > 32:
            raise UsageError(f"{what}: an ATA password has at most 32 bytes")

    @property
    def physical_size(self) -> int:
        return self.physical or self.sector

    @property
    def media_size(self) -> int:
        """Bytes of the backing medium: every native block and the retired ones."""
        return (self.blocks + self.spares) * self.sector

    @property
    def rotational(self) -> bool:
        return self.medium is Medium.HDD

    def seconds(self, method: Method, passes: int = 1) -> float:
        """How long a device-side erase takes."""
        if self.erase_seconds is not None:
            return self.erase_seconds * passes
        if method in (Method.SANITIZE_CRYPTO, Method.FORMAT_CRYPTO):
            return _SECONDS / 2
        writes = self.rotational or method is Method.SANITIZE_OVERWRITE
        return _SECONDS + (self.blocks * self.sector / _OVERWRITE_RATE * passes if writes else 0.0)


@dataclass(slots=True, kw_only=True)
class Sanitize:
    """The sanitize operation that ran last. ``state``: idle, running, done or failed. Kept without power
    (SBC-4 4.11, ACS-4 4.15, NVMe base 2.0 5.24). ``leaves`` overrides what a crypto erase leaves: zeros or
    noise."""

    state: str = "idle"
    method: str = ""
    done: float = 0.0
    pattern: str = "00"
    passes: int = 1
    invert: bool = False
    exit_allowed: bool = False
    leaves: str = ""


@dataclass(slots=True, kw_only=True)
class Security:
    """ATA security as it is kept without power (ACS-4 4.18). Passwords in hex, 32 bytes each."""

    user: str = ""
    master: str = ""
    master_id: int = 0xFFFE
    maximum: bool = False


@dataclass(slots=True, kw_only=True)
class Namespace:
    """An NVMe namespace. ``extents``: first block and end of each run on the medium, in blocks of 512 bytes.
    ``format``: good, running, failed, or incomplete when power cut it short."""

    nsid: int
    extents: list[list[int]]
    sector: int = 512
    attached: bool = True
    format: str = "good"
    # How often a namespace was made on this drive: what its names are made of.
    serial: int = 0


@dataclass(slots=True, kw_only=True)
class NvmeState:
    """What an NVMe drive remembers beyond other drives. ``sstat`` to ``passes``: the sanitize status log;
    ``clean``: no user data was written since the last sanitize that went well. ``slots``: the
    firmware revision in each, ``next`` the one that the next reset takes, 0 for no change."""

    namespaces: list[Namespace] = field(default_factory=list)
    made: int = 0
    sstat: int = 0
    scdw10: int = 0
    passes: int = 0
    clean: bool = False
    slots: list[str] = field(default_factory=list)
    active: int = 1
    next: int = 0


@dataclass(slots=True, kw_only=True)
class State:
    """What the drive remembers without power. JSON beside the backing file."""

    power_cycles: int = 0
    firmware: str = ""
    firmware_waiting: str = ""
    sanitize: Sanitize = field(default_factory=Sanitize)
    format: str = "good"
    security: Security = field(default_factory=Security)
    # Blocks that the user sees (HPA or accessible max address), and what DCO leaves of the native ones.
    accessible: int = 0
    configured: int = 0
    crypto_key: int = 0
    bad: list[int] = field(default_factory=list)
    remapped: dict[str, int] = field(default_factory=dict)
    smart: bool = True
    self_tests: list[list[int]] = field(default_factory=list)
    written: int = 0
    read: int = 0
    modes: dict[str, str] = field(default_factory=dict)
    registrations: dict[str, str] = field(default_factory=dict)
    reservation: list[str] = field(default_factory=list)
    generation: int = 0
    behaviours: list[str] = field(default_factory=list)
    nvme: NvmeState | None = None


def fresh_state(spec: DriveSpec) -> State:
    """As the drive leaves the factory."""
    security = Security(
        user=password(spec.password).hex() if spec.password else "",
        # ACS-4: the factory's master password is the maker's choice; most take spaces or zeros.
        master=password(spec.master_password).hex(),
    )
    configured = spec.blocks - spec.overlaid
    return State(
        firmware=spec.revision,
        accessible=configured - spec.hidden,
        configured=configured,
        security=security,
    )


def password(text: str) -> bytes:
    """A password field: 32 bytes, zeros behind the text, as hdparm sends it."""
    return text.encode().ljust(32, b"\0")


class StateStore:
    """Where the state lies: a JSON file written by replacing it, or, without a path, nowhere."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._last = ""

    def load(self, spec: DriveSpec) -> State:
        """The remembered state or a fresh one. Raises TeethError for a file that is not such a state."""
        if self._path is None or not self._path.exists():
            return fresh_state(spec)
        try:
            state = _from_json(json.loads(self._path.read_text()))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise TeethError(
                f"drive state {self._path} cannot be used: {error}", hint="remove it to start from new"
            ) from error
        if not 0 < state.accessible <= spec.blocks or not 0 < state.configured <= spec.blocks:
            raise TeethError(
                f"drive state {self._path} belongs to a drive of another size",
                hint="remove it and the backing file",
            )
        return state

    def save(self, state: State) -> None:
        if self._path is None:
            return
        text = json.dumps(dataclasses.asdict(state), indent=1)
        if text != self._last:
            fresh = self._path.with_name(self._path.name + ".new")
            fresh.write_text(text)
            fresh.replace(self._path)
            self._last = text


def _from_json(value: Mapping[str, Any]) -> State:
    known = {item.name for item in dataclasses.fields(State)}
    if extra := set(value) - known:
        raise ValueError(f"unknown key {min(extra)}")
    parts = dict(value)
    parts["sanitize"] = Sanitize(**parts["sanitize"])
    parts["security"] = Security(**parts["security"])
    if (nvme := parts.get("nvme")) is not None:
        made = [Namespace(**namespace) for namespace in nvme["namespaces"]]
        parts["nvme"] = NvmeState(**{**nvme, "namespaces": made})
    return State(**parts)
