"""Carrying a plan out: every unit in a thread of its own, each up its ladder until a rung proves itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from teeth_agent.blockio import Device
from teeth_agent.erase import canary, hidden
from teeth_agent.erase.kernellog import KernelLog
from teeth_agent.erase.methods import carry
from teeth_agent.erase.methods.carry import Tools
from teeth_agent.erase.model import Grade, Medium, Method, Outcome, Rung, Unit
from teeth_agent.erase.plan import ErasePlan, UnitPlan
from teeth_agent.erase.policy import Verification
from teeth_agent.erase.progress import Meter, UnitMeter
from teeth_agent.erase.protect import Action
from teeth_agent.erase.readback import expected_bytes, read_zeros
from teeth_agent.erase.record import Proof, UnitRecord, absent, untouched
from teeth_agent.errors import AgentError, Cancelled, DeviceError
from teeth_agent.reporter import Reporter

# More at once than any machine's bus can feed; the rest wait their turn.
_MAX_AT_ONCE = 64
_DRAIN_SECONDS = 1.0
# udev opens a device after every writer has closed it, to look at it anew; it is soon done.
_BUSY_TRIES = 25
_BUSY_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything that execution touches. ``look`` lists the machine's media as they are now."""

    tools: Tools
    look: Callable[[], tuple[Medium, ...]]
    settle: Callable[[], object]
    look_hidden: Callable[[Unit], hidden.Hidden] = hidden.look
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


def execute(plan: ErasePlan, world: World, log: KernelLog, reporter: Reporter) -> list[UnitRecord]:
    """One record for each unit of the plan and for everything missing, in the plan's order. Never raises."""
    wanted = [unit for unit in plan.units if unit.action is Action.ERASE]
    meter = Meter(reporter, [str(index) for index, _ in enumerate(wanted)], world.clock)
    runs = [
        _UnitRun(
            plan=unit,
            world=world,
            log=log,
            reporter=reporter,
            meter=meter.unit(str(index), unit.unit.key),
            sampled=plan.policy.verification is Verification.SAMPLED,
        )
        for index, unit in enumerate(wanted)
    ]
    with _draining(log), ThreadPoolExecutor(max_workers=min(max(len(runs), 1), _MAX_AT_ONCE)) as pool:
        done = dict(zip((id(unit) for unit in wanted), pool.map(_UnitRun.run, runs), strict=True))
    records = [done.get(id(unit)) or untouched(unit) for unit in plan.units]
    records += [
        absent(name, "disk_missing", "the command names it, the machine does not have it")
        for name in plan.missing
    ]
    if not plan.policy.expect_unaccounted:
        records += [
            absent(name, "unaccounted_controller", "a storage controller whose drives cannot be seen")
            for name in plan.unaccounted
        ]
    return records


@contextmanager
def _draining(log: KernelLog) -> Iterator[None]:
    """Keep reading the kernel's log meanwhile: its buffer is small, and what is overwritten is not proof."""
    done = threading.Event()

    def drain() -> None:
        while not done.wait(_DRAIN_SECONDS):
            log.drain()

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


_Answer = TypeVar("_Answer")


class _UnitRun:
    """One unit's way through its ladder, in one thread."""

    def __init__(
        self,
        *,
        plan: UnitPlan,
        world: World,
        log: KernelLog,
        reporter: Reporter,
        meter: UnitMeter,
        sampled: bool,
    ) -> None:
        self._plan = plan
        self._unit = plan.unit
        self._world = world
        self._log = log
        self._reporter = reporter
        self._meter = meter
        self._sampled = sampled
        self._attempts: list[dict[str, Any]] = []
        self._commands: list[str] = []
        self._proof = Proof()
        self._climbed: Rung | None = None
        self._expect(plan.rungs[0])

    def run(self) -> UnitRecord:
        """Never raises: whatever happens becomes this unit's record, so that the others go on."""
        started = self._world.clock()
        try:
            code, reason = self._climb()
            outcome = _success(self._climbed) if not code else Outcome.FAILED
        except Cancelled as error:
            code, reason, outcome = "cancelled", str(error), Outcome.INTERRUPTED
        except AgentError as error:
            code, reason, outcome = error.code, str(error), Outcome.FAILED
        except Exception as error:
            code, reason, outcome = "internal_error", f"{type(error).__name__}: {error}", Outcome.FAILED
        self._meter.finish()
        record = UnitRecord(
            unit=self._unit,
            name=self._unit.key,
            outcome=outcome,
            rung=self._climbed,
            grade=outcome.grade,
            code=code,
            reason=reason[:500],
            seconds=self._world.clock() - started,
            proof=self._proof,
            attempts=self._attempts,
            commands=self._commands,
            known_zero=outcome.grade is not None and not any(one.sampled for one in self._proof.readbacks),
        )
        level = "info" if outcome.grade else "error"
        self._reporter.log(
            level, "erase_unit", unit=record.name, outcome=outcome.value, code=code, reason=record.reason
        )
        return record

    def _climb(self) -> tuple[str, str]:
        """Try the rungs in turn; ("", "") when one proved itself, else why the last one did not."""
        code, reason = "no_method", "the plan holds no method"
        for index, rung in enumerate(self._plan.rungs):
            if index:
                self._expect(rung)
            self._climbed, self._proof = rung, Proof()
            try:
                self._climb_one(rung)
                self._look_around()
                missing = self._proof.missing(len(self._unit.extents))
            except Cancelled:
                raise
            except AgentError as error:
                self._look_around()
                missing = [(error.code, str(error))]
            self._meter.abandon()
            code, reason = missing[0] if missing else ("", "")
            self._attempts.append({"method": rung.name, "code": code, "reason": reason[:500]})
            if not missing:
                break
            self._reporter.log(
                "warning", "erase_rung_failed", unit=self._unit.key, method=rung.name, code=code
            )
        return code, reason

    def _climb_one(self, rung: Rung) -> None:
        """Canaries, the method, and E2 to E4 into the proof. Raises AgentError at the first failure."""
        proof = self._proof
        self._same_before()
        self._meter.step("canaries")
        planted = [self._plant(medium.devnode) for medium in self._media()]
        proof.canaries = sum(len(canaries.places) for canaries in planted)
        self._check_paths(planted)
        for method in rung.methods:
            self._meter.step(carry.step_name(method))
            self._world.settle()
            proof.device_status.update(self._patiently(lambda method=method: self._carry_out(method)))  # type: ignore[misc]
        proof.completed = True
        self._world.settle()
        self._meter.step("verify")
        proof.survived = 0
        for path in self._unit.media:
            self._patiently(lambda path=path: self._reread_partitions(path.devnode))  # type: ignore[misc]
        for medium, canaries in zip(self._media(), planted, strict=True):
            with self._world.tools.open(medium.devnode, write=False) as device:
                proof.survived += len(canaries.survivors(device))
                proof.readbacks.append(self._read_back(rung, device))

    def _carry_out(self, method: Method) -> Mapping[str, Any]:
        return carry.carry_out(method, self._unit, self._world.tools, self._advance, self._commands)

    def _read_back(self, rung: Rung, device: Device) -> Any:
        sampled = self._sampled and Method.OVERWRITE not in rung.methods
        return read_zeros(device, self._advance, sampled=sampled)

    def _look_around(self) -> None:
        """E1, E5 and E6, which concern the unit as a whole."""
        proof = self._proof
        now = {medium.name: medium for medium in self._world.look()}
        proof.changes = [
            change for medium in self._unit.media if (change := _change(medium, now.get(medium.name)))
        ]
        proof.identity = not proof.changes
        proof.stale_partitions = tuple(
            part for medium in self._unit.media if medium.name in now for part in now[medium.name].partitions
        )
        proof.hidden = self._world.look_hidden(self._unit)
        proof.kernel_log = self._log.window(self._unit)

    def _same_before(self) -> None:
        """The disk that was planned for is still the one of that name, and still free."""
        now = {medium.name: medium for medium in self._world.look()}
        for medium in self._unit.media:
            found = now.get(medium.name)
            change = _change(medium, found)
            if change:
                raise DeviceError(change, code="identity_changed")
            if found is not None and found.in_use:
                raise DeviceError("; ".join(found.in_use[:8]), code="in_use")

    def _media(self) -> list[Medium]:
        return [extent.medium for extent in self._unit.extents]

    def _plant(self, devnode: str) -> canary.Canaries:
        def plant() -> canary.Canaries:
            with self._world.tools.open(devnode, write=True) as device:
                return canary.plant(device)

        return self._patiently(plant)

    def _check_paths(self, planted: list[canary.Canaries]) -> None:
        """What was written by the first path must be there by the others: else it is not one medium."""
        for extent, canaries in zip(self._unit.extents, planted, strict=True):
            for path in extent.paths[1:]:
                with self._world.tools.open(path.devnode, write=False) as device:
                    if canaries.missing(device):
                        raise DeviceError(
                            f"{extent.medium.name} and {path.name} share a name but not their content",
                            code="paths_disagree",
                        )

    def _reread_partitions(self, devnode: str) -> None:
        with self._world.tools.open(devnode, write=True) as device:
            device.reread_partitions()

    def _patiently(self, action: Callable[[], _Answer]) -> _Answer:
        """Do it again while udev still looks at the device. Raises what the last try raised."""
        for _ in range(_BUSY_TRIES):
            try:
                return action()
            except DeviceError as error:
                if error.code != "device_busy":
                    raise
            self._reporter.check_cancelled()
            self._world.settle()
            self._world.pause(_BUSY_SECONDS)
        return action()

    def _expect(self, rung: Rung) -> None:
        sampled = self._sampled and Method.OVERWRITE not in rung.methods
        verify = sum(
            expected_bytes(medium.size, medium.logical_block, sampled=sampled) for medium in self._media()
        )
        self._meter.expect(sum(carry.work(method, self._unit) for method in rung.methods) + verify)

    def _advance(self, amount: int) -> None:
        self._reporter.check_cancelled()
        self._meter.advance(amount)


def _success(rung: Rung | None) -> Outcome:
    assert rung is not None
    return Outcome.PURGED if rung.grade is Grade.PURGE else Outcome.CLEARED


def _change(before: Medium, now: Medium | None) -> str:
    """What differs from before in what must not, "" if nothing does (E1)."""
    if now is None:
        return f"{before.name} is gone"
    if before.same_as(now):
        return ""
    return f"{before.name} is not the same as before: {before.fingerprint} became {now.fingerprint}"
