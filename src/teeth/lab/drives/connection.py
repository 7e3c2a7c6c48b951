"""One iSCSI connection, which is one session (RFC 7143; MaxConnections is 1, error recovery level 0)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from teeth.lab.drives.answer import Command, Reply, check
from teeth.lab.drives.blocks import data_out_length
from teeth.lab.drives.inquiry import MAX_TRANSFER
from teeth.lab.drives.negotiate import Agreed
from teeth.lab.drives.pdu import HEADER, Op, Pdu, PduError, build, build_keys, padded, parse_keys, sizes
from teeth.lab.drives.sense import DATA_PHASE, LUN_NOT_SUPPORTED, Status, invalid_field
from teeth.lab.drives.served import Served

_log = logging.getLogger(__name__)
WINDOW = 32  # commands an initiator may have open
HELD_MAX = 32 << 20
_NONE = 0xFFFFFFFF
_READS, _WRITES = 0x40, 0x20
_DRAIN_SECONDS = 30.0  # an initiator that takes no data for so long is gone


class Stream(Protocol):
    """What a connection needs of asyncio's stream pair."""

    async def receive(self, limit: int) -> Pdu: ...

    async def send(self, data: bytes) -> None: ...


class PduStream:
    """Units over asyncio streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self, limit: int) -> Pdu:
        """The next unit; asyncio.IncompleteReadError at the end, PduError for one that is too big."""
        header = await self._reader.readexactly(HEADER)
        extra, length = sizes(header, limit)
        ahs = await self._reader.readexactly(extra) if extra else b""
        data = await self._reader.readexactly(padded(length)) if length else b""
        return Pdu(header=header, extra=ahs, data=data[:length])

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(_DRAIN_SECONDS):
            await self._writer.drain()


@dataclass(slots=True, kw_only=True)
class _Task:
    """A SCSI command on its way: its data may still be coming."""

    pdu: Pdu
    cdb: bytes
    expected: int
    data: bytearray = field(default_factory=bytearray)
    asked: int = 0
    r2t: int = 0
    data_sn: int = 0
    burst_end: int = 0
    unsolicited: bool = False

    @property
    def wants_data(self) -> bool:
        return bool(self.pdu.flags & _WRITES) and len(self.data) < self.expected


class Session:
    """The full feature phase. ``nexus`` names the initiator; ``targets`` answers SendTargets."""

    def __init__(
        self,
        stream: Stream,
        agreed: Agreed,
        *,
        served: Served | None,
        nexus: str,
        targets: Mapping[str, str],
        stat_sn: int,
        cmd_sn: int,
        segment: int,
    ) -> None:
        self._stream = stream
        self._agreed = agreed
        self._served = served
        self._nexus = nexus
        self._targets = targets
        self._stat_sn = stat_sn
        self._cmd_sn = cmd_sn
        self._segment = segment
        self._writing: dict[int, _Task] = {}
        self._asking: deque[_Task] = deque()
        self._asked: _Task | None = None
        self._held = 0  # bytes of data that commands under way brought
        self._running: dict[int, asyncio.Task[Reply | None]] = {}
        self._ends: dict[asyncio.Task[None], None] = {}
        self._failed = asyncio.Event()

    async def serve(self) -> None:
        """Until logout, the other's end or a broken unit."""
        reading = asyncio.create_task(self._read())
        failing = asyncio.create_task(self._failed.wait())
        try:
            await asyncio.wait({reading, failing}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
        finally:
            for task in (reading, failing, *self._running.values(), *self._ends):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(reading, failing, return_exceptions=True)

    def drop(self) -> None:
        """End the session: the drive is gone."""
        self._failed.set()

    async def _read(self) -> None:
        while True:
            try:
                pdu = await self._stream.receive(self._segment)
            except PduError as error:
                _log.info("unit refused: %s", error)
                return
            if not await self._take(pdu):
                return

    async def _take(self, pdu: Pdu) -> bool:
        """Whether the session goes on after this unit."""
        if pdu.opcode == Op.DATA_OUT:
            await self._data_out(pdu)
            return True
        if pdu.opcode not in (Op.NOP_OUT, Op.COMMAND, Op.TASK_MANAGEMENT, Op.TEXT, Op.LOGOUT):
            await self._reject(pdu, 0x04 if pdu.opcode == Op.LOGIN else 0x05)
            return True
        if not self._in_order(pdu):
            return True
        try:
            match pdu.opcode:
                case Op.NOP_OUT:
                    await self._nop(pdu)
                case Op.COMMAND:
                    await self._command(pdu)
                case Op.TASK_MANAGEMENT:
                    await self._manage(pdu)
                case Op.TEXT:
                    await self._text(pdu)
                case _:
                    await self._answer(Op.LOGOUT_RESPONSE, 0x80, tag=pdu.tag, fields={40: 0x00020000})
                    return False
        except PduError as error:
            await self._reject(pdu, error.reason)
        return True

    def _in_order(self, pdu: Pdu) -> bool:
        """Commands that are not in turn are ignored, as RFC 7143 4.2.2.1 asks for ones outside the window."""
        if pdu.immediate:
            return True
        if pdu.number(24) != self._cmd_sn:
            _log.info("command number %d where %d is next", pdu.number(24), self._cmd_sn)
            return False
        self._cmd_sn = self._cmd_sn + 1 & _NONE
        return True

    # --- sending

    async def _answer(
        self,
        opcode: int,
        flags: int,
        *,
        tag: int = _NONE,
        data: bytes = b"",
        bytes_2_3: bytes = b"\0\0",
        lun: bytes = bytes(8),
        fields: Mapping[int, int] | None = None,
        counts: bool = True,
    ) -> None:
        """Send a unit with the sequence numbers of now; ``counts`` when it takes a status number."""
        numbers = {24: self._stat_sn, 28: self._cmd_sn, 32: self._cmd_sn + self._room() - 1}
        if counts:
            self._stat_sn = self._stat_sn + 1 & _NONE
        unit = build(
            opcode,
            flags,
            data=data,
            tag=tag,
            bytes_2_3=bytes_2_3,
            lun=lun,
            fields={**numbers, **(fields or {})},
        )
        await self._stream.send(unit)

    def _room(self) -> int:
        return max(0, WINDOW - len(self._running) - len(self._writing))

    async def _reject(self, pdu: Pdu, reason: int) -> None:
        await self._answer(Op.REJECT, 0x80, data=pdu.header, bytes_2_3=bytes((reason, 0)))

    # --- small requests

    async def _nop(self, pdu: Pdu) -> None:
        if pdu.tag == _NONE:
            return
        data = pdu.data[: self._agreed.their_segment]
        await self._answer(Op.NOP_IN, 0x80, tag=pdu.tag, data=data, lun=pdu.lun, fields={20: _NONE})

    async def _text(self, pdu: Pdu) -> None:
        if not pdu.final or pdu.flags & 0x40:
            raise PduError("a text request in parts", reason=0x0B)
        wanted = parse_keys(pdu.data).get("SendTargets")
        keys: list[tuple[str, str]] = []
        if wanted is not None:
            own = self._served.iqn if self._served else None
            for iqn, address in self._targets.items():
                if wanted in ("All", iqn) or (wanted == "" and iqn == own):
                    keys += [("TargetName", iqn), ("TargetAddress", f"{address},1")]
        await self._answer(
            Op.TEXT_RESPONSE, 0x80, tag=pdu.tag, data=build_keys(keys), lun=pdu.lun, fields={20: _NONE}
        )

    async def _manage(self, pdu: Pdu) -> None:
        """Task management (RFC 7143 11.5): abort, LUN reset, target resets."""
        function, served = pdu.flags & 0x7F, self._served
        response = 0x00
        if served is None:
            response = 0x05
        elif function == 1:
            response = await self._abort(pdu.number(20), served)
        elif function in (2, 4):
            for tag in [*self._writing, *self._running]:
                await self._abort(tag, served)
        elif function == 5 and any(pdu.lun):
            response = 0x02
        elif function in (5, 6, 7):
            self._forget_writes()
            served.reset()
        else:
            response = 0x05
        await self._answer(Op.TASK_RESPONSE, 0x80, tag=pdu.tag, bytes_2_3=bytes((response, 0)))

    async def _abort(self, tag: int, served: Served) -> int:
        if (task := self._writing.pop(tag, None)) is not None:
            await self._done_asking(task)
            return 0x00
        running = self._running.get(tag)
        if running is None or running.done():
            return 0x01  # carried out: its answer is on the way
        served.abort(running)
        await asyncio.wait({running})
        return 0x00 if running.cancelled() else 0x01

    def _forget_writes(self) -> None:
        self._writing.clear()
        self._asking.clear()
        self._asked = None

    # --- SCSI commands

    async def _command(self, pdu: Pdu) -> None:
        if self._served is None:
            raise PduError("a SCSI command in a discovery session", reason=0x0B)
        if pdu.tag in self._writing or pdu.tag in self._running:
            raise PduError("a task tag in use", reason=0x0A)
        if len(self._writing) + len(self._running) >= 2 * WINDOW:
            raise PduError("too many immediate commands", reason=0x06)
        task = _Task(pdu=pdu, cdb=_cdb(pdu), expected=pdu.number(20))
        if pdu.data and not (self._agreed.immediate_data and pdu.flags & _WRITES):
            raise PduError("immediate data where none may be", reason=0x04)
        if task.wants_data and task.expected > MAX_TRANSFER:
            await self._respond(task, check(invalid_field(0)))
            return
        task.data += pdu.data[: task.expected]
        task.unsolicited = not pdu.final
        if task.unsolicited and self._agreed.initial_r2t:
            raise PduError("unsolicited data where none may be", reason=0x04)
        if not task.wants_data:
            self._start(task)
            return
        self._writing[pdu.tag] = task
        if not task.unsolicited:
            await self._ask(task)

    async def _ask(self, task: _Task) -> None:
        self._asking.append(task)
        await self._ask_next()

    async def _ask_next(self) -> None:
        """Ask for one command's data at a time, and for none while much is held: memory stays bounded."""
        if self._asked is None and self._asking and self._held <= HELD_MAX:
            self._asked = self._asking.popleft()
            await self._ready_to_transfer(self._asked)

    async def _ready_to_transfer(self, task: _Task) -> None:
        start = len(task.data)
        length = min(self._agreed.max_burst, task.expected - start)
        task.burst_end = start + length
        number, task.r2t = task.r2t, task.r2t + 1
        await self._answer(
            Op.R2T, 0x80, tag=task.pdu.tag, lun=task.pdu.lun, counts=False,
            fields={20: number, 36: number, 40: start, 44: length},
        )  # fmt: skip

    async def _done_asking(self, task: _Task) -> None:
        if task in self._asking:
            self._asking.remove(task)
        if self._asked is task:
            self._asked = None
        await self._ask_next()

    async def _data_out(self, pdu: Pdu) -> None:
        task = self._writing.get(pdu.tag)
        if task is None:
            return  # an aborted command's data may still be on their way
        solicited = pdu.number(20) != _NONE
        fits = len(task.data) + len(pdu.data) <= (task.burst_end if solicited else self._agreed.first_burst)
        wrong = pdu.number(40) != len(task.data) or pdu.number(36) != task.data_sn
        if wrong or solicited == task.unsolicited or not fits:
            await self._reject(pdu, 0x04)
            del self._writing[pdu.tag]
            await self._done_asking(task)
            await self._respond(task, check(DATA_PHASE))
            return
        task.data += pdu.data
        task.data_sn += 1
        if not pdu.final:
            return
        task.data_sn = 0
        if len(task.data) < task.expected:
            if task.unsolicited:
                task.unsolicited = False
                await self._ask(task)
            else:
                await self._ready_to_transfer(task)
            return
        del self._writing[pdu.tag]
        await self._done_asking(task)
        self._start(task)

    def _start(self, task: _Task) -> None:
        served = self._served
        assert served is not None
        command = Command(cdb=task.cdb, data=bytes(task.data), nexus=self._nexus, expected=task.expected)
        running = asyncio.create_task(_run(served, command, task.pdu.lun))
        served.follow(running)
        self._running[task.pdu.tag] = running
        self._held += len(task.data)
        end = asyncio.create_task(self._finish(task, running))
        self._ends[end] = None
        end.add_done_callback(lambda done: self._ends.pop(done, None))

    async def _finish(self, task: _Task, running: asyncio.Task[Reply | None]) -> None:
        try:
            await asyncio.wait({running})
            del self._running[task.pdu.tag]
            self._held -= len(task.data)
            await self._ask_next()
            if running.cancelled():
                return
            reply = running.result()
            if reply is None:
                self.drop()
                return
            await self._respond(task, reply)
        except (OSError, TimeoutError):
            self.drop()
        except Exception:
            _log.exception("command %s", task.cdb.hex())
            self.drop()

    async def _respond(self, task: _Task, reply: Reply) -> None:
        reads = bool(task.pdu.flags & _READS)
        data = reply.data[: task.expected] if reads else b""
        flags, residual = _residual(task, reply, reads=reads, served=self._served)
        with_status = reply.good and bool(data)
        if data:
            await self._data_in(task, data, flags if with_status else None, residual)
        if with_status:
            return
        raw = reply.raw or (reply.sense.fixed() if reply.sense else b"")
        sense = len(raw).to_bytes(2, "big") + raw if raw else b""
        await self._answer(
            Op.RESPONSE, 0x80 | flags, tag=task.pdu.tag, data=sense, bytes_2_3=bytes((0, reply.status)),
            fields={36: 0, 44: residual},
        )  # fmt: skip

    async def _data_in(self, task: _Task, data: bytes, flags: int | None, residual: int) -> None:
        """The data in segments; with ``flags`` the last one carries the good status too."""
        step = self._agreed.their_segment
        for number, at in enumerate(range(0, len(data), step)):
            part = data[at : at + step]
            last = at + step >= len(data)
            # The F bit ends a burst too.
            ends = last or (at + step) % self._agreed.max_burst < step
            bits = 0x80 if ends else 0
            status = last and flags is not None
            if status and flags is not None:
                bits |= 0x01 | flags
            fields = {20: _NONE, 36: number, 40: at, 44: residual if status else 0}
            if not status:
                fields[24] = 0
            await self._answer(
                Op.DATA_IN, bits, tag=task.pdu.tag, data=part, lun=bytes(8), fields=fields, counts=status
            )


def _cdb(pdu: Pdu) -> bytes:
    """The command's bytes; an extended CDB of more than 16 is not ours."""
    return pdu.header[32:48]


async def _run(served: Served, command: Command, lun: bytes) -> Reply | None:
    if any(lun):
        return _no_unit(command)
    return await served.run(command)


def _no_unit(command: Command) -> Reply:
    """What an address without a logical unit says (SPC-5 6.7.1, SAM-5 4.7.1)."""
    if command.cdb[0] == 0x12 and not command.cdb[1] & 0x01:
        data = bytes((0x7F, 0, 0x06, 0x12, 31)) + bytes(31)
        return Reply(data=data[: int.from_bytes(command.cdb[3:5], "big")])
    if command.cdb[0] == 0xA0:
        return Reply(data=(8).to_bytes(4, "big") + bytes(12))
    if command.cdb[0] == 0x03:
        return Reply(data=LUN_NOT_SUPPORTED.fixed()[: command.cdb[4]])
    return check(LUN_NOT_SUPPORTED)


def _residual(task: _Task, reply: Reply, *, reads: bool, served: Served | None) -> tuple[int, int]:
    """(flags, count): what moved against what the initiator expected (RFC 7143 11.4.5)."""
    moved = len(reply.data) if reads else 0
    if not reads and task.pdu.flags & _WRITES and served is not None:
        wanted = data_out_length(task.cdb, served.unit.disk.spec.sector)
        moved = task.expected if wanted is None else wanted
    if reply.status is not Status.GOOD and not moved:
        return (0x02, task.expected) if reads and task.expected else (0, 0)
    if moved < task.expected:
        return 0x02, task.expected - moved
    return (0x04, moved - task.expected) if moved > task.expected else (0, 0)
