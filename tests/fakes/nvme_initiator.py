"""A small NVMe/TCP host: enough of the transport to drive a target, or to break its rules."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

SECONDS = 30.0
HOST_ID = bytes(range(16))
HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:00010203-0405-0607-0809-0a0b0c0d0e0f"
_CASTAGNOLI = 0x82F63B78


class RefusedError(Exception):
    """A command ended with a status: SCT << 8 | SC."""

    def __init__(self, status: int, result: int, *, final: bool) -> None:
        super().__init__(f"status {status:03x}h, result {result:x}h")
        self.status = status
        self.result = result
        self.final = final  # "do not retry"


@dataclass(slots=True)
class Done:
    """A completion and the data that came with it."""

    status: int
    result: int
    head: int
    final: bool
    data: bytes


def crc32c(data: bytes) -> bytes:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)
    return struct.pack("<I", value ^ 0xFFFFFFFF)


class Connection:
    """One queue. ``digests``: bit 0 of headers, bit 1 of data."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, digests: int) -> None:
        self.reader = reader
        self.writer = writer
        self.digests = digests
        self.max_out = 0
        self._cid = 0
        self._waiting: dict[int, asyncio.Future[Done]] = {}
        self._data: dict[int, bytearray] = {}
        self._sending: dict[int, bytes] = {}
        self._pump: asyncio.Task[None] | None = None
        self.terminated = b""

    async def begin(self, *, align: int = 0) -> None:
        self.writer.write(
            struct.pack("<BBBBI", 0, 0, 128, 0, 128)
            + struct.pack("<HBBI", 0, align, self.digests, 0).ljust(120, b"\0")
        )
        answer = await self.reader.readexactly(128)
        assert (answer[0], answer[2], answer[11]) == (1, 128, self.digests)
        (self.max_out,) = struct.unpack_from("<I", answer, 12)
        self._pump = asyncio.create_task(self._receive())

    async def close(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        self.writer.close()

    async def ended(self) -> None:
        """Until the target has closed the connection."""
        assert self._pump is not None
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(self._pump, return_exceptions=True)

    # --- units

    def unit(self, kind: int, body: bytes, data: bytes = b"", *, flags: int = 0) -> bytes:
        guarded = self.digests & 1
        length = 8 + len(body)
        offset = length + (4 if guarded else 0)
        tail = 4 if data and self.digests & 2 else 0
        flags |= guarded | (2 if tail else 0)
        head = (
            struct.pack("<BBBBI", kind, flags, length, offset if data else 0, offset + len(data) + tail)
            + body
        )
        return head + (crc32c(head) if guarded else b"") + data + (crc32c(data) if tail else b"")

    async def _receive(self) -> None:
        try:
            while True:
                await self._take()
        except (asyncio.IncompleteReadError, OSError) as error:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionError(str(error)))

    async def _take(self) -> None:
        common = await self.reader.readexactly(8)
        kind, flags, length, offset, total = struct.unpack("<BBBBI", common)
        rest = await self.reader.readexactly(total - 8)
        whole = common + rest
        if flags & 1:
            assert whole[length : length + 4] == crc32c(whole[:length])
        if kind == 3:
            self.terminated = whole
            return
        if kind == 7:
            cid, at, size = struct.unpack_from("<H2xII", whole, 8)
            data = whole[offset : offset + size]
            if flags & 2:
                assert whole[offset + size :] == crc32c(data)
            assert at == len(self._data[cid])
            self._data[cid] += data
        elif kind == 9:
            cid, tag, at, size = struct.unpack_from("<HHII", whole, 8)
            await self._send_data(cid, tag, at, size)
        else:
            assert kind == 5
            result, head, cid, status = struct.unpack_from("<QH2xHH", whole, 8)
            self._waiting.pop(cid).set_result(
                Done(status >> 1 & 0x7FF, result, head, bool(status >> 15), bytes(self._data.pop(cid)))
            )

    async def _send_data(self, cid: int, tag: int, at: int, size: int) -> None:
        end = at + size
        while at < end:
            part = self._sending[cid][at : min(end, at + min(self.max_out, 8192))]
            last = 4 if at + len(part) == end else 0
            self.writer.write(self.unit(6, struct.pack("<HHII4x", cid, tag, at, len(part)), part, flags=last))
            at += len(part)
        await self.writer.drain()

    # --- commands

    def submit(
        self, opcode: int, *, nsid: int = 0, words: tuple[int, ...] = (), data: bytes = b"", expect: int = 0,
        kind: int | None = None, capsule: bool | None = None,
    ) -> asyncio.Future[Done]:  # fmt: skip
        """Send a command; ``words`` are cdw10 and on. Data up to 8 KiB go in the capsule."""
        self._cid = (self._cid + 1) % 0x10000
        cid, size = self._cid, len(data) or expect
        inside = len(data) <= 8192 if capsule is None else capsule
        entry = bytearray(64)
        struct.pack_into("<BBHI", entry, 0, opcode, 0x40, cid, nsid if kind is None else kind)
        struct.pack_into("<QI3xB", entry, 24, 0, size, 0x01 if data and inside else 0x5A)
        struct.pack_into(f"<{len(words)}I", entry, 40, *words)
        future = self._waiting[cid] = asyncio.get_running_loop().create_future()
        self._data[cid] = bytearray()
        self._sending[cid] = data
        self.writer.write(self.unit(4, bytes(entry), data if inside else b""))
        return future

    async def run(self, opcode: int, *, nsid: int = 0, words: tuple[int, ...] = (), data: bytes = b"",
                  expect: int = 0, kind: int | None = None, capsule: bool | None = None) -> Done:  # fmt: skip
        """A command to its good end; RefusedError for a bad one."""
        future = self.submit(
            opcode, nsid=nsid, words=words, data=data, expect=expect, kind=kind, capsule=capsule
        )
        async with asyncio.timeout(SECONDS):
            done = await future
        if done.status:
            raise RefusedError(done.status, done.result, final=done.final)
        return done

    async def connect(
        self, nqn: str, number: int = 0, *, size: int = 32, keep_alive: int = 0, controller: int = 0xFFFF
    ) -> int:
        """Fabrics Connect; the controller's identifier."""
        data = bytearray(1024)
        data[:16] = HOST_ID
        struct.pack_into("<H", data, 16, controller)
        for at, name in ((256, nqn), (512, HOST_NQN)):
            data[at : at + len(name)] = name.encode()
        words = (number << 16, size - 1, keep_alive)
        return (await self.run(0x7F, kind=0x01, words=words, data=bytes(data))).result & 0xFFFF

    async def get(self, offset: int, *, wide: bool = False) -> int:
        return (await self.run(0x7F, kind=0x04, words=(int(wide), offset))).result

    async def set(self, offset: int, value: int) -> None:
        await self.run(0x7F, kind=0x00, words=(0, offset, value))


@asynccontextmanager
async def dialled(host: str, port: int, *, digests: int = 0, align: int = 0) -> AsyncIterator[Connection]:
    """A connection that is initialized."""
    reader, writer = await asyncio.open_connection(host, port)
    connection = Connection(reader, writer, digests)
    try:
        async with asyncio.timeout(SECONDS):
            await connection.begin(align=align)
        yield connection
    finally:
        await connection.close()


class Host:
    """A host that has connected: an admin queue and I/O queues."""

    def __init__(self, admin: Connection, queues: list[Connection]) -> None:
        self.admin = admin
        self.queues = queues

    async def identify(self, kind: int, nsid: int = 0) -> bytes:
        return (await self.admin.run(0x06, nsid=nsid, words=(kind,), expect=4096)).data

    async def log(self, page: int, size: int = 512) -> bytes:
        word = page | (size // 4 - 1) << 16
        return (await self.admin.run(0x02, nsid=0xFFFFFFFF, words=(word,), expect=size)).data

    async def sanitize_status(self) -> tuple[int, int]:
        """SPROG and SSTAT."""
        progress, status = struct.unpack_from("<HH", await self.log(0x81))
        return progress, status

    async def read(self, nsid: int, lba: int, count: int, *, sector: int = 512, queue: int = 0) -> bytes:
        words = (lba & 0xFFFFFFFF, lba >> 32, count - 1)
        return (await self.queues[queue].run(0x02, nsid=nsid, words=words, expect=count * sector)).data

    async def write(self, nsid: int, lba: int, data: bytes, *, sector: int = 512, queue: int = 0,
                    capsule: bool | None = None) -> None:  # fmt: skip
        words = (lba & 0xFFFFFFFF, lba >> 32, len(data) // sector - 1)
        await self.queues[queue].run(0x01, nsid=nsid, words=words, data=data, capsule=capsule)

    async def flush(self, nsid: int) -> None:
        await self.queues[0].run(0x00, nsid=nsid)


@asynccontextmanager
async def connected(host: str, port: int, nqn: str, *, queues: int = 1, digests: int = 0, keep_alive: int = 0,
                    align: int = 0) -> AsyncIterator[Host]:  # fmt: skip
    """Connect as a kernel does: admin queue, enable, number of queues, I/O queues."""
    async with dialled(host, port, digests=digests, align=align) as admin:
        controller = await admin.connect(nqn, keep_alive=keep_alive)
        capabilities = await admin.get(0x00, wide=True)
        assert capabilities & 0xFFFF >= 31
        assert capabilities >> 37 & 1
        await admin.set(0x14, 6 << 16 | 4 << 20 | 1)
        assert await admin.get(0x1C) & 1
        await admin.run(0x09, words=(0x07, (queues - 1) | (queues - 1) << 16))
        opened: list[Connection] = []
        try:
            for number in range(1, queues + 1):
                reader, writer = await asyncio.open_connection(host, port)
                connection = Connection(reader, writer, digests)
                opened.append(connection)
                await connection.begin(align=align)
                await connection.connect(nqn, number, controller=controller)
            yield Host(admin, opened)
        finally:
            for connection in opened:
                await connection.close()
