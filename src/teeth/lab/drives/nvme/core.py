"""An NVMe controller: what its commands share, and the rules that stand before every command."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from teeth.lab.drives import purge
from teeth.lab.drives.answer import Refused
from teeth.lab.drives.disk import Disk
from teeth.lab.drives.model import Namespace, NvmeState
from teeth.lab.drives.nvme.events import Event
from teeth.lab.drives.nvme.spec import GRANULE, UNIT, NvmeSpec
from teeth.lab.drives.spans import Span, without
from teeth.lab.drives.submission import Code, NvmeAnswer, NvmeCommand, NvmeRefused, NvmeReply, NvmeWait

CONTROLLER_ID = 1
EVENT_REQUESTS = 4  # AERL + 1
ALL = 0xFFFFFFFF
_EVENTS = 16
_ERRORS = 64

Handler = Callable[["Core", "Host", NvmeCommand], NvmeAnswer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One command of a table. ``section`` of the NVMe base 2.0 or, for I/O commands, the NVM command set 1.0.

    ``early``: carried out although a sanitize keeps the medium away or has failed to (base 2.0, 5.24).
    ``effects``: its entry in the log of commands and effects (base 2.0, 5.16.1.6), without the bit that it is
    there.
    """

    opcode: int
    name: str
    section: str
    handler: Handler
    early: bool = False
    effects: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Host:
    """What a controller keeps for one association: features of its own, events that wait to be told."""

    name: str = "host"
    event_config: int = 0
    keep_alive: int = 0
    queues: int = 8
    waiting: int = 0
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=_EVENTS))
    # Types that were told and not read since: no event of them until their log page is read.
    masked: set[int] = field(default_factory=set)
    changed: list[int] = field(default_factory=list)
    # Told when an event is there.
    notify: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A command that ended badly, for the error log."""

    count: int
    status: int
    lba: int
    nsid: int


class Flash(Disk):
    """A medium that holds namespaces. Lies about capacity are told by each namespace of itself."""

    @property
    def blocks(self) -> int:
        return self.accessible

    @property
    def nvme(self) -> NvmeState:
        assert self.state.nvme is not None
        return self.state.nvme

    @property
    def regions(self) -> list[Span]:
        return _spans([namespace for namespace in self.nvme.namespaces if namespace.attached])

    @property
    def put_away(self) -> list[Span]:
        """Namespaces that no controller has, and capacity that is in none."""
        parts: list[Span] = [(0, self.spec.blocks)]
        for first, end in self.regions:
            parts = without(parts, first, end)
        return parts

    @property
    def detached(self) -> list[Span]:
        return _spans([namespace for namespace in self.nvme.namespaces if not namespace.attached])

    def free(self) -> list[Span]:
        """Runs of the medium that are in no namespace."""
        parts: list[Span] = [(0, self.spec.blocks // GRANULE * GRANULE)]
        for first, end in _spans(self.nvme.namespaces):
            parts = without(parts, first, end)
        return parts

    def allocate(self, blocks: int) -> list[list[int]]:
        """Runs of so many units: the first that is large enough, else several. Refused when there is no
        room."""
        blocks = -(-blocks // GRANULE) * GRANULE
        free = self.free()
        if sum(end - first for first, end in free) < blocks:
            raise NvmeRefused(Code.INSUFFICIENT_CAPACITY)
        for first, end in free:
            if end - first >= blocks:
                return [[first, first + blocks]]
        taken = []
        for first, end in free:
            part = min(blocks, end - first)
            taken.append([first, first + part])
            blocks -= part
            if not blocks:
                break
        return taken


def _spans(namespaces: list[Namespace]) -> list[Span]:
    return [(first, end) for namespace in namespaces for first, end in namespace.extents]


class Core:
    """A controller over its medium; ``admin_table`` and ``io_table`` by opcode."""

    def __init__(
        self,
        spec: NvmeSpec,
        disk: Flash,
        admin_table: Mapping[int, Operation],
        io_table: Mapping[int, Operation],
    ) -> None:
        self.spec = spec
        self.disk = disk
        self.admin_table = admin_table
        self.io_table = io_table
        self.hosts: list[Host] = []
        self.failures: deque[Failure] = deque(maxlen=_ERRORS)
        self.image: dict[int, bytes] = {}  # firmware that is being downloaded, by offset
        self.no_deallocate_warns = False  # NODRM of the sanitize config feature
        self.failed = 0  # commands that ended badly since the factory, as far as this process knows
        if disk.state.nvme is None:
            disk.state.nvme = _factory(spec, disk)
            disk.save()

    @property
    def state(self) -> NvmeState:
        return self.disk.nvme

    # --- the way of a command

    def execute(self, command: NvmeCommand, host: Host) -> NvmeAnswer:
        """Carry out one command for ``host``."""
        self.settle()
        if not self.disk.powered or self.disk.gone:
            return NEVER
        delay = sum(behaviour.delay(self.disk) for behaviour in self.disk.behaviours)
        # A request for events waits by nature.
        if delay > 0 and (command.io or command.opcode != 0x0C):
            return NvmeWait(until=self.disk.clock() + delay, finish=lambda: self._begin(command, host))
        return self._begin(command, host)

    def settle(self) -> None:
        """Bring the drive to where the clock is; a power cut that a fault asked for happens here."""
        self.disk.tick()
        if self.disk.cut:
            self.disk.cut = False
            self.power_cycle()

    def _begin(self, command: NvmeCommand, host: Host) -> NvmeAnswer:
        self.settle()
        for behaviour in self.disk.behaviours:
            if (reply := behaviour.before_nvme(self.disk, command)) is not None:
                return self._noted(command, reply)
        return self._through(command, lambda: self._carry_out(command, host))

    def _through(self, command: NvmeCommand, act: Callable[[], NvmeAnswer]) -> NvmeAnswer:
        """What ``act`` gives, refusals turned into statuses, lies told."""
        life = self.disk.state.power_cycles
        self.settle()
        try:
            answer = act() if self.disk.state.power_cycles == life else NEVER
        except NvmeRefused as refused:
            answer = NvmeReply(status=refused.status, result=refused.result)
        except Refused as refused:
            answer = NvmeReply(status=_STATUSES.get(refused.sense.asc, Code.INTERNAL_ERROR))
        self.settle()
        if self.disk.state.power_cycles != life:
            return NEVER  # the command went with the power
        if isinstance(answer, NvmeWait):
            inner = answer
            return replace(inner, finish=lambda: self._through(command, inner.finish))
        for behaviour in self.disk.behaviours:
            answer = behaviour.after_nvme(self.disk, command, answer)
        return self._noted(command, answer)

    def _noted(self, command: NvmeCommand, reply: NvmeReply) -> NvmeReply:
        if not reply.good:
            self.failed += 1
            lba = command.cdw10 | command.cdw11 << 32 if command.io else 0
            self.failures.appendleft(
                Failure(count=self.failed, status=reply.status, lba=lba, nsid=command.nsid)
            )
        return reply

    def _carry_out(self, command: NvmeCommand, host: Host) -> NvmeAnswer:
        operation = (self.io_table if command.io else self.admin_table).get(command.opcode)
        if operation is None:
            raise NvmeRefused(Code.INVALID_OPCODE)
        if not operation.early and (trouble := self.trouble()):
            raise NvmeRefused(trouble)
        return operation.handler(self, host, command)

    def trouble(self) -> int:
        """The status of what a sanitize keeps away, 0 for nothing."""
        match self.disk.state.sanitize.state:
            case "running" if not any(behaviour.admits(self.disk) for behaviour in self.disk.behaviours):
                return Code.SANITIZE_IN_PROGRESS
            case "failed":
                return Code.SANITIZE_FAILED
            case _:
                return 0

    # --- namespaces

    def allocated(self, nsid: int) -> Namespace | None:
        return next((one for one in self.state.namespaces if one.nsid == nsid), None)

    def active(self, nsid: int) -> Namespace | None:
        found = self.allocated(nsid)
        return found if found is not None and found.attached else None

    def size(self, namespace: Namespace) -> int:
        """Its true number of units of the medium."""
        return sum(end - first for first, end in namespace.extents)

    def said_size(self, namespace: Namespace) -> int:
        """What it says, lies told, in its own blocks."""
        units = self.size(namespace)
        for behaviour in self.disk.behaviours:
            units = behaviour.capacity(self.disk, units)
        return units // (namespace.sector // UNIT)

    def free_units(self) -> int:
        return sum(end - first for first, end in self.disk.free())

    def places(self, namespace: Namespace, unit: int, count: int) -> list[Span]:
        """Where on the medium ``count`` units from ``unit`` on are; beyond the true end they wrap round."""
        size, found = self.size(namespace), []
        while count:
            at = unit % size
            for first, end in namespace.extents:
                if at < end - first:
                    part = min(count, end - first - at)
                    found.append((first + at, first + at + part))
                    unit, count = unit + part, count - part
                    break
                at -= end - first
        return found

    def changed(self, nsids: list[int], *, but: Host | None = None) -> None:
        """Tell hosts that namespaces are not what they were; the one that changed them knows."""
        for host in self.hosts:
            host.changed.extend(nsid for nsid in nsids if nsid not in host.changed)
            if host is not but:
                self.tell(host, Event(kind=2, info=0x00, page=0x04), enabled=host.event_config >> 8 & 1)

    # --- events

    def tell(self, host: Host, event: Event, *, enabled: int = 1) -> None:
        """Queue an event, unless its type waits for its log page to be read."""
        if enabled and event.kind not in host.masked and event not in host.events:
            host.events.append(event)
            host.notify()

    def next_event(self, host: Host) -> Event | None:
        """The event that an outstanding request may carry."""
        if not host.events:
            return None
        event = host.events.popleft()
        if event.page:
            host.masked.add(event.kind)
        return event

    # --- resets and power

    def sanitized(self, well: bool) -> None:
        """A sanitize has ended: the log says how (base 2.0, 5.16.1.25)."""
        warned = well and self.spec.no_deallocate == "inhibited" and bool(self.state.scdw10 & 0x200)
        self.state.sstat = (4 if warned else 1) if well else 3
        overwrote = well and self.state.scdw10 & 0x07 == 3
        self.state.passes = self.disk.state.sanitize.passes if overwrote else 0
        if well:
            self.state.clean = True
            for namespace in self.state.namespaces:
                namespace.format = "good"
        for host in self.hosts:
            self.tell(host, Event(kind=6, info=0x02 if warned else 0x01, page=0x81))

    def reset(self) -> None:
        """A controller level reset (base 2.0, 3.7.2): volatile settings go back, new firmware runs."""
        self.disk.tick()
        self.no_deallocate_warns = False
        self.image.clear()
        self.disk.caching = self.spec.write_cache
        self.activate_waiting()

    def activate_waiting(self) -> None:
        """Run the firmware that a reset was to bring."""
        if self.state.next:
            self.state.active, self.state.next = self.state.next, 0
            self.disk.state.firmware = self.state.slots[self.state.active - 1]
            self.disk.save()

    def power_off(self) -> None:
        self.disk.power_off()

    def power_on(self) -> None:
        self.disk.power_on()
        self.hosts.clear()
        self.failures.clear()
        self.reset()
        self.come_up()

    def power_cycle(self) -> None:
        """Power goes and comes back: what was not kept is lost, what must go on goes on."""
        self.power_off()
        self.power_on()

    def come_up(self) -> None:
        """A sanitize goes on where it was; a format does not, and leaves the namespace unusable."""
        for namespace in self.state.namespaces:
            if namespace.format == "running":
                namespace.format = "incomplete"
        if self.disk.state.format == "running":
            self.disk.state.format = "corrupted"
        purge.resume(self.disk, self.sanitized)
        self.disk.save()


def _factory(spec: NvmeSpec, disk: Flash) -> NvmeState:
    """As the drive leaves the factory."""
    state = NvmeState(slots=[spec.revision, *[""] * (spec.slots - 1)])
    disk.state.nvme = state
    for nsid, wanted in enumerate(spec.factory, 1):
        state.made += 1
        state.namespaces.append(
            Namespace(
                nsid=nsid,
                extents=disk.allocate(wanted.blocks),
                sector=wanted.sector,
                attached=wanted.attached,
                serial=state.made,
            )
        )
    return state


def _never() -> NvmeAnswer:
    return NEVER


NEVER = NvmeWait(until=math.inf, finish=_never)
# What the medium says in the words of SCSI, by additional sense code.
_STATUSES: dict[int, int] = {
    0x0C: Code.WRITE_FAULT,
    0x11: Code.UNRECOVERED_READ,
    0x21: Code.LBA_OUT_OF_RANGE,
    0x27: Code.WRITE_PROTECTED,
}
