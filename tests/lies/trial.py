"""One run: a drive, the product, and the truth against what was reported."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fakes.simulated_drives import FlatMedia, SimulatedMachine
from fakes.virtual_time import PowerCutError, quiet_deaths
from lies import agent, safety
from lies.cases import HONEST, Case, draw, draw_slot
from lies.lists import fault
from lies.truth import Witness, fill, remains
from teeth.lab.drives.disk import Disk
from teeth.lab.drives.model import DriveSpec
from teeth.lab.drives.sata import SataDrive
from teeth_agent.erase.model import Method
from teeth_agent.erase.record import UnitRecord

_LIVES = 3


@dataclass(slots=True, kw_only=True)
class Result:
    """``erased``: what was reported, None for everything that is no success. ``false``: it is not so.

    ``tried`` are the names of the rungs that were climbed; ``locked``: the drive is left with a password.
    ``other``: in a run with a fault, whether the sound drive beside it was truly erased. ``broken``: rules
    about commands that were not kept.
    """

    kind: str
    method: str
    lie: str
    seed: int
    outcome: str = ""
    erased: str | None = None
    code: str = ""
    reason: str = ""
    tried: tuple[str, ...] = ()
    false: bool = False
    native: int = 0
    retired: int = 0
    locked: bool = False
    other: bool = True
    other_why: str = ""
    cut: bool = False
    broken: list[str] = field(default_factory=list)
    ops: int = 0
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.method}/{self.lie}/{self.seed}"


class Bench:
    """The machine of a case, its drives full of old content, a witness at each."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.machine = SimulatedMachine(case.slots)
        self.witnesses: list[Witness] = []
        for slot, unit, media in zip(case.slots, self.machine.units, self.machine.media, strict=True):
            assert isinstance(media, FlatMedia)
            fill(media, case.dice)
            _retire(slot.spec, unit.disk, media, case.dice)
            witness = Witness()
            unit.disk.behaviours.insert(0, witness)
            self.witnesses.append(witness)
        self.began = self.machine.clock.now

    def record(self, records: list[UnitRecord], index: int = 0) -> UnitRecord:
        """A drive's record, by the serial number that it had when the machine was looked at.

        A namespace that came too late has one of its own: then the worst word counts.
        """
        serial = self.case.slots[index].spec.serial
        found = [one for one in records if one.unit is not None and one.unit.first.serial == serial]
        return min(found, key=lambda one: one.outcome.grade is not None)

    def end(self) -> None:
        """The power goes; what still waits for a drive ends with it."""
        with quiet_deaths():
            self.machine.power_cut()
            self.machine.clock.outlive()

    def locked(self, index: int = 0) -> bool:
        """Whether a password is in force on the drive now, whatever it says."""
        unit = self.machine.units[index]
        return isinstance(unit, SataDrive) and bool(unit.disk.state.security.user)

    def judge(self, index: int, record: UnitRecord, result: Result) -> None:
        """The truth about one drive; the power has to be off."""
        media = self.machine.media[index]
        assert isinstance(media, FlatMedia)
        found = remains(self.case.slots[index].spec, media, self.witnesses[index])
        result.native, result.retired = found.native, found.retired
        grade = record.outcome.grade
        result.erased = grade.value if grade else None
        result.outcome, result.code, result.reason = record.outcome.value, record.code, record.reason
        result.tried = tuple(str(attempt["method"]) for attempt in record.attempts)
        result.false = grade is not None and found.belies(grade)

    def close(self, result: Result) -> Result:
        result.broken = safety.broken(self.machine, agent.PASSWORD)
        result.ops = self.machine.life.ops
        result.seconds = self.machine.clock.now - self.began
        return result


def _retire(spec: DriveSpec, disk: Disk, media: FlatMedia, dice: random.Random) -> None:
    """Half of the spare blocks have been taken for ones that went bad, whose content they hold."""
    taken = -(-spec.spares // 2)
    disk.state.remapped = {f"{dice.randrange(spec.blocks)}:{number}": number for number in range(taken)}
    disk.save()
    free = (spec.spares - taken) * spec.sector
    media.write(media.size - free, bytes(free))


def run_lie(
    method: Method, lie: str, seed: int, *, look: Callable[[Bench], None] = lambda bench: None
) -> Result:
    """A drive that tells one lie, or none. ``look`` sees the bench when all is over."""
    bench = Bench(draw(method, lie, seed))
    result = Result(kind="honest" if lie == HONEST else "lie", method=method.value, lie=lie, seed=seed)
    record = bench.record(agent.erase(bench.machine.boot(), bench.case.policy))
    result.locked = bench.locked() and record.code != "drive_left_locked"
    bench.end()
    bench.judge(0, record, result)
    look(bench)
    return bench.close(result)


def run_fault(
    method: Method, name: str, seed: int, *, look: Callable[[Bench], None] = lambda bench: None
) -> Result:
    """A drive on which something breaks at some point, and a sound one beside it."""
    drawn = draw(method, HONEST, seed)
    dice = random.Random(f"fault/{method.value}/{name}/{seed}")
    sound = draw_slot(method, dice, serial="S2")
    bench = Bench(replace(drawn, slots=(drawn.slots[0], sound), lie=name))
    result = Result(kind="fault", method=method.value, lie=name, seed=seed)
    told = fault(name, dice, drawn.slots[0].spec.blocks)
    machine = bench.machine.boot()
    at = int(math.exp(dice.uniform(0.0, math.log(600))))
    machine.later(at, lambda: machine.arm(0, told))
    records = agent.erase(machine, bench.case.policy)
    broken, whole = bench.record(records), bench.record(records, 1)
    result.locked = bench.locked() and broken.code != "drive_left_locked"
    bench.end()
    other = Result(kind="fault", method=method.value, lie=name, seed=seed)
    bench.judge(1, whole, other)
    bench.judge(0, broken, result)
    result.other = other.erased is not None and not other.false
    result.other_why = "" if result.other else f"{other.outcome} {other.code} {other.reason[:200]}"
    result.false = result.false or other.false
    look(bench)
    return bench.close(result)


def run_cut(method: Method, seed: int, *, look: Callable[[Bench], None] = lambda bench: None) -> Result:
    """An honest drive whose power goes at a random point, up to three times, with an agent that starts again
    and is given the command again."""
    case = draw(method, HONEST, seed)
    ops, seconds = _length(method, seed)
    dice = random.Random(f"cut/{method.value}/{seed}")
    bench = Bench(case)
    result = Result(kind="cut", method=method.value, lie="power-cut", seed=seed)
    for life in range(_LIVES):
        last = life == _LIVES - 1 or (life > 0 and dice.random() < 0.7)
        if last:
            machine = bench.machine.boot()
        elif dice.random() < 0.5:
            machine = bench.machine.boot(cut_after_ops=dice.randrange(1, ops + 1))
        else:
            machine = bench.machine.boot(cut_after_seconds=dice.uniform(0.0, seconds))
        try:
            with quiet_deaths():
                try:
                    agent.recover(machine)
                    if life:
                        result.locked = result.locked or bench.locked()
                    records = agent.erase(machine, case.policy)
                finally:
                    machine.clock.outlive()
        except PowerCutError:
            result.cut = True
            continue
        bench.end()
        bench.judge(0, bench.record(records), result)
        if last or result.false:
            break
    look(bench)
    return bench.close(result)


def _length(method: Method, seed: int) -> tuple[int, float]:
    """How many questions and how much time the erase of this drive takes when nothing interferes."""
    bench = Bench(draw(method, HONEST, seed))
    machine = bench.machine.boot()
    began = machine.clock.now
    agent.erase(machine, bench.case.policy)
    return max(1, machine.life.ops), machine.clock.now - began
