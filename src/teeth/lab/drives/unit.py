"""A SCSI logical unit: what its commands share, and the rules that stand before every command."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from teeth.lab.drives.answer import Answer, Command, Refused, Reply, Wait, check
from teeth.lab.drives.disk import Disk
from teeth.lab.drives.holders import Access, Reservations
from teeth.lab.drives.sense import (
    FORMAT_CORRUPTED,
    FORMAT_FAILED,
    INVALID_OPCODE,
    LUN_RESET,
    PARAMETER_LENGTH,
    POWER_ON,
    SANITIZE_FAILED,
    STOPPED,
    Sense,
    Status,
    formatting,
    invalid_field,
    sanitizing,
)

NEVER = float("inf")
_NEXUSES = 64  # initiators remembered; more of them lose the oldest's unit attentions
_ATTENTIONS = 8


Handler = Callable[["Unit", Command], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One command of the table. ``usage`` is the CDB usage map of REPORT SUPPORTED OPERATION CODES, in hex.

    ``service`` is the service action where the opcode has some. ``early`` commands are carried out although
    the medium is being sanitized or formatted, or failed to be; ``stopped`` ones although the motor is.
    ``attentive`` ones leave unit attentions alone.
    """

    opcode: int
    name: str
    usage: str
    handler: Handler
    service: int | None = None
    access: Access = Access.READ
    early: bool = False
    stopped: bool = False
    attentive: bool = False
    seconds: int = 30

    @property
    def length(self) -> int:
        return len(bytes.fromhex(self.usage))


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What INQUIRY says of a drive; a SATA drive's is put together by its translator."""

    vendor: str
    product: str
    revision: str
    sata: bool


def model_name(disk: Disk) -> str:
    """The ATA model number, 40 characters at most."""
    return f"{disk.spec.vendor} {disk.spec.product}"[:40]


class Unit:
    """A logical unit over a Disk. ``operations``: rows by opcode and service action or None."""

    def __init__(self, disk: Disk, operations: Mapping[tuple[int, int | None], Operation]) -> None:
        self.disk = disk
        self.operations = operations
        self.stopped = False
        # Mode pages as they are now, where they differ from what the drive starts with.
        self.modes: dict[int, bytes] = {}
        self.microcode = bytearray()
        self.data_buffer = bytearray(4096)
        self.reservations = Reservations()
        self.reservations.load(disk)
        self._attention: dict[str, deque[Sense]] = {}

    # --- the way of a command

    def execute(self, command: Command) -> Answer:
        """Carry out one command. A Wait must be finished, or given up by a reset, before the next one."""
        self.settle()
        if not self.disk.powered:
            return _NEVER
        delay = sum(behaviour.delay(self.disk) for behaviour in self.disk.behaviours)
        if delay > 0:
            return Wait(until=self.disk.clock() + delay, finish=lambda: self._begin(command))
        return self._begin(command)

    def settle(self) -> None:
        """Bring the drive to where the clock is; a power cut that a fault asked for happens here."""
        self.disk.tick()
        if self.disk.cut:
            self.disk.cut = False
            self.power_cycle()

    def _begin(self, command: Command) -> Answer:
        self.settle()
        for behaviour in self.disk.behaviours:
            if (reply := behaviour.before(self.disk, command)) is not None:
                return self._sealed(reply)
        return self._through(command, lambda: self._carry_out(command))

    def _through(self, command: Command, act: Callable[[], Answer]) -> Answer:
        """What ``act`` gives, its refusals turned into check conditions, lies told, sense data encoded."""
        life = self.disk.state.power_cycles
        self.settle()
        try:
            answer = act() if self.disk.state.power_cycles == life else _NEVER
        except Refused as refused:
            answer = check(refused.sense)
        self.settle()
        if self.disk.state.power_cycles != life:
            return _NEVER  # the command went with the power
        if isinstance(answer, Wait):
            inner = answer
            return replace(inner, finish=lambda: self._through(command, inner.finish))
        for behaviour in self.disk.behaviours:
            answer = behaviour.after(self.disk, command, answer)
        return self._sealed(answer)

    def _carry_out(self, command: Command) -> Answer:
        operation = self.find(command.cdb)
        if operation is None:
            known = any(opcode == command.cdb[0] for opcode, _ in self.operations) if command.cdb else False
            # The opcode is there, this service action is not.
            raise Refused(invalid_field(1) if known else INVALID_OPCODE)
        if len(command.cdb) < operation.length:
            raise Refused(PARAMETER_LENGTH)
        pending = self._attention.setdefault(command.nexus, deque(maxlen=_ATTENTIONS))
        while len(self._attention) > _NEXUSES:
            self._attention.pop(next(iter(self._attention)))
        if pending and not operation.attentive:
            raise Refused(pending.popleft())
        if not self.reservations.admits(command.nexus, operation.access):
            return Reply(status=Status.RESERVATION_CONFLICT)
        if (sense := self.not_ready(operation)) is not None:
            raise Refused(sense)
        return operation.handler(self, command)

    def find(self, cdb: bytes) -> Operation | None:
        """The table's row for a command."""
        if not cdb:
            return None
        row = self.operations.get((cdb[0], None))
        if row is None and len(cdb) > 1:
            # Variable places of the service action: byte 1 in all commands that are in the table.
            row = self.operations.get((cdb[0], cdb[1] & 0x1F))
        return row

    def not_ready(self, operation: Operation) -> Sense | None:
        """Why the medium cannot be had for ``operation`` now, None when it can."""
        if not operation.early and (sense := self.medium_trouble()) is not None:
            return sense
        if self.stopped and not (operation.early or operation.stopped):
            return STOPPED
        return None

    def medium_trouble(self) -> Sense | None:
        """What keeps the medium away: an erase under way, or one that failed."""
        state = self.disk.state
        if state.sanitize.state == "running":
            return sanitizing(self.disk.said_fraction())
        if state.sanitize.state == "failed":
            return SANITIZE_FAILED
        return _FORMAT_TROUBLE.get(state.format) or (
            formatting(self.disk.said_fraction()) if state.format == "running" else None
        )

    def _sealed(self, reply: Reply) -> Reply:
        if reply.sense is None or reply.raw:
            return reply
        raw = reply.sense.descriptor() if self.descriptor_sense else reply.sense.fixed()
        return replace(reply, raw=raw)

    @property
    def descriptor_sense(self) -> bool:
        """D_SENSE of the control mode page."""
        control = self.modes.get(0x0A) or bytes.fromhex(self.disk.state.modes.get("10", ""))
        return bool(control[2] & 0x04) if control else self.disk.spec.descriptor_sense

    def identity(self) -> Identity:
        spec = self.disk.spec
        return Identity(
            vendor=spec.vendor,
            product=spec.product[:16],
            revision=self.disk.state.firmware[:4],
            sata=False,
        )

    def extra_pages(self) -> dict[int, bytes]:
        """Vital product data pages beyond those of every disk."""
        return {}

    def extra_logs(self) -> dict[int, Callable[[Unit], bytes]]:
        """Log pages beyond those of every disk, each with what makes its parameters."""
        return {}

    # --- unit attentions

    def attend(self, sense: Sense, *, but: str = "", only: str = "") -> None:
        """Let every known initiator know, except ``but``, or ``only`` one."""
        for nexus, pending in self._attention.items():
            if nexus != but and (not only or nexus == only) and sense not in pending:
                pending.append(sense)

    def next_attention(self, nexus: str) -> Sense | None:
        """The unit attention that REQUEST SENSE takes."""
        pending = self._attention.get(nexus)
        return pending.popleft() if pending else None

    # --- resets and power

    def reset(self) -> None:
        """A logical unit reset: volatile settings go back, a sanitize goes on (SBC-4 4.11.2)."""
        self.disk.tick()
        self.modes.clear()
        self.microcode.clear()
        self.attend(LUN_RESET)

    def power_off(self) -> None:
        self.disk.power_off()

    def power_on(self) -> None:
        self.disk.power_on()
        self.modes.clear()
        self.microcode.clear()
        self.stopped = False
        self.reservations.load(self.disk)
        for pending in self._attention.values():
            pending.clear()
        self.attend(POWER_ON)

    def power_cycle(self) -> None:
        """Power goes and comes back: what was not kept is lost, what must go on goes on."""
        self.power_off()
        self.power_on()


_NEVER = Wait(until=NEVER, finish=lambda: check(STOPPED))
_FORMAT_TROUBLE = {"failed": FORMAT_FAILED, "corrupted": FORMAT_CORRUPTED}
