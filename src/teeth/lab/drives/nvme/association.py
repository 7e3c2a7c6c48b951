"""One host's hold on a controller: properties, queues, keep-alive (NVMe base 2.0, 3.1.3, 3.3.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from teeth.lab.drives.nvme.core import CONTROLLER_ID, Host
from teeth.lab.drives.nvme.events import Event
from teeth.lab.drives.nvme.identify import VERSION as _VERSION
from teeth.lab.drives.submission import Code, NvmeCommand, NvmeRefused, NvmeReply

QUEUE_SIZE = 128
CAP, VERSION, CC, CSTS = 0x00, 0x08, 0x14, 0x1C
# Entries a queue, contiguous queues, 10 s to get ready, the NVM command set (3.1.3.1).
_CAPABILITIES = (QUEUE_SIZE - 1) | 1 << 16 | 20 << 24 | 1 << 37
_ENABLE, _SHUTDOWN = 1 << 0, 3 << 14
_READY, _SHUT = 1 << 0, 2 << 2
# A host that has to keep alive is forgiven so much more than it promised.
_GRACE = 1.5


class Subsystem(Protocol):
    """What an association needs of what it is with: a drive, or the discovery service."""

    @property
    def address(self) -> str: ...

    @property
    def there(self) -> bool: ...

    @property
    def queues(self) -> int:
        """How many I/O queues a host may have."""

    async def run(self, command: NvmeCommand, host: Host) -> NvmeReply | None: ...

    def next_event(self, host: Host) -> Event | None: ...

    def began(self, host: Host, end: Callable[[], None]) -> None:
        """An association is there; ``end`` ends it."""

    def enabled(self) -> None: ...

    def disabled(self, host: Host) -> None: ...

    def ended(self, host: Host, end: Callable[[], None]) -> None: ...


@dataclass(slots=True, kw_only=True, eq=False)
class Association:
    """``ends`` are called, once each, when it is over."""

    subsystem: Subsystem
    host_id: bytes
    host: Host
    configuration: int = 0
    status: int = 0
    seen: float = 0.0
    ends: dict[int, Callable[[], None]] = field(default_factory=dict)
    over: bool = False

    @property
    def controller(self) -> int:
        return CONTROLLER_ID

    @property
    def ready(self) -> bool:
        return bool(self.status & _READY)

    def alive(self) -> None:
        """A command came."""
        self.seen = asyncio.get_running_loop().time()

    async def watch(self) -> None:
        """Until the host has not kept alive as it promised."""
        loop = asyncio.get_running_loop()
        self.seen = loop.time()
        while True:
            promised = self.host.keep_alive / 1000
            left = self.seen + promised * _GRACE - loop.time() if promised else 1.0
            if left <= 0:
                return
            await asyncio.sleep(min(left, 1.0))

    def end(self) -> None:
        """Every queue of it goes, and what the controller kept for the host."""
        if self.over:
            return
        self.over = True
        self.subsystem.ended(self.host, self.end)
        for tell in list(self.ends.values()):
            tell()

    # --- properties (6.5, 6.6)

    def get(self, offset: int, size: int) -> int:
        values = {CAP: (8, _CAPABILITIES), VERSION: (4, _VERSION), CC: (4, self.configuration),
                  CSTS: (4, self.status)}  # fmt: skip
        known = values.get(offset)
        if known is None or known[0] != size:
            raise NvmeRefused(Code.INVALID_FIELD)
        return known[1]

    def set(self, offset: int, size: int, value: int) -> None:
        """Only the configuration can be written: enable, disable, shut down."""
        if offset != CC or size != 4:
            raise NvmeRefused(Code.INVALID_FIELD)
        before, self.configuration = self.configuration, value
        if value & _ENABLE and not before & _ENABLE:
            self.subsystem.enabled()
            self.status = _READY
        elif before & _ENABLE and not value & _ENABLE:
            self.status = 0
            self.subsystem.disabled(self.host)
        if value & _SHUTDOWN:
            self.status |= _SHUT
