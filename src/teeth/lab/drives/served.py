"""A drive among others: one command at a time, real time, power that a person can cut."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from teeth.lab.drives.answer import Answer, Command, Reply, Wait
from teeth.lab.drives.behaviours import make
from teeth.lab.drives.sata import SataDrive
from teeth.lab.drives.unit import Unit

_STEP = 0.25  # seconds: how often an erase under way is brought to where it is


@dataclass(slots=True, kw_only=True)
class Served:
    """``unit`` under the name ``iqn``. ``dropped`` are told when every connection to it must end."""

    name: str
    iqn: str
    unit: Unit
    dropped: list[Callable[[], None]] = field(default_factory=list)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _under_way: dict[asyncio.Task[Reply | None], None] = field(default_factory=dict)

    @property
    def there(self) -> bool:
        """Whether somebody may log in: it has power."""
        return self.unit.disk.powered

    async def run(self, command: Command) -> Reply | None:
        """Carry a command out in its turn. None: there will be no answer, the drive lost power meanwhile."""
        life = self.unit.disk.state.power_cycles
        async with self._turn:
            answer: Answer | None = self.unit.execute(command)
            while isinstance(answer, Wait) and not answer.shares:
                answer = await self._pass(answer, life)
        while isinstance(answer, Wait):
            answer = await self._pass(answer, life)
        return answer

    async def _pass(self, wait: Wait, life: int) -> Answer | None:
        """A little time in a wait; its end when that has come, None when the power went meanwhile."""
        if self.unit.disk.state.power_cycles != life:
            self.drop()
            return None
        await asyncio.sleep(self._pause(wait.until))
        if self.unit.disk.clock() >= wait.until:
            return wait.finish()
        self.unit.settle()
        return wait

    def _pause(self, until: float) -> float:
        return min(_STEP, max(0.0, until - self.unit.disk.clock())) if math.isfinite(until) else _STEP

    def follow(self, task: asyncio.Task[Reply | None]) -> None:
        """A command that a reset or a power cut must end."""
        self._under_way[task] = None
        task.add_done_callback(lambda done: self._under_way.pop(done, None))

    def drop(self) -> None:
        """End every connection to the drive."""
        for tell in list(self.dropped):
            tell()

    def abort_all(self) -> None:
        for task in list(self._under_way):
            task.cancel()

    # --- what a person does to it

    def reset(self) -> None:
        """A logical unit reset: commands under way are gone, volatile settings too."""
        self.abort_all()
        self.unit.reset()

    def abort(self, task: asyncio.Task[Reply | None]) -> None:
        """Give one command up; a SATA translator can only do so by resetting the link."""
        task.cancel()
        if isinstance(self.unit, SataDrive):
            self.unit.ata.hardware_reset()

    def power_off(self) -> None:
        if self.unit.disk.powered:
            self.abort_all()
            self.unit.power_off()
            self.drop()

    def power_on(self) -> None:
        if not self.unit.disk.powered:
            self.unit.power_on()

    def add(self, text: str) -> None:
        """Let a lie or a fault begin; UsageError for one that there is not."""
        self.unit.disk.add(make(text))

    async def tick(self) -> None:
        """Keep an erase going while nobody asks."""
        while True:
            await asyncio.sleep(_STEP)
            if self.unit.disk.job is not None and not self._turn.locked():
                life = self.unit.disk.state.power_cycles
                self.unit.settle()
                if self.unit.disk.state.power_cycles != life:
                    self.drop()

    def close(self) -> None:
        self.abort_all()
        self.unit.disk.flush()
        with contextlib.suppress(OSError):
            self.unit.disk.media.close()
