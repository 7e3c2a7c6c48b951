"""decom.qc and decom.firmware_secure: what a chassis must be, and what its firmware must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from teeth_protocol.shape import Items, Range, Text
from teeth_protocol.wire.machine import Said
from teeth_protocol.wire.standbye import Digest, Urls
from teeth_protocol.wire.words import Id, Name

Seconds = Annotated[float, Range(least=0, most=30 * 86400)]
Scalar = str | bool | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A fact of the inventory by its ``path`` (``memory.total``, ``disks[].size``) against ``value``.

    ``op`` within: the fact differs from ``value`` by at most ``tolerance``, a part of it (0.05 are 5 %).
    ``optional``: a fact that cannot be read does not fail.
    """

    path: Annotated[str, Text(most=256)]
    op: Literal["==", "!=", ">=", "<=", ">", "<", "in", "within"] = "=="
    value: Scalar | tuple[Scalar, ...]
    tolerance: Annotated[float, Range(least=0, most=1)] = 0.0
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the machine must say of its own health. ``clock_drift`` in ppm; None: not looked at."""

    smart: bool = True
    nvme: bool = True
    memory_errors: Annotated[int, Range(least=0)] | None = 0
    machine_checks: Annotated[int, Range(least=0)] | None = 0
    pcie_errors: Annotated[int, Range(least=0)] | None = 0
    link_flaps: Annotated[int, Range(least=0)] | None = 0
    temperature: Annotated[float, Range(least=-100, most=200)] | None = None
    clock_drift: Annotated[float, Range(least=0)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One load and its time limit."""

    kind: Literal["cpu", "memory", "disk_read", "network"]
    seconds: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityCheck:
    """Compare the chassis with ``spec``, look at its health, put it under load."""

    task_id: Id
    spec: Annotated[tuple[Condition, ...], Items(most=1024)]
    health: Health | None = None
    burn_in: Annotated[tuple[Load, ...], Items(most=16)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """``why`` it matters. ``found`` is null when it could not be read."""

    path: Said
    expected: Any
    found: Any
    why: Said


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The result. What was not run counts as not passed."""

    verdict: Literal["passed", "failed", "degraded"]
    mismatches: tuple[Mismatch, ...]
    not_run: tuple[Said, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """Which component is meant: all of what is given must match."""

    nvme_model: Name | None = None
    pci_id: Annotated[str, Text(pattern="[0-9a-f]{4}:[0-9a-f]{4}", words="vvvv:dddd")] | None = None
    dmi: Name | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareItem:
    """One component's firmware. ``version`` is what must be read back."""

    match: Component
    version: Name
    urls: Urls
    digest: Digest
    method: Literal["nvme", "scsi", "fwupd", "plugin"]
    reboot: Literal["none", "after", "between"] = "none"
    allow_downgrade: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareSecure:
    """Bring firmware and settings to what is wanted. Closed: a misspelt member must not write to a device.

    ``settings``: firmware attributes and their wanted values. ``plan``: say current -> wanted, touch nothing.
    """

    CLOSED: ClassVar[str] = "decom.firmware_secure has no such param"

    task_id: Id
    manifest: Annotated[tuple[FirmwareItem, ...], Items(most=256)] = ()
    settings: Annotated[Mapping[str, Scalar], Items(most=1024, name=256)] = field(default_factory=dict)
    known_bad: Annotated[tuple[Name, ...], Items(most=1024)] = ()
    plan: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareChange:
    """One component or setting: what it was, what was wanted, what was read back."""

    what: Said
    before: Any
    wanted: Any
    after: Any
    outcome: Literal["planned", "unchanged", "changed", "failed", "refused"]
    reason: Said = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareResult:
    """``facts``: secure boot, TPM, kernel lockdown, write protection, microcode, where they can be read."""

    changes: tuple[FirmwareChange, ...]
    facts: Mapping[str, Any]
    known_bad: tuple[Said, ...] = ()
