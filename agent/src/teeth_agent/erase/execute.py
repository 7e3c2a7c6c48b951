"""Carrying a plan out: every unit in a thread of its own, and none that hangs holds up the others."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence

from teeth_agent.erase.kernellog import KernelLog
from teeth_agent.erase.model import Medium, Unit
from teeth_agent.erase.plan import ErasePlan
from teeth_agent.erase.progress import Meter
from teeth_agent.erase.protect import Action
from teeth_agent.erase.record import UnitRecord, absent, untouched
from teeth_agent.erase.unitrun import UnitRun, change_of
from teeth_agent.erase.world import World
from teeth_agent.reporter import Reporter

__all__ = ["World", "execute"]

# More at once than a machine's memory bears buffers for; and than one adapter's link can feed.
_MAX_AT_ONCE = 64
_MAX_PER_ADAPTER = 24
_TURN_SECONDS = 1.0
# In true time. Every call is bounded far below this: the kernel gives a command up within minutes.
_HANGS_SECONDS = 1200.0
# Looking at all block devices costs milliseconds for each of them; one look serves every unit.
_LOOK_SECONDS = 5.0
_ADAPTER = re.compile(r"/([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])/")


def execute(plan: ErasePlan, world: World, log: KernelLog, reporter: Reporter) -> list[UnitRecord]:
    """One record for each unit of the plan and for everything missing, in the plan's order.

    Raises only what is no Exception: the end of the process.
    """
    wanted = [unit for unit in plan.units if unit.action is Action.ERASE]
    names = {str(index): unit.unit.key for index, unit in enumerate(wanted)}
    meter = Meter(reporter, names, world.clock)
    watch = _Watch(world)
    runs = [
        UnitRun(
            plan=unit,
            policy=plan.policy,
            world=world,
            log=log,
            reporter=reporter,
            meter=meter.unit(str(index)),
            gone=watch.gone,
        )
        for index, unit in enumerate(wanted)
    ]
    ended = _Crew(runs, log).work()
    done = dict(zip((id(unit) for unit in wanted), ended, strict=True))
    records = [done.get(id(unit)) or untouched(unit) for unit in plan.units]
    return records + _absent(plan)


def _absent(plan: ErasePlan) -> list[UnitRecord]:
    records = [
        absent(name, "disk_missing", "the command names it, the machine does not have it")
        for name in plan.missing
    ]
    if not plan.policy.expect_unaccounted:
        records += [
            absent(name, "unaccounted_controller", "a storage controller whose drives cannot be seen")
            for name in plan.unaccounted
        ]
    return records


class _Watch:
    """Whether units are still the ones they were. Asked by all of them, looks seldom."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lock = threading.Lock()
        self._looked: float | None = None
        self._media: dict[str, Medium] = {}

    def gone(self, unit: Unit) -> str:
        """Why the unit is not there as it was, "" if it is: unplugged, replaced, or plugged in again."""
        with self._lock:
            now = self._world.clock()
            # An old look that differs proves nothing: the unit may have been opened up since.
            if self._looked is not None and now - self._looked < _LOOK_SECONDS and not self._change(unit):
                return ""
            self._media = {medium.name: medium for medium in self._world.look()}
            self._looked = now
            return self._change(unit)

    def _change(self, unit: Unit) -> str:
        changes = (change_of(one, self._media.get(one.name)) for one in unit.media)
        return next((change for change in changes if change), "")


class _Crew:
    """Runs in threads, as many at once as the machine and each adapter bear."""

    def __init__(self, runs: Sequence[UnitRun], log: KernelLog) -> None:
        self._runs = runs
        self._log = log
        self._waiting = list(range(len(runs)))
        self._busy: dict[int, str] = {}
        self._ended: queue.SimpleQueue[tuple[int, UnitRecord | BaseException]] = queue.SimpleQueue()
        self._records: dict[int, UnitRecord] = {}

    def work(self) -> list[UnitRecord]:
        """Every run's record, in the order of the runs."""
        while len(self._records) < len(self._runs):
            self._start()
            # The kernel log's buffer is small, and what is overwritten in it is not proof: read it often.
            self._log.drain()
            try:
                index, ended = self._ended.get(timeout=_TURN_SECONDS)
            except queue.Empty:
                self._give_up_what_hangs()
                continue
            if not isinstance(ended, UnitRecord):
                raise ended
            self._busy.pop(index, None)
            self._records.setdefault(index, ended)
        return [self._records[index] for index in range(len(self._runs))]

    def _start(self) -> None:
        """Begin what may begin now."""
        load = Counter(self._busy.values())
        for index in list(self._waiting):
            adapter = adapter_of(self._runs[index].unit)
            if len(self._busy) >= _MAX_AT_ONCE or load[adapter] >= _MAX_PER_ADAPTER:
                continue
            load[adapter] += 1
            self._waiting.remove(index)
            self._busy[index] = adapter
            self._runs[index].pulse.beat()
            # A daemon: a thread that hangs in the kernel must not keep the process from ending.
            threading.Thread(target=self._run, args=(index,), daemon=True).start()

    def _run(self, index: int) -> None:
        try:
            self._ended.put((index, self._runs[index].run()))
        except BaseException as error:  # handed to who waits: it ends the whole task
            self._ended.put((index, error))

    def _give_up_what_hangs(self) -> None:
        now = time.monotonic()
        for index in list(self._busy):
            run = self._runs[index]
            silent = now - run.pulse.beaten
            if silent > _HANGS_SECONDS:
                reason = f"no sign of life for {silent:.0f} s in step {run.pulse.step}"
                self._records[index] = run.given_up(reason)
                del self._busy[index]


def adapter_of(unit: Unit) -> str:
    """The host adapter whose link the unit shares: the last PCI function on its way, else its bus."""
    found = _ADAPTER.findall(unit.first.sysfs_path)
    return found[-1] if found else unit.first.transport
