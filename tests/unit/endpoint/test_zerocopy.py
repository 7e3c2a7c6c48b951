"""Files by sendfile: whole, and ended when nobody takes them or the file is not what it was."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from teeth.endpoint.httpserver import DoorLimits, listening_socket, serve
from teeth.endpoint.zerocopy import EXTENSION, Transfer, TransferEnded

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
SIZE = 64 << 20


class Site:
    """Serves one file as ``said`` bytes; ``ended`` gets how far each answer came."""

    def __init__(self, path: Path, said: int) -> None:
        self.port = 0
        self.path = path
        self.said = said
        self.ended = asyncio.Queue[int]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert EXTENSION in scope["extensions"]
        length = (b"content-length", str(self.said).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        file = os.open(self.path, os.O_RDONLY)
        try:
            await send({"type": EXTENSION, "file": file, "count": self.said})
        finally:
            self.ended.put_nowait(os.lseek(file, 0, os.SEEK_CUR))
            os.close(file)


@contextlib.asynccontextmanager
async def site(path: Path, said: int = SIZE, **limits: Any) -> AsyncIterator[Site]:
    opened = Site(path, said)
    sock = listening_socket("127.0.0.1", 0, "test")
    opened.port = sock.getsockname()[1]
    async with serve(opened, sock, purpose="test", limits=DoorLimits(**limits)):
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, SIZE)
    return path


def deaf(port: int) -> socket.socket:
    """A client that asks and never reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.sendall(GET)
    return sock


async def test_a_file_arrives_whole_and_the_connection_goes_on(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(SIZE - 4)
        stream.write(b"last")
    async with site(file) as opened, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", opened.port)
        for _ in range(2):
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(SIZE)
            assert (body[-4:], body.count(0)) == (b"last", SIZE - 4)
            assert await opened.ended.get() == SIZE
        writer.close()


async def test_who_takes_nothing_is_given_up(file: Path) -> None:
    async with site(file, progress_within=0.3) as opened:
        with deaf(opened.port):
            async with asyncio.timeout(20):
                assert await opened.ended.get() < SIZE


async def test_the_end_of_the_server_ends_what_is_on_its_way(file: Path, caplog: Any) -> None:
    async with asyncio.timeout(20):
        async with site(file) as opened:
            client = deaf(opened.port)
            reader, writer = await asyncio.open_connection("127.0.0.1", opened.port)
            writer.write(GET)
            await reader.readexactly(1 << 20)
        assert await opened.ended.get() < SIZE
        assert await opened.ended.get() < SIZE
    client.close()
    writer.close()


async def test_a_file_that_became_shorter_is_no_whole_answer(file: Path, caplog: Any) -> None:
    async with site(file, said=SIZE + 1) as opened, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", opened.port)
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        got = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                got += len(data)
        assert got <= SIZE
        assert await opened.ended.get() == SIZE
        writer.close()
    assert "Exception in ASGI application" not in caplog.text


def test_slow_but_steady_is_served(file: Path) -> None:
    """The time is looked at only where nothing can be sent: a clock that leaps ends nobody who reads."""
    left, right = socket.socketpair()
    moments = iter(range(0, 10**6, 100))
    with file.open("rb") as stream, left, right:
        transfer = Transfer(
            left.fileno(),
            stream.fileno(),
            1 << 20,
            least=1,
            within=50.0,
            clock=lambda: float(next(moments)),
        )
        left.setblocking(False)
        right.setblocking(True)
        got = bytearray()

        def read() -> None:
            while data := right.recv(1 << 16):
                got.extend(data)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            transfer.run()
        finally:
            left.shutdown(socket.SHUT_RDWR)
            reader.join(10)
        assert len(got) == 1 << 20


def test_a_socket_that_is_gone_ends_it(file: Path) -> None:
    left, right = socket.socketpair()
    with file.open("rb") as stream, left:
        left.setblocking(False)
        right.close()
        with pytest.raises(TransferEnded):
            Transfer(left.fileno(), stream.fileno(), 1 << 20, least=1, within=1.0).run()
