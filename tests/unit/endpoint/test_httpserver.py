"""A door that is kept waiting: by many, by those who say little, by those who read little."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from teeth.endpoint import ca
from teeth.endpoint.admission import AdmissionLimits
from teeth.endpoint.httpserver import DoorLimits, Progress, listening_socket, serve

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Door:
    """A served application; ``given_up`` is set when a transfer was ended by the server."""

    def __init__(self) -> None:
        self.port = 0
        self.given_up = asyncio.Event()
        self.begun = asyncio.Event()

    def app(self) -> Starlette:
        async def hello(request: Request) -> Response:
            return PlainTextResponse("hello")

        async def endless(request: Request) -> Response:
            async def body() -> AsyncIterator[bytes]:
                try:
                    while True:
                        self.begun.set()
                        yield bytes(1 << 20)
                        await asyncio.sleep(0)  # as a file would: to a client that is gone nothing is awaited
                finally:
                    self.given_up.set()

            return StreamingResponse(body())

        return Starlette(routes=[Route("/", hello, methods=["GET", "POST"]), Route("/endless", endless)])

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@contextlib.asynccontextmanager
async def opened(tls: ssl.SSLContext | None = None, **limits: Any) -> AsyncIterator[Door]:
    door = Door()
    sock = listening_socket("127.0.0.1", 0, "test")
    door.port = sock.getsockname()[1]
    async with serve(door.app(), sock, tls, purpose="test", limits=DoorLimits(**limits)):
        yield door


async def answer(reader: asyncio.StreamReader) -> bytes:
    """A whole answer of the application."""
    async with asyncio.timeout(10):
        return await reader.readuntil(b"hello")


async def ended(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(10):
        try:
            while await reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
    return True


async def test_any_number_of_idle_connections_leaves_the_door_open() -> None:
    async with opened() as door:
        with contextlib.ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(socket.create_connection(("127.0.0.1", door.port), timeout=10))
            reader, writer = await door.connect()
            writer.write(GET)
            assert b"200" in await answer(reader)
            writer.close()


async def test_who_is_served_is_not_ended_for_another() -> None:
    limits = AdmissionLimits(connections=2, strangers=2)
    async with opened(admission=limits) as door:
        first = await door.connect()
        first[1].write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(door.begun.wait(), 10)
        second, third = await door.connect(), await door.connect()
        third[1].write(GET)
        assert b"200" in await answer(third[0])
        assert await ended(second[0])  # it had asked for nothing
        assert not door.given_up.is_set()
        for _, writer in (first, second, third):
            writer.close()
    assert door.given_up.is_set()


async def test_a_full_door_refuses(caplog: pytest.LogCaptureFixture) -> None:
    limits = AdmissionLimits(connections=1, strangers=1)
    async with opened(admission=limits) as door:
        _, writer = await door.connect()
        writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(door.begun.wait(), 10)
        refused, other = await door.connect()
        assert await ended(refused)
        writer.transport.abort()
        other.close()
    assert "connection refused door=test peer=127.0.0.1 reason=too many connections" in caplog.text


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\n",
        GET + b"GET / HT",  # a second request that is begun and not ended
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nless",  # answered before all of it came
    ],
)
async def test_who_says_too_little_is_ended(said: bytes) -> None:
    async with opened(idle=0.2) as door:
        reader, writer = await door.connect()
        writer.write(said)
        assert await ended(reader)
        writer.close()


async def test_drips_do_not_lengthen_the_wait() -> None:
    async with opened(idle=0.3) as door:
        reader, writer = await door.connect()
        over = asyncio.create_task(ended(reader))
        letters = iter(b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000)
        async with asyncio.timeout(10):
            while not over.done():
                writer.write(bytes([next(letters)]))
                await asyncio.wait([over], timeout=0.05)
        writer.close()


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with opened() as door:
        reader, writer = await door.connect()
        for _ in range(3):
            writer.write(GET)
            assert b"200" in await answer(reader)
        writer.close()


async def test_who_does_not_read_the_answer_is_given_up() -> None:
    async with opened(progress_within=0.3) as door:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", door.port))
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(door.given_up.wait(), 10)
        sock.close()


class Slow:
    """A transport whose buffer holds what is said, and a timer that rings when it is told to."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.aborted = False
        self.waits: list[tuple[float, Callable[[int], None], int]] = []

    def get_write_buffer_size(self) -> int:
        return self.size

    def abort(self) -> None:
        self.aborted = True

    def later(self, delay: float, callback: Callable[[int], None], size: int) -> Any:
        self.waits.append((delay, callback, size))
        return self

    def cancel(self) -> None:
        self.waits.clear()

    def ring(self) -> None:
        _, callback, size = self.waits.pop()
        callback(size)


def test_who_reads_slowly_is_served_and_who_stops_is_not() -> None:
    limits = DoorLimits(least_progress=1000, progress_within=7.0)
    slow = Slow(5000)
    progress = Progress(slow, limits, slow.later)  # type: ignore[arg-type]
    progress.blocked()
    for size in (4000, 3000, 2000):
        assert [delay for delay, _, _ in slow.waits] == [7.0]
        slow.size = size
        slow.ring()
        assert not slow.aborted
    slow.size = 1001
    slow.ring()
    assert slow.aborted
    assert slow.waits == []


def test_who_reads_on_is_not_watched_any_more() -> None:
    slow = Slow(5000)
    progress = Progress(slow, DoorLimits(), slow.later)  # type: ignore[arg-type]
    progress.blocked()
    progress.flowing()
    assert slow.waits == []


async def test_the_same_behind_tls(tmp_path: Path) -> None:
    chain = ca.ensure_server_certificate(ca.load_or_create(tmp_path), tmp_path, ["127.0.0.1"])
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    async with opened(ca.server_context(chain), idle=0.5) as door:
        with socket.create_connection(("127.0.0.1", door.port)):  # not even TLS
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port, ssl=client)
            writer.write(GET)
            assert b"200" in await answer(reader)
            assert await ended(reader)
            writer.close()
