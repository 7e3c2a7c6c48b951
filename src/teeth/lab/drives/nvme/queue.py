"""One NVMe/TCP connection, which is one queue pair (NVMe/TCP transport 1.0, 3; NVMe base 2.0, 6)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from teeth.lab.drives.nvme import pdu
from teeth.lab.drives.nvme.association import QUEUE_SIZE, Association
from teeth.lab.drives.nvme.core import EVENT_REQUESTS
from teeth.lab.drives.nvme.fields import take
from teeth.lab.drives.nvme.identify import IN_CAPSULE, TRANSFER_MAX
from teeth.lab.drives.nvme.pdu import Digests, Fatal, Pdu, PduError, Type
from teeth.lab.drives.submission import Code, NvmeCommand, NvmeRefused, NvmeReply

_log = logging.getLogger(__name__)
_START_SECONDS = 20.0  # for the first unit, and for Connect
_DRAIN_SECONDS = 30.0  # a host that takes no data for so long is gone
_LARGE = 8  # commands with much data that are under way at a time
FABRICS, EVENT_REQUEST = 0x7F, 0x0C
CONNECT, DISCONNECT = 0x01, 0x08
CONTROLLER_BUSY = 0x181  # base 2.0, 6.3: to be tried again
_RETRIABLE = frozenset({Code.INTERRUPTED, Code.NOT_READY, Code.DATA_TRANSFER_ERROR, CONTROLLER_BUSY})
_TRANSIENT_DIGEST = 0x022  # Transient Transport Error


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A submission queue entry: 64 bytes (base 2.0, 3.3.3.1)."""

    raw: bytes

    @property
    def opcode(self) -> int:
        return self.raw[0]

    @property
    def cid(self) -> int:
        return take(self.raw, 2, 2)

    @property
    def kind(self) -> int:
        """The fabrics command type."""
        return self.raw[4]

    @property
    def to_controller(self) -> bool:
        """Whether data go from the host to the controller (base 2.0, 3.3.3.1: bits 1:0 of the opcode)."""
        return (self.kind if self.opcode == FABRICS else self.opcode) & 0x01 == 1

    @property
    def length(self) -> int:
        """Bytes that its one SGL descriptor is for."""
        return take(self.raw, 32, 4)

    @property
    def address(self) -> int:
        return take(self.raw, 24, 8)

    @property
    def descriptor(self) -> int:
        """The descriptor's type: 01h in the capsule, 5Ah by the transport (NVMe/TCP 1.0, 3.3)."""
        return self.raw[39]

    def command(self, data: bytes, *, io: bool) -> NvmeCommand:
        words = [take(self.raw, at, 4) for at in range(40, 64, 4)]
        return NvmeCommand(
            opcode=self.opcode,
            nsid=take(self.raw, 4, 4),
            cdw10=words[0], cdw11=words[1], cdw12=words[2], cdw13=words[3], cdw14=words[4], cdw15=words[5],
            data=data,
            io=io,
            expected=self.length,
        )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class _Transfer:
    """Data of one command on their way from the host: the part that was asked for last."""

    cid: int
    data: bytearray
    end: int
    intact: bool = True
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class Joiner(Protocol):
    """Who knows the associations there are."""

    def connect(self, queue: Queue, entry: Entry, data: bytes) -> Association:
        """The association that a Connect makes or joins. NvmeRefused when it cannot."""


class Queue:
    """A connection. ``number`` is that of the queue once it is connected, 0 for the admin queue."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, joiner: Joiner) -> None:
        self._reader = reader
        self._writer = writer
        self._joiner = joiner
        self._digests = Digests()
        self._align = 4
        self._association: Association | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._transfers: dict[int, _Transfer] = {}
        self._tag = 0
        self._head = 0
        self._large = asyncio.Semaphore(_LARGE)
        self._requests: deque[int] = deque()
        self._failed = asyncio.Event()
        self.number = 0
        self.size = QUEUE_SIZE

    def drop(self) -> None:
        """End the connection."""
        self._failed.set()

    async def serve(self) -> None:
        """Until the other's end, a broken unit, or the end of the association."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._begin()
            await self._run()
        except PduError as error:
            _log.info("connection refused: %s", error)
            await self._send(pdu.terminate(error))
        finally:
            for task in list(self._tasks):
                task.cancel()
            if self._association is not None:
                self._leave(self._association)

    def _leave(self, association: Association) -> None:
        association.ends.pop(self.number, None)
        if self.number == 0:
            association.end()

    async def _begin(self) -> None:
        """Initialize the connection (3.6.2.2, .3), then Connect."""
        first = await self._receive()
        if first.type != Type.IC_REQUEST or first.number(8, 2):
            raise PduError("not an ICReq of format 0", Fatal.SEQUENCE, header=first.header)
        wanted = first.header[11]
        if first.header[10] > 31 or wanted > 3:
            raise PduError("an ICReq that asks for what there is not", Fatal.INVALID_FIELD, at=10)
        self._align = (first.header[10] + 1) * 4
        digests = Digests(header=bool(wanted & 1), data=bool(wanted & 2))
        await self._send(pdu.ic_response(digests))
        self._digests = digests
        while self._association is None:
            unit = await self._receive()
            if unit.type != Type.COMMAND:
                raise PduError("not a Connect", Fatal.SEQUENCE, header=unit.header)
            await self._connect(Entry(raw=unit.header[8:72]), unit.data)

    async def _connect(self, entry: Entry, data: bytes) -> None:
        self._head = 1
        if entry.opcode != FABRICS or entry.kind != CONNECT:
            await self._answer(entry.cid, NvmeReply(status=Code.SEQUENCE_ERROR))
            return
        try:
            self._association = self._joiner.connect(self, entry, data)
        except NvmeRefused as refused:
            await self._answer(entry.cid, NvmeReply(status=refused.status, result=refused.result))
            return
        await self._answer(entry.cid, NvmeReply(result=self._association.controller))

    async def _run(self) -> None:
        assert self._association is not None
        waits = [asyncio.create_task(self._read()), asyncio.create_task(self._failed.wait())]
        if self.number == 0:
            self._association.host.notify = self._tell
            waits.append(asyncio.create_task(self._association.watch()))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    # --- units

    async def _receive(self) -> Pdu:
        common = await self._reader.readexactly(pdu.HEADER)
        limit = pdu.MAX_DATA_OUT if common[0] == Type.DATA_OUT else IN_CAPSULE
        parts = pdu.shape(common, self._digests, limit)
        header = common + await self._reader.readexactly(parts.header)
        if parts.header_digest:
            digest = await self._reader.readexactly(parts.header_digest)
            if digest != pdu.crc32c(header):
                raise PduError("a wrong header digest", Fatal.HEADER_DIGEST, header=header)
        await self._reader.readexactly(parts.padding)
        data = await self._reader.readexactly(parts.data)
        intact = True
        if parts.data_digest:
            intact = await self._reader.readexactly(parts.data_digest) == pdu.crc32c(data)
        return Pdu(header=header, data=data, intact=intact)

    async def _send(self, unit: bytes) -> None:
        if self._writer.is_closing():
            return
        self._writer.write(unit)
        async with asyncio.timeout(_DRAIN_SECONDS):
            await self._writer.drain()

    async def _answer(self, cid: int, reply: NvmeReply, *, data: bytes = b"") -> None:
        await self._send(self._completion(cid, reply, data))

    def _completion(self, cid: int, reply: NvmeReply, data: bytes = b"") -> bytes:
        """The data of a command and its completion, in one piece."""
        units = b""
        if data:
            units = pdu.data_in(cid, data, self._digests, offset=0, last=True, align=self._align)
        return units + pdu.response(
            cid, self._digests, status=reply.status, result=reply.result, head=self._head,
            queue=self.number, retry=reply.status in _RETRIABLE,
        )  # fmt: skip

    async def _read(self) -> None:
        while True:
            unit = await self._receive()
            match unit.type:
                case Type.COMMAND:
                    self._begun(unit)
                case Type.DATA_OUT:
                    self._data(unit)
                case Type.HOST_TERMINATE:
                    return
                case _:
                    raise PduError("a second ICReq", Fatal.SEQUENCE, header=unit.header)

    # --- commands

    def _begun(self, unit: Pdu) -> None:
        if len(self._tasks) >= self.size + EVENT_REQUESTS:
            raise PduError("more commands than the queue holds", Fatal.OUT_OF_RANGE, header=unit.header)
        self._head = (self._head + 1) % self.size
        task = asyncio.create_task(self._command(Entry(raw=unit.header[8:72]), unit))
        self._tasks[task] = None
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, OSError | TimeoutError):
                _log.error("command failed", exc_info=error)
            self.drop()

    async def _command(self, entry: Entry, unit: Pdu) -> None:
        association = self._association
        assert association is not None
        association.alive()
        try:
            if entry.opcode == EVENT_REQUEST and self.number == 0:
                self._wait_for_event(entry.cid)
            elif entry.length > IN_CAPSULE:
                async with self._large:
                    await self._carry_out(association, entry, unit)
            else:
                await self._carry_out(association, entry, unit)
        except NvmeRefused as refused:
            await self._answer(entry.cid, NvmeReply(status=refused.status, result=refused.result))

    async def _carry_out(self, association: Association, entry: Entry, unit: Pdu) -> None:
        data = await self._data_of(entry, unit)
        if entry.opcode == FABRICS:
            await self._answer(entry.cid, self._fabrics(association, entry))
            if entry.kind == DISCONNECT:
                self.drop()
            return
        if not association.ready:
            raise NvmeRefused(Code.SEQUENCE_ERROR)
        command = entry.command(data, io=self.number > 0)
        reply = await association.subsystem.run(command, association.host)
        if reply is None:
            self.drop()
        elif len(reply.data) > entry.length and command.io:
            raise NvmeRefused(Code.SGL_LENGTH)
        else:
            await self._answer(entry.cid, reply, data=reply.data[: entry.length] if reply.good else b"")

    def _fabrics(self, association: Association, entry: Entry) -> NvmeReply:
        offset, size = take(entry.raw, 44, 4), 8 if entry.raw[40] & 0x07 else 4
        match entry.kind:
            case 0x00 if self.number == 0:
                association.set(offset, size, take(entry.raw, 48, size))
                return NvmeReply()
            case 0x04 if self.number == 0:
                return NvmeReply(result=association.get(offset, size))
            case 0x08 if self.number:
                return NvmeReply()
            case 0x01:
                raise NvmeRefused(Code.SEQUENCE_ERROR)  # connected already
            case _:
                raise NvmeRefused(Code.INVALID_FIELD)

    # --- data from the host

    async def _data_of(self, entry: Entry, unit: Pdu) -> bytes:
        if not unit.intact:
            raise NvmeRefused(_TRANSIENT_DIGEST)
        if not entry.to_controller or not entry.length:
            return b""
        if entry.length > TRANSFER_MAX:
            raise NvmeRefused(Code.INVALID_FIELD)
        if entry.descriptor == 0x01:
            if entry.address + entry.length > len(unit.data):
                raise NvmeRefused(Code.SGL_OFFSET)
            return unit.data[entry.address : entry.address + entry.length]
        if entry.descriptor != 0x5A:
            raise NvmeRefused(Code.SGL_TYPE)
        return await self._ask_for(entry)

    async def _ask_for(self, entry: Entry) -> bytes:
        """The data of a command, by requests of one part after the other (3.6.2.10)."""
        tag = self._next_tag()
        transfer = self._transfers[tag] = _Transfer(cid=entry.cid, data=bytearray(), end=0)
        try:
            while len(transfer.data) < entry.length:
                part = min(pdu.MAX_DATA_OUT, entry.length - len(transfer.data))
                transfer.end += part
                transfer.arrived.clear()
                await self._send(pdu.ready(entry.cid, tag, len(transfer.data), part, self._digests))
                await transfer.arrived.wait()
        finally:
            del self._transfers[tag]
        if not transfer.intact:
            raise NvmeRefused(_TRANSIENT_DIGEST)
        return bytes(transfer.data)

    def _next_tag(self) -> int:
        self._tag = self._tag % 0xFFFF + 1
        while self._tag in self._transfers:
            self._tag = self._tag % 0xFFFF + 1
        return self._tag

    def _data(self, unit: Pdu) -> None:
        """H2CData, 3.6.2.8: what was asked for, in order."""
        cid, tag, offset, length = (unit.number(at, size) for at, size in ((8, 2), (10, 2), (12, 4), (16, 4)))
        transfer = self._transfers.get(tag)
        if transfer is None or transfer.cid != cid:
            raise PduError("data that nobody asked for", Fatal.INVALID_FIELD, at=10, header=unit.header)
        if length != len(unit.data) or offset != len(transfer.data) or offset + length > transfer.end:
            raise PduError("data beside what was asked for", Fatal.OUT_OF_RANGE, at=12, header=unit.header)
        transfer.data += unit.data
        transfer.intact &= unit.intact
        if len(transfer.data) == transfer.end:
            transfer.arrived.set()

    # --- events

    def _wait_for_event(self, cid: int) -> None:
        if len(self._requests) >= EVENT_REQUESTS:
            raise NvmeRefused(Code.TOO_MANY_EVENT_REQUESTS)
        self._requests.append(cid)
        self._tell()

    def _tell(self) -> None:
        """Answer requests for events with the events there are."""
        association = self._association
        while self._requests and association is not None and not self._writer.is_closing():
            event = association.subsystem.next_event(association.host)
            if event is None:
                return
            with contextlib.suppress(OSError):
                reply = NvmeReply(result=event.result)
                self._writer.write(self._completion(self._requests.popleft(), reply))
