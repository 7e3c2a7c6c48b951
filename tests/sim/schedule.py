"""What is asked and what goes wrong in one run: drawn from its seed before anything moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from sim.machine import DRIVES, ERASE, PREPARE, RUN

# Everything that can go wrong by a plan; some of it happens only if it meets something to happen to.
FAULTS = (
    "reset", "half_open", "stall", "late_bytes", "partition", "long_silence",
    "agent_kill", "agent_kill_before_journal", "agent_kill_after_journal", "reboot",
    "endpoint_kill", "endpoint_kill_before_commit", "endpoint_kill_after_commit",
    "agent_clock", "endpoint_clock", "disk_full", "disk_slow", "journal_full",
    "duplicate", "stolen_token", "stale_boot", "stranger",
)  # fmt: skip
# What happens on the way.
EVENTS = (
    "cancel", "settle", "landing", "no_landing", "leave_failed", "stuck_tool", "backlog", "hours",
    "held_node", "task_refused", "renewal",
)  # fmt: skip
KINDS = FAULTS + EVENTS
_WEIGHTS = {"long_silence": 0.15, "disk_slow": 0.5, "late_bytes": 0.7, "reset": 2.0, "agent_kill": 1.5}


@dataclass(frozen=True)
class Wanted:
    """A task that an operator asks for, and when; ``cancel``: so many seconds later, if at all."""

    task_id: str
    at: float
    method: str
    params: dict[str, Any]
    hold: float = 0.0
    cancel: float | None = None


@dataclass(frozen=True)
class Fault:
    at: float
    kind: str
    size: float


@dataclass
class Schedule:
    tasks: list[Wanted] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    heals_at: float = 70.0
    latency: float = 0.01
    ping_interval: float = 15.0
    pace: float = 1.0
    backlog: int = 1 << 20
    hours: float = 0.0
    lifetime: float = 86400.0
    settles: bool = False


def draw(rng: Random) -> Schedule:
    plan = Schedule(
        latency=rng.choice((0.002, 0.02, 0.3)), ping_interval=rng.choice((15.0, 30.0, 60.0)),
        pace=rng.choice((0.5, 2.0)), settles=rng.random() < 0.5,
    )  # fmt: skip
    if rng.random() < 0.02:
        return _hours(plan, rng)
    plan.tasks = [_task(number, rng) for number in range(rng.choice((1, 1, 1, 2, 2, 3)))]
    names = list(FAULTS)
    weights = [_WEIGHTS.get(name, 1.0) for name in names]
    for kind in rng.choices(names, weights, k=rng.choice((0, 1, 2, 2, 3, 3, 4))):
        at = rng.uniform(0.5, 45.0)
        plan.faults.append(Fault(at=at, kind=kind, size=rng.random()))
        if kind == "stale_boot":  # there has to be one
            plan.faults.append(Fault(at=at * rng.random(), kind="reboot", size=rng.random()))
    if any(fault.kind == "stall" for fault in plan.faults) and rng.random() < 0.5:
        plan.backlog = 150
    if rng.random() < 0.02:
        plan.lifetime = 60.0
    plan.faults.sort(key=lambda fault: fault.at)
    return plan


def _hours(plan: Schedule, rng: Random) -> Schedule:
    """One long erase and nothing wrong: its pings are answered at once all the time."""
    plan.hours = rng.uniform(2.0, 10.0) * 3600
    plan.latency, plan.ping_interval, plan.pace = 0.004, 300.0, 5.0
    plan.tasks = [Wanted("t0", 1.0, ERASE, {"seconds": plan.hours})]
    plan.heals_at = plan.hours + 60.0
    return plan


def _task(number: int, rng: Random) -> Wanted:
    seconds = round(rng.choice((1.0, 5.0, 15.0, 35.0)) * rng.uniform(0.5, 1.5), 3)
    method, params = _work(rng)
    if method != RUN:
        params["seconds"] = seconds
    at = round(rng.uniform(0.0, rng.choice((10.0, 25.0, 55.0))), 3)
    return Wanted(
        task_id=f"t{number}", at=at, method=method, params=params,
        hold=round(rng.uniform(1, 15), 3) if method == RUN and rng.random() < 0.3 else 0.0,
        cancel=round(rng.uniform(0.0, 20.0), 3) if rng.random() < 0.2 else None,
    )  # fmt: skip


def _work(rng: Random) -> tuple[str, dict[str, Any]]:
    share = rng.random()
    if share < 0.35:
        return ERASE, {"fails": rng.random() < 0.2}
    if share < 0.55:
        return ERASE, {"allow": [rng.choice(DRIVES)]}
    if share < 0.65:
        return ERASE, {"plan": True}
    if share < 0.8:
        return PREPARE, {"disk": rng.choice(DRIVES)}
    return RUN, {"stays": rng.random() < 0.25, "lands": rng.random() < 0.85}
