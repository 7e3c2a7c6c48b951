"""An NVMe drive that is served: its commands in real time, and what a person may want to know of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from teeth.lab.drives.nvme.controller import NvmeController
from teeth.lab.drives.nvme.core import Host
from teeth.lab.drives.nvme.events import Event
from teeth.lab.drives.nvme.features import QUEUES_MAX
from teeth.lab.drives.served import ServedDrive
from teeth.lab.drives.submission import NvmeAnswer, NvmeCommand, NvmeReply, NvmeWait


@dataclass(slots=True, kw_only=True)
class ServedNvme(ServedDrive):
    """``controller`` under the name of its subsystem. ``portal``: (address, port) once it is listened at."""

    controller: NvmeController
    portal: tuple[str, int] = field(default=("", 0))

    @property
    def device(self) -> NvmeController:
        return self.controller

    @property
    def kind(self) -> str:
        return "nvme"

    @property
    def address(self) -> str:
        return self.controller.spec.subsystem

    @property
    def url(self) -> str:
        """Where it is attached: `nvme-tcp://ADDRESS:PORT/NQN`; port 0 before it is listened at."""
        host, port = self.portal
        return f"nvme-tcp://{f'[{host}]' if ':' in host else host}:{port}/{self.address}"

    @property
    def there(self) -> bool:
        return self.controller.disk.powered and not self.controller.disk.gone

    def add(self, text: str) -> None:
        ServedDrive.add(self, text)
        if not self.there:
            self.abort_all()
            self.drop()

    def reset(self) -> None:
        """An NVM subsystem reset: every association is gone."""
        self.controller.reset()
        self.drop()

    async def run(self, command: NvmeCommand, host: Host) -> NvmeReply | None:
        """Carry a command out. None: there will be no answer, the drive lost power meanwhile."""
        life = self.controller.disk.state.power_cycles
        answer: NvmeAnswer = self.controller.execute(command, host)
        while isinstance(answer, NvmeWait):
            if self.controller.disk.state.power_cycles != life:
                self.drop()
                return None
            await asyncio.sleep(self.pause(answer.until))
            if self.controller.disk.clock() >= answer.until:
                answer = answer.finish()
            else:
                self.settle()
        return answer

    def facts(self) -> dict[str, Any]:
        """Where to connect to, and where on the medium each namespace is, in bytes."""
        return {
            "transport": "tcp",
            "host": self.portal[0],
            "port": self.portal[1],
            "sanitize_log": {"sstat": self.controller.state.sstat, "scdw10": self.controller.state.scdw10},
            "namespaces": [
                {
                    "nsid": one.nsid,
                    "attached": one.attached,
                    "sector": one.sector,
                    "format": one.format,
                    "extents": [[first * 512, end * 512] for first, end in one.extents],
                }
                for one in self.controller.state.namespaces
            ],
        }

    # --- what an association asks of it

    @property
    def queues(self) -> int:
        return QUEUES_MAX

    def next_event(self, host: Host) -> Event | None:
        return self.controller.next_event(host)

    def began(self, host: Host, end: Callable[[], None]) -> None:
        self.controller.hosts.append(host)
        self.dropped.append(end)

    def enabled(self) -> None:
        """New firmware runs from here (base 2.0, 3.7.2)."""
        self.controller.activate_waiting()

    def disabled(self, host: Host) -> None:
        """A controller level reset."""
        self.controller.reset()
        host.event_config, host.waiting = 0, 0
        host.events.clear()
        host.masked.clear()

    def ended(self, host: Host, end: Callable[[], None]) -> None:
        self.dropped.remove(end)
        if host in self.controller.hosts:
            self.controller.hosts.remove(host)
