"""Everything that an erase touches, in one place: a simulation gives another one of these."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from teeth_agent.blockio import Device
from teeth_agent.erase.examine import Examination, examine
from teeth_agent.erase.leftovers import Rescue, recover
from teeth_agent.erase.methods import DeviceErase, Ports
from teeth_agent.erase.methods.ata_leftovers import Tries
from teeth_agent.erase.methods.build import make_erase
from teeth_agent.erase.model import Medium, Method, Unit
from teeth_agent.erase.reach import open_up, rescan


class Open(Protocol):
    """blockio.open_device, or what stands for it."""

    def __call__(self, path: str, *, write: bool) -> AbstractContextManager[Device]: ...


class MakeErase(Protocol):
    """methods.build.make_erase, or what stands for it."""

    def __call__(
        self, method: Method, unit: Unit, ports: Ports, *, allow_exit: bool, tries: Tries | None = None
    ) -> AbstractContextManager[DeviceErase]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """``look`` lists the machine's media as they are now; ``settle`` waits until udev is done with them.

    Time passes only by ``clock`` (seconds) and ``pause``. ``tries`` counts the wrong passwords of this boot.
    """

    open: Open
    ports: Ports
    look: Callable[[], tuple[Medium, ...]]
    settle: Callable[[], object]
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    tries: Tries = field(default_factory=Tries)
    make_erase: MakeErase = make_erase
    examine: Callable[[Unit, Ports], Examination] = examine
    recover: Callable[[Unit, Rescue], list[dict[str, Any]]] = recover
    open_up: Callable[[Unit, Ports, list[str]], list[str]] = open_up
    rescan: Callable[[Medium], None] = rescan
