"""Who dials, how it is let in, and what is said beside the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from teeth_protocol.shape import REQUIRED, SECRET, Forms, Items, Range, Text
from teeth_protocol.wire.words import BootId, Bytes, Id, Mac, Name, Names, Percent, Version

# A certificate or a request for one. For P-256 that is some 800 characters; a line before the handshake has
# 4 KiB.
Pem = Annotated[str, Text(most=3072)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedTask:
    """A task that the agent has: running, or ended and not acknowledged."""

    task_id: Annotated[str, Text(most=128)]
    method: Name | None = None
    state: Literal["running", "error", "complete"] | None = None
    percent: Percent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """Who dials. The seed's client says ``id`` and ``version`` alone.

    ``timings``: seconds since the kernel began. ``tasks`` None: it does not say which tasks it has.
    ``protocols`` None: v1, which is all that the seed knows. ``methods``: the task methods that it serves,
    None if it does not say.
    """

    id: Id
    version: Version = "unknown"
    boot_id: BootId | None = None
    ramdisk: Name | None = None
    macs: Annotated[tuple[Mac, ...], Items(most=32)] = ()
    tasks: Annotated[tuple[ListedTask, ...], Items(most=64)] | None = None
    timings: Annotated[Mapping[str, float], Items(most=64, name=64)] = field(default_factory=dict)
    protocols: Annotated[tuple[Name, ...], Items(most=16)] | None = None
    capabilities: Names = ()
    methods: Names | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTask:
    """What the endpoint knows of a task that the agent listed."""

    task_id: Id
    state: Name
    seq: Annotated[int, Range(least=0)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The handshake's answer. ``time`` since the epoch; ``capabilities``: what both sides know."""

    id: Name
    version: Version | None = None
    epoch: Annotated[int, Range(least=1)] | None = None
    time: float | None = None
    tasks: Annotated[tuple[KnownTask, ...], Items(most=64)] = ()
    protocol: Name = "v1"
    capabilities: Names = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollFirst:
    """A machine's first request of a boot. ``token``: the boot grant's. ``csr``: for a P-256 key."""

    id: Id
    boot_id: BootId
    token: Annotated[str, Text(most=128), SECRET] = field(repr=False)
    csr: Pem
    macs: Annotated[tuple[Mac, ...], Items(most=32)] = ()
    uuid: Annotated[str, Text(most=64)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollRenewal:
    """A new certificate for the node and boot of the session's own."""

    csr: Pem


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollTime:
    """Nothing but the time, for a machine whose clock is wrong."""

    only: Annotated[Literal["time"], REQUIRED] = "time"


Enroll = EnrollFirst | EnrollRenewal | EnrollTime
ENROLL: Forms[Enroll] = Forms(
    title="Enroll",
    text="A first request, a renewal or the time only.",
    cases=(("only", None, EnrollTime), ("token", None, EnrollFirst), ("id", None, EnrollFirst)),
    otherwise=EnrollRenewal,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """``certificate``: the leaf in PEM. Times since the epoch."""

    certificate: Pem
    not_after: float
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The endpoint's time, and nothing else."""

    time: float


ENROLLED: Forms[Enrolled | Clock] = Forms(
    title="EnrollAnswer",
    text="A certificate, or the time only.",
    cases=(("certificate", None, Enrolled),),
    otherwise=Clock,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """Any members; they come back as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """No members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One structured record, as our agent says it. ``dropped``: how many were lost before this one.

    The endpoint takes any object: the seed says no more of it than that it is structured.
    """

    level: Annotated[str, Text(most=16)]
    time: float
    event: Annotated[str, Text(least=0, most=1024)]
    monotonic: float | None = None
    logger: Annotated[str, Text(most=128)] | None = None
    fields: Mapping[str, Any] | None = None
    task_id: Id | None = None
    dropped: Annotated[int, Range(least=0)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of memory."""

    total: Bytes
    available: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockState:
    """``offset``: the endpoint's time less ours at the handshake, seconds. ``stepped``: it set ours."""

    offset: float | None = None
    stepped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An interface and the address that it has now."""

    name: Name
    mac: Annotated[str, Text(least=0, most=64)] | None = None
    address: Name | None = None
    carrier: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A problem that the machine's console showed."""

    code: Name
    msg: Annotated[str, Text(least=0, most=4096, cut=True)]
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Facts of this moment. ``uptime`` in seconds; ``sessions``: handshakes that were accepted."""

    uptime: Annotated[float, Range(least=0)]
    version: Version | None = None
    ramdisk: Name | None = None
    boot_id: BootId | None = None
    time: float | None = None
    memory: Memory | None = None
    tasks: Annotated[tuple[ListedTask, ...], Items(most=64)] = ()
    clock: ClockState | None = None
    network: Annotated[tuple[Address, ...], Items(most=256)] = ()
    problems: Annotated[tuple[Trouble, ...], Items(most=16)] = ()
    sessions: Annotated[int, Range(least=0)] | None = None
