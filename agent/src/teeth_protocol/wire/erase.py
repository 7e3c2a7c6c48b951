"""decom.disk_erase: what is asked, and what comes home of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from teeth_protocol.shape import Forms, Items, Range, Text
from teeth_protocol.wire.machine import Said
from teeth_protocol.wire.words import Bytes, Grade, Id, Name

# Serial numbers or WWNs: far more than a machine has disks, each longer than any is.
DiskName = Annotated[str, Text(most=256, words="a serial number or WWN")]
DiskNames = Annotated[
    tuple[DiskName, ...], Items(most=4096, words="a list of at most 4096 serial numbers or WWNs")
]
Verification = Literal["full", "sampled", "overwrite"]
PlanDigest = Annotated[str, Text(pattern="sha256:[0-9a-f]{64}", words="sha256: and 64 hex digits")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludeRule:
    """Drives to leave alone, by all the properties it gives. ``at_most``: in bytes. ``rule``: its name in the
    record of every drive that it covers."""

    CLOSED: ClassVar[str] = "an exclude rule has no such member"

    rule: Id
    model: Annotated[str, Text(most=256, words="a model, as the drive gives it")] | None = None
    transport: Name | None = None
    at_most: Bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskErase:
    """Erase all disks. Closed: a misspelt ``exclude`` must not erase.

    ``allow``: when not empty, nothing else is erased, and shared transports named here may be.
    ``expected_serials``: when not None, exactly these must be there. ``expect_no_disk``: no disk is a
    success. ``expect_unaccounted``: controllers whose drives cannot be seen are known of. ``plan``: say what
    would be done, touch nothing. ``plan_digest``: refuse when the plan made now has another one.
    ``fallback``: climb the next rung when one does not prove itself. ``fence``: a drive whose sanitize failed
    stays unreadable. ``time_limit``: seconds that one operation of a drive may take.
    ``firmware_traces``: remove crash dumps, boot entries and loaders' variables of earlier systems, too.
    """

    CLOSED: ClassVar[str] = "decom.disk_erase has no such param"

    task_id: Id
    plan: bool = False
    plan_digest: PlanDigest | None = None
    required_grade: Grade = "clear"
    allow: DiskNames = ()
    exclude: DiskNames = ()
    exclude_rules: Annotated[tuple[ExcludeRule, ...], Items(most=64, words="a list of at most 64 rules")] = ()
    expected_serials: DiskNames | None = None
    removable: Literal["block", "erase", "exclude"] = "block"
    verification: Verification = "full"
    fallback: bool = True
    fence: bool = False
    time_limit: Annotated[int, Range(least=60, most=2592000)] = 259200
    firmware_traces: bool = False
    expect_no_disk: bool = False
    expect_unaccounted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfScope:
    """A block device that is not a drive of the machine."""

    name: Name
    reason: Said


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDevice:
    """One path to a unit. ``seq``: the kernel's count, which no re-plugged device keeps."""

    name: Name
    size: Bytes
    namespace: int | None
    seq: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMethod:
    """One rung of the ladder."""

    method: Name
    grade: Grade


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """One rung that is not climbed, and why."""

    method: Name
    reason: Said


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedUnit:
    """What would be done with one unit, and why. ``seconds``: how long, None when nobody knows; ``noted``:
    what is erased all the same."""

    serial: Said | None
    wwn: Said | None
    model: Said | None
    transport: Name | None
    size: Bytes | None
    devices: tuple[PlannedDevice, ...]
    action: Name
    methods: tuple[PlannedMethod, ...]
    code: Annotated[str, Text(least=0, most=64)]
    reason: Said
    kind: Name = "unknown"
    passed_over: tuple[PassedOver, ...] = ()
    noted: tuple[Said, ...] = ()
    seconds: Annotated[int, Range(least=0)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A device (md, device mapper, bcache) that is taken apart. ``label``: device mapper's name."""

    name: Name
    label: Said | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotStopped:
    """An assembled device that was to be taken apart and is still there, and why."""

    name: Name
    reason: Said


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``missing``: named to be erased and not here; ``unspared``: named to be left alone and not here.
    ``stops``: what is taken apart first, in this order; the units are as they will be then.
    """

    units: tuple[PlannedUnit, ...]
    missing: tuple[Said, ...]
    unspared: tuple[Said, ...]
    unaccounted: tuple[Said, ...]
    out_of_scope: tuple[OutOfScope, ...]
    required_grade: Grade
    verification: Verification
    digest: PlanDigest
    fallback: bool = True
    stops: tuple[Stopped, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """How one unit ended, and the proof. ``seconds``: how long it took. ``recovered``: what an erase that was
    cut short had left on it; ``noted``: what was erased all the same."""

    serial: Said | None
    wwn: Said | None
    model: Said | None
    transport: Name | None
    size: Bytes | None
    devices: tuple[Name, ...]
    outcome: Literal["purged", "cleared", "failed", "fenced", "locked", "excluded", "interrupted"]
    method: Name | None
    grade: Grade | None
    code: Annotated[str, Text(least=0, most=64)]
    reason: Said
    seconds: Annotated[float, Range(least=0)]
    proof: Mapping[str, Any] | None
    attempts: tuple[Mapping[str, Any], ...]
    commands: tuple[str, ...]
    recovered: tuple[Mapping[str, Any], ...] = ()
    noted: tuple[Said, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """The task's result, or the detail of its failure. ``complete``: every unit meets ``required_grade``.
    ``stopped``: what was assembled on disks and taken apart first; ``not_stopped``: what did not let itself.
    """

    units: tuple[UnitRecord, ...]
    out_of_scope: tuple[OutOfScope, ...]
    required_grade: Grade
    plan_digest: PlanDigest
    complete: bool
    stopped: tuple[Stopped, ...] = ()
    not_stopped: tuple[NotStopped, ...] = ()
    firmware_traces: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The result of a plan."""

    plan: Plan


ERASE_RESULT: Forms[Erased | Planned] = Forms(
    title="DiskEraseResult", text="Records, or a plan.", cases=(("plan", None, Planned),), otherwise=Erased
)
