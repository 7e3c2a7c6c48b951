"""One unit's way through its ladder, in one thread, until a rung proves itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from teeth_agent.erase import canary
from teeth_agent.erase.expect import Prints, ReadProof, read_back, take_prints
from teeth_agent.erase.kernellog import KernelLog, Mark
from teeth_agent.erase.leftovers import Rescue
from teeth_agent.erase.methods import DeviceErase
from teeth_agent.erase.model import SANITIZES, Grade, Leaves, Medium, Method, Outcome, Rung, Unit
from teeth_agent.erase.overwrite import Overwritten, overwrite
from teeth_agent.erase.plan import UnitPlan
from teeth_agent.erase.policy import Policy, Verification
from teeth_agent.erase.polling import Around, Told, wait_for_end
from teeth_agent.erase.progress import UnitMeter
from teeth_agent.erase.pulse import Ending, Pulse
from teeth_agent.erase.reach import refreshed
from teeth_agent.erase.readback import expected_bytes
from teeth_agent.erase.record import Proof, UnitRecord
from teeth_agent.erase.world import World
from teeth_agent.errors import AgentError, Cancelled, DeviceError
from teeth_agent.reporter import Reporter

# udev opens a device after every writer has closed it, to look at it anew; it is soon done.
_BUSY_TRIES = 25
_BUSY_SECONDS = 0.2

_Answer = TypeVar("_Answer")


class UnitRun:
    """``gone`` says why the unit must be left alone now ("" if not): it was unplugged or replaced."""

    def __init__(
        self,
        *,
        plan: UnitPlan,
        policy: Policy,
        world: World,
        log: KernelLog,
        reporter: Reporter,
        meter: UnitMeter,
        gone: Callable[[Unit], str],
    ) -> None:
        self.pulse = Pulse()
        self._plan = plan
        self._unit = plan.unit
        self._policy = policy
        self._world = world
        self._log = log
        self._reporter = reporter
        self._meter = meter
        self._gone = gone
        self._attempts: list[dict[str, Any]] = []
        self._commands: list[str] = []
        self._recovered: list[dict[str, Any]] = []
        self._proof = Proof()
        self._rung: Rung | None = None
        self._fenced = False
        self._started = world.clock()
        self._expect(plan.rungs[0])

    @property
    def unit(self) -> Unit:
        return self._unit

    def run(self) -> UnitRecord:
        """Never raises: whatever happens becomes this unit's record, so that the others go on."""
        self._started = self._world.clock()
        try:
            self._make_ready()
            code, reason = self._climb()
            outcome = _success(self._rung) if not code else Outcome.FAILED
        except Cancelled as error:
            code, reason, outcome = "cancelled", str(error), Outcome.INTERRUPTED
        except Ending as error:
            code, reason, outcome = error.code, str(error), error.outcome
        except AgentError as error:
            code, reason, outcome = error.code, str(error), Outcome.FAILED
        except Exception as error:
            code, reason, outcome = "internal_error", f"{type(error).__name__}: {error}", Outcome.FAILED
        if outcome is Outcome.FAILED and self._fenced:
            outcome = Outcome.FENCED
        self._meter.finish()
        return self._record(outcome, code, reason)

    def given_up(self, reason: str) -> UnitRecord:
        """The record of a run that does not come back. Called by who waits for it, while it still hangs."""
        self.pulse.given_up = True
        self._meter.finish()
        return self._record(Outcome.FAILED, "drive_hangs", reason)

    def _record(self, outcome: Outcome, code: str, reason: str) -> UnitRecord:
        sampled = any(one.sampled for one in self._proof.readbacks)
        zero = bool(self._proof.readbacks) and all(one.zero for one in self._proof.readbacks)
        record = UnitRecord(
            unit=self._unit,
            name=self._unit.key,
            outcome=outcome,
            rung=self._rung,
            grade=outcome.grade,
            code=code,
            reason=reason[:500],
            seconds=self._world.clock() - self._started,
            proof=self._proof,
            attempts=list(self._attempts),
            commands=list(self._commands),
            recovered=list(self._recovered),
            noted=self._plan.noted,
            known_zero=outcome.grade is not None and zero and not sampled,
        )
        level = "info" if outcome.grade else "critical" if code == "drive_left_locked" else "error"
        self._reporter.log(
            level, "erase_unit", unit=record.name, outcome=outcome.value, code=code, reason=record.reason
        )
        return record

    # --- the ladder

    def _climb(self) -> tuple[str, str]:
        """Try the rungs in turn; ("", "") when one proved itself, else why the last one did not."""
        code, reason = "no_method", "the plan holds no method"
        for index, rung in enumerate(self._plan.rungs):
            if index:
                self._expect(rung)
                self._recover()
            self._rung, self._proof = rung, Proof()
            since = self._log.mark()
            try:
                self._climb_one(rung)
                self._look_around(rung, since)
                missing = self._proof.missing(len(self._unit.extents))
            except (Cancelled, Ending):
                raise
            except AgentError as error:
                self._look_around(rung, since)
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
        """Canaries, the methods, and E2 to E4 into the proof. Raises AgentError at the first failure."""
        proof = self._proof
        self._fenced = False
        self._same_before()
        proof.before = self._world.examine(self._unit, self._world.ports)
        self._step("canaries")
        prints = self._take_prints(rung)
        planted = [self._plant(medium.devnode) for medium in self._media()]
        proof.canaries = sum(len(canaries.places) for canaries in planted)
        self._check_paths(planted)
        by_device = [method for method in rung.methods if method.by_device]
        for method in by_device:
            self._by_device(method)
        proof.completed = bool(by_device)
        if by_device and not self._check_erased(by_device[-1].leaves, planted, prints):
            return  # what the drive did alone must prove itself: an overwrite on top would only hide it
        if Method.OVERWRITE in rung.methods:
            proof.completed = False
            self._check_overwritten(self._overwrite(), planted)
            proof.completed = True

    # --- before

    def _recover(self) -> None:
        """Bring the unit out of what an erase has left that failed or was cut short."""
        self._step("recover")
        rescue = Rescue(
            ports=self._world.ports,
            sanitizes=[one for rung in self._plan.rungs for one in rung.methods if one in SANITIZES],
            around=self._around(0),
            tries=self._world.tries,
            commands=self._commands,
        )
        try:
            found = self._world.recover(self._unit, rescue)
        except DeviceError as error:
            if error.code == "locked":
                raise Ending(str(error), code="locked", outcome=Outcome.LOCKED) from error
            if error.code == "fenced":
                raise Ending(str(error), code="fenced", outcome=Outcome.FENCED) from error
            raise
        self._note(found)

    def _make_ready(self) -> None:
        """What an erase has left seen to, and all of the unit reachable: it may be larger afterwards."""
        before = len(self._recovered)
        self._recover()
        opened = self._world.open_up(self._unit, self._world.ports, self._commands)
        self._note([{"found": phrase} for phrase in opened])
        if opened or any(not medium.size for medium in self._unit.media):
            for medium in self._media():
                self._world.rescan(medium)
            self._world.settle()
        if len(self._recovered) > before:
            self._unit = refreshed(self._unit, self._world.look())
            if not all(medium.size for medium in self._unit.media):
                raise DeviceError("the drive gives no capacity", code="unreadable")
            self._meter.abandon()
            self._expect(self._plan.rungs[0])

    def _note(self, found: list[dict[str, Any]]) -> None:
        self._recovered += found
        for one in found:
            self._reporter.log("warning", "erase_leftover", unit=self._unit.key, found=one["found"])

    def _same_before(self) -> None:
        """The disk that was planned for is still the one of that name, and still free."""
        now = {medium.name: medium for medium in self._world.look()}
        for medium in self._unit.media:
            found = now.get(medium.name)
            change = change_of(medium, found)
            if change:
                raise DeviceError(change, code="identity_changed")
            if found is not None and found.in_use:
                raise DeviceError("; ".join(found.in_use[:8]), code="in_use")

    def _take_prints(self, rung: Rung) -> list[Prints]:
        """Only where something else than one value may be read afterwards: that is told apart by them."""
        if rung.leaves is not Leaves.CHANGED and all(
            method.leaves is not Leaves.CHANGED for method in rung.methods
        ):
            return []
        prints = []
        for medium in self._media():
            with self._world.open(medium.devnode, write=False) as device:
                prints.append(take_prints(device))
            self.pulse.beat()
        return prints

    def _plant(self, devnode: str) -> canary.Canaries:
        def plant() -> canary.Canaries:
            with self._world.open(devnode, write=True) as device:
                return canary.plant(device)

        return self._patiently(plant)

    def _check_paths(self, planted: list[canary.Canaries]) -> None:
        """What was written by the first path must be there by the others: else it is not one medium."""
        for extent, canaries in zip(self._unit.extents, planted, strict=True):
            for path in extent.paths[1:]:
                with self._world.open(path.devnode, write=False) as device:
                    if canaries.missing(device):
                        raise DeviceError(
                            f"{extent.medium.name} and {path.name} share a name but not their content",
                            code="paths_disagree",
                        )

    # --- the methods

    def _overwrite(self) -> list[ReadProof]:
        self._step("overwrite")
        done = [
            self._patiently(lambda medium=medium: self._overwrite_one(medium))  # type: ignore[misc]
            for medium in self._media()
        ]
        written = sum(one.written for one in done)
        self._proof.device_status.update({"bytes_written": written, "flushed": True})
        return [one.readback for one in done]

    def _overwrite_one(self, medium: Medium) -> Overwritten:
        # Linux calls every virtio disk rotational, as virtio has no word for what is behind it.
        seeks = medium.rotational and medium.transport != "virtio"
        with self._world.open(medium.devnode, write=True) as device:
            return overwrite(device, self._advance, seeks=seeks)

    def _by_device(self, method: Method) -> None:
        """Let the drive erase by itself, and take its own word for it (E2) into the proof."""
        self._step(method.value)
        self._world.settle()
        make = self._world.make_erase
        fence = self._policy.fence and method in SANITIZES
        with make(
            method, self._unit, self._world.ports, allow_exit=not fence, tries=self._world.tries
        ) as erase:
            try:
                erase.start()
                last = wait_for_end(erase, self._around(self._unit.size))
                self._proof.device_status[method.value] = {
                    "last_poll": dict(last.evidence),
                    **erase.complete(),
                }
            except Cancelled as error:
                raise Cancelled(f"{error}; the drive goes on with {method.value} by itself") from error
            except AgentError as error:
                self._give_back(erase, error, fenced=fence)
                raise
            finally:
                self._commands += erase.commands
        self._world.settle()

    def _give_back(self, erase: DeviceErase, error: AgentError, *, fenced: bool) -> None:
        """After a failure: the drive usable again, unless the command wants it fenced."""
        if error.code == "time_limit":
            reason = f"{error}; it may still be at work, so nothing else is tried"
            raise Ending(reason, code=error.code, outcome=Outcome.FAILED) from error
        if fenced and error.code == "erase_failed":
            reason = f"{error}; the drive stays in its failure mode, nobody can read it"
            raise Ending(reason, code="fenced", outcome=Outcome.FENCED) from error
        try:
            erase.abandon()
        except AgentError as left:
            if left.code == "drive_left_locked":
                raise Ending(str(left), code=left.code, outcome=Outcome.LOCKED) from error
            if left.code == "still_running":
                reason = f"{error}; {left}, so nothing else is tried"
                raise Ending(reason, code=error.code, outcome=Outcome.FAILED) from error
            self._fenced = left.code == "fenced"
            self._reporter.log("warning", "erase_not_given_back", unit=self._unit.key, reason=str(left))

    def _around(self, work: int) -> Around:
        """What a wait for the drive needs; ``work``: how much of the meter it fills."""
        filled = [0]

        def tell(told: Told) -> None:
            if told.stalled and self.pulse.step != "stalled":
                self._reporter.log("warning", "erase_stalled", unit=self._unit.key, step=self.pulse.step)
                self.pulse.step = "stalled"
                self._meter.step("stalled")
            goal = int(work * (told.fraction or 0.0))
            self._meter.by_device(max(0, goal - filled[0]), work - max(goal, filled[0]), told.eta)
            filled[0] = max(filled[0], goal)

        return Around(
            clock=self._world.clock,
            pause=self._world.pause,
            check=self._check,
            tell=tell,
            time_limit=self._policy.time_limit,
        )

    # --- afterwards

    def _check_erased(self, leaves: Leaves, planted: list[canary.Canaries], prints: list[Prints]) -> bool:
        """E3 and E4 of what the drive did alone: canaries, a read-back, what comes back after new writes."""
        self._step("verify")
        self._reread_all()
        if self._count_survivors(planted):
            return False  # that has disproved it, and a read-back takes hours
        sampled = self._policy.verification is Verification.SAMPLED
        for index, medium in enumerate(self._media()):
            known = prints[index] if prints and leaves is Leaves.CHANGED else None
            with self._world.open(medium.devnode, write=False) as device:
                read = read_back(device, leaves, self._advance, sampled=sampled, prints=known)
            self._proof.readbacks.append(read)
            if not read.holds:
                return False
        self._write_again(planted)
        return all(look.holds for look in self._proof.second_looks)

    def _check_overwritten(self, read: list[ReadProof], planted: list[canary.Canaries]) -> None:
        """The same of what this machine has written: it was read back with it, and always whole."""
        proof = self._proof
        self._step("verify")
        if proof.readbacks:
            proof.device_status["read_before_overwrite"] = [one.to_json() for one in proof.readbacks]
        proof.readbacks, proof.second_looks = read, []
        self._reread_all()
        if self._count_survivors(planted) == 0 and all(one.holds for one in read):
            self._write_again(planted)

    def _reread_all(self) -> None:
        self._world.settle()
        for path in self._unit.media:
            self._patiently(lambda path=path: self._reread_partitions(path.devnode))  # type: ignore[misc]

    def _count_survivors(self, planted: list[canary.Canaries]) -> int:
        """How many canaries can still be read, by any path."""
        count = 0
        for extent, canaries in zip(self._unit.extents, planted, strict=True):
            for path in extent.paths:
                with self._world.open(path.devnode, write=False) as device:
                    count += len(canaries.survivors(device))
        self._proof.survived = count
        return count

    def _write_again(self, planted: list[canary.Canaries]) -> None:
        for medium, canaries in zip(self._media(), planted, strict=True):
            self._proof.second_looks.append(
                self._patiently(lambda m=medium, c=canaries: self._look_again(m.devnode, c))  # type: ignore[misc]
            )
        self._world.settle()

    def _look_again(self, devnode: str, canaries: canary.Canaries) -> canary.SecondLook:
        with self._world.open(devnode, write=True) as device:
            return canary.look_again(device, canaries)

    def _reread_partitions(self, devnode: str) -> None:
        with self._world.open(devnode, write=True) as device:
            device.reread_partitions()

    def _look_around(self, rung: Rung, since: Mark) -> None:
        """E1, E5 and E6, which concern the unit as a whole."""
        proof = self._proof
        now = {medium.name: medium for medium in self._world.look()}
        proof.changes = [
            change for medium in self._unit.media if (change := change_of(medium, now.get(medium.name)))
        ]
        after = self._world.examine(self._unit, self._world.ports)
        if proof.before is not None:
            proof.changes += proof.before.changes(after)
        proof.after = after
        proof.identity = not proof.changes
        proof.stale_partitions = tuple(
            part for medium in self._unit.media if medium.name in now for part in now[medium.name].partitions
        )
        sanitized = any(method in SANITIZES for method in rung.methods)
        proof.hidden = after.hidden.after_sanitize() if sanitized else after.hidden
        proof.kernel_log = self._log.window(self._unit, since)

    # --- small things

    def _media(self) -> list[Medium]:
        return [extent.medium for extent in self._unit.extents]

    def _step(self, step: str) -> None:
        self.pulse.step = step
        self.pulse.beat()
        self._meter.step(step)

    def _check(self) -> None:
        """Between two steps of anything long: told to stop, given up, unplugged."""
        self.pulse.beat()
        self._reporter.check_cancelled()
        gone = self._gone(self._unit)
        if gone:
            raise DeviceError(gone, code="identity_changed")

    def _advance(self, amount: int) -> None:
        self._check()
        self._meter.advance(amount)

    def _patiently(self, action: Callable[[], _Answer]) -> _Answer:
        """Do it again while udev still looks at the device. Raises what the last try raised."""
        for _ in range(_BUSY_TRIES):
            self.pulse.beat()
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
        """Tell the meter how much there is to do, in bytes; what the drive does alone counts as its size."""
        size = self._unit.size
        work = size * len(rung.methods)
        if rung.methods[0].by_device:
            sampled = self._policy.verification is Verification.SAMPLED
            work += sum(expected_bytes(one.size, one.logical_block, sampled=sampled) for one in self._media())
        if Method.OVERWRITE in rung.methods:
            work += size
        self._meter.expect(work)


def _success(rung: Rung | None) -> Outcome:
    assert rung is not None
    return Outcome.PURGED if rung.grade is Grade.PURGE else Outcome.CLEARED


def change_of(before: Medium, now: Medium | None) -> str:
    """What differs from before in what must not, "" if nothing does (E1)."""
    if now is None:
        return f"{before.name} is gone"
    if before.same_as(now):
        return ""
    return f"{before.name} is not the same as before: {before.fingerprint} became {now.fingerprint}"
