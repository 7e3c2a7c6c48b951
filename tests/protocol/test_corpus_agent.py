"""The corpus over real sockets against the real agent's Home and tasks, in a process of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fakes import hostile_home
from fakes.measured import measured
from fakes.raw_wire import DEADLINE, RawWire, code_of
from protocol.corpus import fields, table
from protocol.corpus.case import Stage
from protocol.corpus.over_sockets import comes_to
from teeth_protocol.connection import Role

pytestmark = pytest.mark.slow

_MEMORY = 64 << 20
_LINE = 4 << 20  # of our own reader: more than an agent may say


class Hostile:
    """Where the agent dials: its connections one after the other."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[RawWire] = asyncio.Queue()
        self.wires: list[RawWire] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = RawWire(reader, writer)
        self.wires.append(wire)
        self.calls.put_nowait(wire)

    async def dialled(self, stage: Stage) -> RawWire:
        """The agent's next connection, its handshake heard, and answered if the stage is AFTER it."""
        async with asyncio.timeout(DEADLINE):
            wire = await self.calls.get()
        hello = await wire.hear(lambda message: message.get("method") == "handshake")
        assert hello is not None
        assert hello["id"] == "a1"
        if stage is Stage.AFTER:
            await wire.say(id="a1", result={})
            log = await wire.hear(lambda message: message.get("method") == "log")
            assert log is not None
            assert log["id"] == "a2"
        wire.said.clear()
        return wire


@pytest.fixture
async def hostile() -> AsyncIterator[tuple[Hostile, int]]:
    place = Hostile()
    server = await asyncio.start_server(place.accept, "127.0.0.1", 0, limit=_LINE)
    try:
        yield place, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for wire in place.wires:
            await wire.close()
        await server.wait_closed()


async def test_the_whole_corpus(hostile: tuple[Hostile, int], tmp_path: Path) -> None:
    place, port = hostile
    async with measured(tmp_path, sys.executable, hostile_home.__file__, str(port)) as agent:
        await (await place.dialled(Stage.AFTER)).close()
        before = agent.reset_peak()
        wrong = {}
        for case in table.cases(Role.AGENT):
            wire = await place.dialled(case.stage)
            if problem := await comes_to(case, wire):
                wrong[case.name] = problem
            await wire.close()
        grown = agent.peak() - before
        print(f"grew by {grown >> 20} MiB")
        await still_serves(place)
    assert wrong == {}
    assert agent.faults() == []
    assert grown < _MEMORY


async def still_serves(place: Hostile) -> None:
    """A good endpoint that comes after all that is served as ever."""
    wire = await place.dialled(Stage.AFTER)
    await wire.say(version="v1", id="s1", method="status", params={})
    assert await wire.answers({"s1": 1})
    assert code_of(wire.answered()[-1]) == ""
    params = {"task_id": "good", "plan": True}
    await wire.say(version="v1", id="s2", method="decom.disk_erase", params=params)
    assert await ending(wire, "s2", "good") == ""


async def test_wrong_types_in_every_field(hostile: tuple[Hostile, int], tmp_path: Path) -> None:
    place, port = hostile
    async with measured(tmp_path, sys.executable, hostile_home.__file__, str(port)) as agent:
        wire = await place.dialled(Stage.AFTER)
        before = agent.reset_peak()
        wrong = {}
        for number, case in enumerate(fields.cases(Role.AGENT)):
            params = case.params
            if params.get("task_id") == "t":
                params = {**params, "task_id": f"t{number}"}
            await wire.say(version="v1", id=f"f{number}", method=case.method, params=params)
            code = await ending(wire, f"f{number}", str(params.get("task_id")))
            if case.name not in fields.STRICTER and (code == "bad_params") == case.good:
                wrong[case.name] = f"{code or 'taken'}, but it is {'good' if case.good else 'bad'}"
        grown = agent.peak() - before
        print(f"grew by {grown >> 20} MiB")
        assert grown < _MEMORY
        await wire.close()
        await still_serves(place)
    assert wrong == {}
    assert agent.faults() == []


async def ending(wire: RawWire, identity: str, task_id: str) -> str:
    """The code with which a command or its task ends; every status is acknowledged."""
    wire.said.clear()
    assert await wire.answers({identity: 1}), "hung up"
    (answer,) = (message for message in wire.answered() if message["id"] == identity)
    if "error" in answer or answer["result"].get("state") != "running":
        return code_of(answer)
    while True:
        status = await wire.hear(lambda message: message.get("method") == "task_status")
        assert status is not None, "hung up"
        await wire.say(id=status["id"], result={})
        if status["params"]["task_id"] == task_id and status["params"]["state"] != "running":
            return str(status["params"].get("code", ""))
