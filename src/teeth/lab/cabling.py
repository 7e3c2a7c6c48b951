"""The cables of a machine: taps in namespaces, and a relay on each whose quality can change."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from teeth.errors import TeethError, UsageError
from teeth.lab.accel import with_parent
from teeth.lab.link import LinkQuality
from teeth.lab.netns import open_tap
from teeth.lab.network import Bridged, Nic
from teeth.lab.relay import order
from teeth.proc import background

_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class Relay:
    """A cable's relay, and how it is told things."""

    quality: LinkQuality
    _control: socket.socket

    def tell(self, **changes: object) -> None:
        """Let the cable change; it has when this returns. See teeth.lab.relay.order."""
        try:
            self._control.sendall(order(**changes))
            if not self._control.recv(1):
                raise TeethError("the relay of a cable has ended")
        except OSError as error:
            raise TeethError(f"the relay of a cable does not answer: {error}") from error
        if isinstance(quality := changes.get("quality"), LinkQuality):
            self.quality = quality


@dataclass(slots=True, kw_only=True)
class Cabling:
    """``options``: QEMU's -netdev by card; ``descriptors``: what QEMU inherits; ``relays`` by card."""

    options: dict[int, str] = field(default_factory=dict)
    descriptors: list[int] = field(default_factory=list)
    relays: dict[int, Relay] = field(default_factory=dict)
    _handed_over: ExitStack = field(default_factory=ExitStack)

    def relay(self, nic: int) -> Relay:
        """The relay of card ``nic``; UsageError when its cable has none."""
        if nic not in self.relays:
            raise UsageError(f"the cable of nic{nic} cannot change: it is no relayed netns cable")
        return self.relays[nic]

    def started(self) -> None:
        """QEMU has its descriptors: ours are closed, so that its end is the end of every cable."""
        self._handed_over.close()


@contextmanager
def cabling(nics: Sequence[Nic], log: Path) -> Iterator[Cabling]:
    """Cables of all bridged cards while the block runs; ``log`` gets the relays' words."""
    made = Cabling()
    with ExitStack() as stack:
        stack.callback(made.started)
        for index, nic in enumerate(nics):
            if isinstance(nic.network, Bridged):
                _lay(made, index, nic, nic.network, log, stack)
        yield made


def _lay(made: Cabling, index: int, nic: Nic, port: Bridged, log: Path, stack: ExitStack) -> None:
    name = f"tap-{nic.mac[9:].replace(':', '')}"  # the kernel takes 15 characters
    tap = open_tap(port.namespace, name, offload=port.quality is None)
    if port.quality is None:
        made._handed_over.callback(os.close, tap)
        made.options[index] = f"tap,fd={tap}"
        made.descriptors.append(tap)
        return
    ours, theirs = socket.socketpair()
    made._handed_over.callback(theirs.close)
    made.options[index] = f"socket,fd={theirs.fileno()}"
    made.descriptors.append(theirs.fileno())
    with ours:
        machine = {"kind": "stream", "fd": ours.fileno()}
        made.relays[index] = start_relay(port.quality, machine, tap, log, stack)


def start_relay(
    quality: LinkQuality, machine: Mapping[str, object], tap: int, log: Path, stack: ExitStack
) -> Relay:
    """A relay between the end ``machine`` and a tap on the bridge; both ends' descriptors are its own then,
    and the tap is closed here. It ends with ``stack``."""
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    ours.settimeout(_SECONDS)
    spec = {
        "quality": asdict(quality),
        "machine": dict(machine),
        "bridge": {"kind": "tap", "fd": tap},
        "control": theirs.fileno(),
    }
    argv = [*with_parent(sys.executable), "-m", "teeth.lab.relay", json.dumps(spec)]
    fds = (int(str(machine["fd"])), tap, theirs.fileno())
    with theirs:
        try:
            stack.enter_context(background(argv, log=log, pass_fds=fds))
        finally:
            os.close(tap)
    return Relay(quality=quality, _control=ours)
