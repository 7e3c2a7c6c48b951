"""The corpus over real sockets against ``teeth endpoint run --plaintext``, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fakes.measured import Measured, measured
from fakes.raw_wire import DEADLINE, RawWire, code_of
from fakes.wire_agent import trusting
from protocol.corpus import fields, table
from protocol.corpus.case import Case, Stage
from protocol.corpus.over_sockets import comes_to
from teeth_protocol.connection import Role

pytestmark = pytest.mark.slow

_MEMORY = 64 << 20
_LINE = 4 << 20  # of our own reader: more than an endpoint may say


@dataclass
class Running:
    """An endpoint's process, where it listens, and what it keeps."""

    process: Measured
    plain: int
    agents: int
    data: Path
    log: Path

    async def dial(self) -> RawWire:
        return RawWire(*await asyncio.open_connection("127.0.0.1", self.plain, limit=_LINE))

    async def dial_tls(self) -> RawWire:
        context = trusting(self.data / "ca.crt")
        return RawWire(
            *await asyncio.open_connection(
                "127.0.0.1", self.agents, limit=_LINE, ssl=context, server_hostname="127.0.0.1"
            )
        )

    async def at(self, stage: Stage, node: str = "node-1") -> RawWire:
        """A connection at this stage, as a client that knows only the seed brings it there."""
        wire = await self.dial()
        if stage is Stage.AFTER:
            await wire.say(id="h1", method="handshake", params={"id": node, "version": "1"})
            assert await wire.answers({"h1": 1})
            asked = await wire.hear(lambda message: message.get("id") == "e1")
            assert asked is not None
            assert asked["method"] == "inventory"
        wire.said.clear()
        return wire

    def faults(self) -> list[str]:
        """Whatever looks like an exception, on stderr or in the log."""
        records = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        told = [record for record in records if "error" in record or record["level"] in ("error", "critical")]
        return [*self.process.faults(), *map(str, told)]


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[Running]:
    data, log = tmp_path / "data", tmp_path / "log"
    argv = [sys.executable, "-m", "teeth", "endpoint", "run", "--data", data, "--plaintext", "127.0.0.1:0"]
    async with measured(tmp_path, *argv, "--log", log) as process:
        ready = await process.says(r"listening plaintext=127\.0\.0\.1:(\d+) agents=127\.0\.0\.1:(\d+) ")
        yield Running(process=process, plain=int(ready[1]), agents=int(ready[2]), data=data, log=log)


async def test_the_whole_corpus(endpoint: Running) -> None:
    await (await endpoint.at(Stage.AFTER)).close()
    before = endpoint.process.reset_peak()
    wrong = {}
    lasting = await endpoint.at(Stage.AFTER, "node-2")
    for case in table.cases(Role.ENDPOINT):
        wire = lasting if reusable(case) else await endpoint.at(case.stage)
        wire.said.clear()
        if problem := await comes_to(case, wire):
            wrong[case.name] = problem
        if wire is not lasting:
            await wire.close()
    await lasting.close()
    grown = endpoint.process.peak() - before
    print(f"grew by {grown >> 20} MiB")
    await still_serves(endpoint)
    assert wrong == {}
    assert endpoint.faults() == []
    assert grown < _MEMORY


def reusable(case: Case) -> bool:
    """A session that bore this case can bear the next one."""
    return case.stage is Stage.AFTER and not (case.ends or case.waits or case.resolves)


async def still_serves(endpoint: Running) -> None:
    wire = await endpoint.at(Stage.AFTER)
    await wire.say(id="g1", method="log", params={"event": "here I am"})
    await wire.say(id="g2", method="task_status", params={"task_id": "t", "state": "running"})
    assert await wire.answers({"g1": 1, "g2": 1})
    assert [code_of(message) for message in wire.answered()] == ["", "unknown_task"]
    await wire.close()


async def test_wrong_types_in_every_field(endpoint: Running) -> None:
    session = await endpoint.at(Stage.AFTER)
    before = endpoint.process.reset_peak()
    wrong = {}
    for number, case in enumerate(fields.cases(Role.ENDPOINT)):
        if case.method == "handshake":
            code = await shake(endpoint, case.params)
        elif case.method == "enroll":
            continue  # over TLS, below
        else:
            session.said.clear()
            await session.say(id=f"f{number}", method=case.method, params=case.params)
            assert await session.answers({f"f{number}": 1}), "hung up"
            code = code_of(session.answered()[-1])
        if code != "no_common_version" and (code in ("bad_params", "fatal")) == case.good:
            wrong[case.name] = f"{code or 'taken'}, but it is {'good' if case.good else 'bad'}"
    grown = endpoint.process.peak() - before
    print(f"grew by {grown >> 20} MiB")
    await session.close()
    await still_serves(endpoint)
    assert wrong == {}
    assert endpoint.faults() == []
    assert grown < _MEMORY


async def shake(endpoint: Running, params: dict[str, Any]) -> str:
    """What becomes of a handshake: "", "no_common_version" or "fatal"."""
    # Another node than the lasting session's, which would be thrown out.
    params = {**params, "id": "node-2"} if params.get("id") == "n" else params
    wire = await endpoint.dial()
    await wire.say(id="h1", method="handshake", params=params)
    await wire.hear(lambda message: message.get("id") == "h1")
    await wire.close()
    said = wire.fatal()
    if said is None:
        return code_of(wire.answered()[0])
    return "no_common_version" if said.startswith("no_common_version") else "fatal"


async def test_wrong_types_in_an_enrolment(endpoint: Running) -> None:
    """A stranger's words, over TLS. Nothing of it may be granted; asking for the time is all that is."""
    wrong = {}
    for some in three_at_a_time():
        wire = await endpoint.dial_tls()
        for number, case in enumerate(some):
            await wire.say(id=f"f{number}", method="enroll", params=case.params)
            assert await wire.answers({f"f{number}": 1}), wire.said
            answer = wire.answered()[-1]
            code = code_of(answer)
            if case.good and case.name.startswith("field.enroll.time"):
                if code or answer["result"].keys() != {"time"}:
                    wrong[case.name] = f"{code}: {answer}"
            elif code not in ("bad_params", "busy", "token_unknown"):
                wrong[case.name] = f"{code or 'granted'}"
        await wire.close()
    await still_serves(endpoint)
    assert wrong == {}
    assert endpoint.faults() == []


_FEW = {"good", "left_out", "null", "true", "one", "string", "long_string", "letters", "list", "object"}


def three_at_a_time() -> Iterator[list[fields.FieldCase]]:
    """A connection may ask for enrolment four times, and an address fail some eighty times at once."""
    cases = [
        case
        for case in fields.cases(Role.ENDPOINT)
        if case.method == "enroll" and re.split(r"[.:]", case.name)[-1] in _FEW
    ]
    for at in range(0, len(cases), 3):
        yield cases[at : at + 3]


async def test_a_flood_that_is_not_read_is_dropped(endpoint: Running) -> None:
    """A peer that asks for echoes and never reads them costs a bounded backlog, then its connection."""
    wire = await endpoint.at(Stage.AFTER)
    before = endpoint.process.reset_peak()
    line = b'{"id":"c","method":"ping","params":{"x":"' + b"x" * 200_000 + b'"}}\n'
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(DEADLINE):
            for _ in range(600):
                wire._writer.write(line)
                await wire._writer.drain()
            pytest.fail("120 MB of echoes were taken from a peer that reads none")
    grown = endpoint.process.peak() - before
    print(f"grew by {grown >> 20} MiB")
    assert grown < _MEMORY
    await wire.close()
    await still_serves(endpoint)
    assert endpoint.faults() == []


async def test_as_many_large_commands_as_may_wait(endpoint: Running) -> None:
    """All at once, each as large as a line may be and as many values as it may hold."""
    before = endpoint.process.reset_peak()
    bodies = (b'"' + b"x" * 250_000 + b'"', b"[" + b"{}," * 4_900 + b"{}]")
    for body in bodies:
        wire = await endpoint.at(Stage.AFTER)
        lines = [b'{"id":"c%d","method":"log","params":{"x":' % n + body + b"}}\n" for n in range(256)]
        sending = asyncio.create_task(wire.send(b"".join(lines)))
        assert await wire.answers({f"c{n}": 1 for n in range(256)})
        await sending
        assert {code_of(message) for message in wire.answered()} <= {"", "busy"}
        await wire.close()
    grown = endpoint.process.peak() - before
    print(f"grew by {grown >> 20} MiB")
    assert grown < _MEMORY
    await still_serves(endpoint)
    assert endpoint.faults() == []
    assert re.search("node-1", endpoint.log.read_text(encoding="utf-8"))
