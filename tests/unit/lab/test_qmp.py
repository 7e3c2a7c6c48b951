"""The control connection against a small server that speaks QMP."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from teeth.errors import TeethError
from teeth.lab.qmp import Qmp, open_qmp

GREETING = {
    "QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}
}


class Server:
    """QEMU's side: answers every command with its own arguments, refuses ``bad``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, message: object) -> None:
        self._writer.write(json.dumps(message).encode() + b"\r\n")

    def event(self, name: str, **data: object) -> None:
        self.say({"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 0}})

    async def serve(self) -> None:
        self.say(GREETING)
        while data := await self._reader.read(65536):  # the client ends no line, and waits for each answer
            asked = json.loads(data)
            number = {"id": asked["id"]} if "id" in asked else {}
            if asked["execute"] == "bad":
                self.say({"error": {"class": "GenericError", "desc": "no such thing"}, **number})
            else:
                self.say({"return": asked.get("arguments", {}), **number})

    def hang_up(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connected(log: io.StringIO) -> AsyncIterator[tuple[Qmp, Server]]:
    ours, theirs = socket.socketpair()
    server = Server(*await asyncio.open_unix_connection(sock=theirs))
    task = asyncio.create_task(server.serve())
    try:
        async with open_qmp(ours, log=log, clock=lambda: 2.0) as qmp:
            yield qmp, server
    finally:
        server.hang_up()
        await task


async def test_commands_and_their_arguments() -> None:
    async with connected(io.StringIO()) as (qmp, _):
        assert await qmp.execute("device_del", node_name="d0") == {"node-name": "d0"}


async def test_a_refusal_is_one_line() -> None:
    async with connected(io.StringIO()) as (qmp, _):
        with pytest.raises(TeethError, match=r"^QEMU refuses bad: no such thing$"):
            await qmp.execute("bad")


async def test_events_are_kept_counted_and_logged() -> None:
    log = io.StringIO()
    async with connected(log) as (qmp, server):
        server.event("RESET", guest=True)
        server.event("STOP")
        server.event("RESET", guest=False)
        await qmp.wait_event("STOP", within=5)
        last = await qmp.wait_event("RESET", within=5, since=2)
        assert last.data == {"guest": False}
        assert qmp.resets() == 2
    assert [json.loads(line)["event"] for line in log.getvalue().splitlines()] == ["RESET", "STOP", "RESET"]


async def test_waiting_ends_with_the_connection() -> None:
    async with connected(io.StringIO()) as (qmp, server):
        waiting = asyncio.create_task(qmp.wait_event("RESET", within=60))
        server.hang_up()
        with pytest.raises(TeethError, match="ended before its event RESET"):
            await waiting
        with pytest.raises(TeethError, match="QEMU is gone"):
            await qmp.execute("quit")


async def test_an_event_that_does_not_come() -> None:
    async with connected(io.StringIO()) as (qmp, _):
        with pytest.raises(TeethError, match=r"RESET did not come within 0.01 s"):
            await qmp.wait_event("RESET", within=0.01)


async def test_no_greeting_is_told() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(TeethError, match="did not open its control connection"):
        async with open_qmp(ours, log=io.StringIO(), clock=lambda: 0.0):
            pass
