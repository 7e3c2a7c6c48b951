"""A drive among others: one command at a time, real time, power that a person can cut."""

from __future__ import annotations

import asyncio
import contextlib
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from teeth.errors import UsageError
from teeth.lab.drives.answer import Answer, Command, Reply, Wait
from teeth.lab.drives.behaviours import make
from teeth.lab.drives.disk import Disk
from teeth.lab.drives.sata import SataDrive
from teeth.lab.drives.unit import Unit

STEP = 0.25  # seconds: how often an erase under way is brought to where it is


class Device(Protocol):
    """What a drive of any kind is to whoever serves it."""

    @property
    def disk(self) -> Disk: ...

    def settle(self) -> None: ...

    def reset(self) -> None: ...

    def power_off(self) -> None: ...

    def power_on(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class ServedDrive:
    """A drive under its ``name``. ``dropped`` are told when every connection to it must end."""

    name: str
    dropped: list[Callable[[], None]] = field(default_factory=list)
    _under_way: dict[asyncio.Task[Any], None] = field(default_factory=dict)

    @property
    @abstractmethod
    def device(self) -> Device: ...

    @property
    @abstractmethod
    def kind(self) -> str:
        """As a file that describes drives calls it."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Its name to initiators."""

    @property
    def there(self) -> bool:
        """Whether somebody may log in: it has power."""
        return self.device.disk.powered

    def pause(self, until: float) -> float:
        """How long to sleep now in a wait."""
        return min(STEP, max(0.0, until - self.device.disk.clock())) if math.isfinite(until) else STEP

    def follow(self, task: asyncio.Task[Any]) -> None:
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
        """A reset of the drive: commands under way are gone, volatile settings too."""
        self.abort_all()
        self.device.reset()

    def power_off(self) -> None:
        if self.device.disk.powered:
            self.abort_all()
            self.device.power_off()
            self.drop()

    def power_on(self) -> None:
        if not self.device.disk.powered:
            self.device.power_on()

    def add(self, text: str) -> None:
        """Let a lie or a fault begin; UsageError for one that there is not, or not for such a drive."""
        behaviour = make(text)
        if self.kind not in behaviour.kinds:
            raise UsageError(
                f"drive {self.name}: {behaviour.name} means nothing to a drive of kind {self.kind}"
            )
        self.device.disk.add(behaviour)

    async def tick(self) -> None:
        """Keep an erase going while nobody asks."""
        while True:
            await asyncio.sleep(STEP)
            if self.device.disk.job is not None and not self._busy():
                self.settle()

    def _busy(self) -> bool:
        """Whether a command is being carried out that does this by itself."""
        return False

    def settle(self) -> None:
        """Bring the drive to where the clock is; connections go with the power."""
        life = self.device.disk.state.power_cycles
        self.device.settle()
        if self.device.disk.state.power_cycles != life:
            self.drop()

    def close(self) -> None:
        self.abort_all()
        self.device.disk.flush()
        with contextlib.suppress(OSError):
            self.device.disk.media.close()


@dataclass(slots=True, kw_only=True)
class Served(ServedDrive):
    """``unit`` under the iSCSI name ``iqn``."""

    iqn: str
    unit: Unit
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def device(self) -> Unit:
        return self.unit

    @property
    def kind(self) -> str:
        return "sata" if isinstance(self.unit, SataDrive) else "scsi"

    @property
    def address(self) -> str:
        return self.iqn

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
        await asyncio.sleep(self.pause(wait.until))
        if self.unit.disk.clock() >= wait.until:
            return wait.finish()
        self.unit.settle()
        return wait

    def _busy(self) -> bool:
        return self._turn.locked()

    def abort(self, task: asyncio.Task[Reply | None]) -> None:
        """Give one command up; a SATA translator can only do so by resetting the link."""
        task.cancel()
        if isinstance(self.unit, SataDrive):
            self.unit.ata.hardware_reset()
