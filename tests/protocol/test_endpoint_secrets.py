"""Planted secrets, and every place into which an endpoint writes: there are none where none is needed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from fakes.wire_agent import WireAgent
from teeth.api.credentials import read_token
from teeth.api.door import operator_door
from teeth.boot.grants import GrantBook
from teeth.endpoint.database import Database
from teeth.endpoint.taskstate import TaskState
from teeth.service import Endpoint, EndpointConfig
from teeth_stream import RemoteError

MAC = "52:54:00:00:00:01"
PASSWORD = "correct-horse-battery"
KEY = "hostkey-of-the-new-system"
RUN = "standbye.run_image"
IMAGE: dict[str, Any] = {
    "image_id": "i-1",
    "config_drive": {
        "meta_data": {"uuid": "u", "admin_pass": PASSWORD},
        "user_data": f"#cloud-config\npassword: {PASSWORD}\n",
        "vendor_data": {"cloud-init": f"key: {KEY}"},
    },
}


def on_disk(folder: Path) -> bytes:
    """Every byte of the store's files, its log of writes too."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("endpoint.sqlite*")))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def asked(endpoint: Endpoint, url: str) -> str:
    """What the operator's door says of everything."""
    token = read_token(endpoint.config.data / "operator.token")
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}) as client:
        paths = ["/v1/nodes", "/v1/tasks", "/v1/grants", "/v1/nodes/node-1", "/v1/nodes/node-1/logs"]
        paths += [f"/v1/tasks/{task.task_id}" for task in await endpoint.tasks()]
        told = ""
        for path in paths:
            answer = await client.get(path)
            assert answer.status_code == 200, path
            told += answer.text
    return told


async def spend(endpoint: Endpoint, agent: WireAgent, spare: str) -> None:
    """Every way in which a token comes in: refused, taken, repeated, misplaced, in careless words."""
    thief = WireAgent(token=agent.token, macs=("52:54:00:00:00:02",))
    for other in (thief, WireAgent(token=spare, node_id="node-2", boot_id="a bad one")):
        with pytest.raises(RemoteError):
            await other.enrol(endpoint.agent_port, endpoint.ca_file)
    await agent.enrol(endpoint.agent_port, endpoint.ca_file)
    await agent.enrol(endpoint.agent_port, endpoint.ca_file)
    async with agent.dial(endpoint.agent_port, endpoint.ca_file) as dialled:
        await dialled.peer.call("handshake", {**agent.hello(), "token": agent.token})
        await dialled.peer.call(
            "log", {"event": f"booted by teeth.token={agent.token}", "token": agent.token}
        )
        with pytest.raises(RemoteError):
            await dialled.peer.call("make.coffee", {"token": agent.token})
    async with WireAgent(token="").dial(endpoint.agent_port, endpoint.ca_file) as dialled:
        dialled.writer.write(json.dumps({"token": spare}).encode() + b"\n")
        await dialled.end()


async def deploy(endpoint: Endpoint, agent: WireAgent) -> tuple[str, str]:
    """Two tasks with a whole config drive, both over: one by an error. Returns their ids."""
    agent.answers[RUN] = lambda _: {"state": "running"}
    async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
        first = await endpoint.run_task("node-1", RUN, IMAGE)
        assert PASSWORD in repr(await agent.command(RUN))
        assert PASSWORD.encode() in on_disk(endpoint.config.data)  # needed, and the search finds it
        await dialled.status(
            first, "complete", seq=1, percent=100, result={"config_drive": IMAGE["config_drive"]}
        )
        second = await endpoint.run_task("node-1", RUN, IMAGE)
        await agent.command(RUN)
        detail = {"config_drive": IMAGE["config_drive"]}
        await dialled.status(second, "error", seq=1, code="x", msg="refused", detail=detail)
    return first, second


async def test_planted_secrets_are_in_no_sink(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    config = EndpointConfig(
        data=tmp_path / "data", transcript=tmp_path / "wire.jsonl", log=tmp_path / "endpoint.log"
    )
    async with Endpoint(config) as endpoint, operator_door(endpoint, ("127.0.0.1", 0)) as url:
        grant, spare = await endpoint.grant(MAC), await endpoint.grant()
        assert grant.token.encode() in on_disk(config.data)  # open: the boot door has to say it
        agent = WireAgent(token=grant.token)
        with endpoint.subscribe() as watcher:
            await spend(endpoint, agent, spare.token)
            ids = await deploy(endpoint, agent)
        assert [(await endpoint.task(task_id)).state for task_id in ids] == [
            TaskState.COMPLETE,
            TaskState.ERROR,
        ]
        await endpoint.withdraw_grant(spare.id)
        told = await asked(endpoint, url)
        events = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while (event := await watcher.get()) is not None:
                    events.append(repr(event))
    sinks = {
        "store": on_disk(config.data).decode("latin-1"),
        "transcript": (tmp_path / "wire.jsonl").read_text(),
        "log file": (tmp_path / "endpoint.log").read_text(),
        "every logger": caplog.text + repr([record.args for record in caplog.records]),
        "operator's door": told,
        "events": "".join(events),
        "other files": b"".join(
            content for name, content in contents(config.data).items() if "sqlite" not in name
        ).decode("latin-1"),
    }
    # The right places, and something in each of them.
    for name in ("store", "transcript", "operator's door", "events"):
        assert ids[0] in sinks[name], name
    assert "node-1" in sinks["log file"]
    assert "PRIVATE KEY" in sinks["other files"]
    secrets = {"token": grant.token, "spare token": spare.token, "password": PASSWORD, "host key": KEY}
    found = [(what, name) for what, secret in secrets.items() for name in sinks if secret in sinks[name]]
    assert found == []


async def test_the_agents_key_never_comes_here(tmp_path: Path) -> None:
    config = EndpointConfig(data=tmp_path / "data", transcript=tmp_path / "wire.jsonl")
    async with Endpoint(config) as endpoint:
        agent = WireAgent(token=(await endpoint.grant(MAC)).token)
        async with agent.session(endpoint.agent_port, endpoint.ca_file):
            pass
    number = agent.key.private_numbers().private_value
    raw, shown = number.to_bytes(32, "big"), f"{number:x}"
    for path, content in contents(tmp_path).items():
        assert raw not in content, path
        assert shown.encode() not in content, path


def test_a_failing_statement_does_not_quote_what_it_was_given(tmp_path: Path) -> None:
    db = Database(tmp_path)
    book = GrantBook(db.engine)
    with db.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE boot_grants RENAME COLUMN created TO made")
    with pytest.raises(sa.exc.OperationalError) as caught:
        book.create(MAC)
    assert "INSERT INTO boot_grants" in str(caught.value)
    assert MAC not in str(caught.value)
    db.close()
