"""Tasks against a real endpoint: nothing is lost, nothing is claimed that is not known."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fakes.wire_agent import Dialled, WireAgent, trusting
from teeth.endpoint import phone_home
from teeth.endpoint.events import Landed, NodeDisconnected, TaskChanged
from teeth.endpoint.taskstate import TaskState
from teeth.errors import TeethError
from teeth.service import Endpoint, EndpointConfig
from teeth_protocol.errors import ProblemError
from teeth_stream import RemoteError

MAC = "52:54:00:00:00:01"
ERASE = "decom.disk_erase"
RUN = "standbye.run_image"
SECRET = "correct-horse-battery"
IMAGE: dict[str, Any] = {
    "image_id": "i-1",
    "config_drive": {"meta_data": {"uuid": "u"}, "user_data": f"#cloud-config\npassword: {SECRET}\n"},
}


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[Endpoint]:
    config = EndpointConfig(
        data=tmp_path / "data", transcript=tmp_path / "wire.jsonl", log=tmp_path / "endpoint.log"
    )
    async with Endpoint(config) as running:
        yield running


@pytest.fixture
async def agent(endpoint: Endpoint) -> WireAgent:
    agent = WireAgent(token=(await endpoint.grant(MAC)).token)
    agent.answers |= {ERASE: lambda _: {"state": "running"}, RUN: lambda _: {"state": "running"}}
    return agent


@contextlib.asynccontextmanager
async def connected(endpoint: Endpoint, agent: WireAgent) -> AsyncIterator[Dialled]:
    async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
        yield dialled


async def reached(endpoint: Endpoint, task_id: str, *states: TaskState) -> None:
    """Wait until the task is in one of ``states``."""
    async with asyncio.timeout(10):
        with endpoint.subscribe() as watcher:
            while (await endpoint.task(task_id)).state not in states:
                while not isinstance(await watcher.get(), TaskChanged):
                    pass


async def test_a_task_from_order_to_end(endpoint: Endpoint, agent: WireAgent) -> None:
    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_task("node-1", ERASE, {"allow": ["S1"]})
        assert await agent.command(ERASE) == {"task_id": task_id, "allow": ["S1"]}
        await dialled.status(
            task_id, "running", seq=1, percent=10, eta=60, step="overwrite", fields={"rate": 5}
        )
        await dialled.status(task_id, "complete", seq=2, percent=100, result={"erased": ["S1"]})
        async with asyncio.timeout(10):
            task = await endpoint.wait_task(task_id)
    assert (task.state, task.result) == (TaskState.COMPLETE, {"erased": ["S1"]})


async def test_the_live_display_sees_each_change(endpoint: Endpoint, agent: WireAgent) -> None:
    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_task("node-1", ERASE, {})
        await reached(endpoint, task_id, TaskState.ACCEPTED)

        async def watch() -> list[tuple[str, float, str]]:
            return [(e.state.value, e.percent, e.step) async for e in endpoint.task_events(task_id)]

        seen = asyncio.create_task(watch())
        await asyncio.sleep(0)  # let it subscribe
        for seq, percent in ((1, 10), (2, 50)):
            await dialled.status(task_id, "running", seq=seq, percent=percent, step="overwrite")
        await dialled.status(task_id, "error", seq=3, msg="disk S1 does not answer", code="device_failed")
        async with asyncio.timeout(10):
            states = await seen
    assert states[-3:] == [
        ("running", 10.0, "overwrite"),
        ("running", 50.0, "overwrite"),
        ("error", 50.0, "overwrite"),
    ]
    task = await endpoint.task(task_id)
    assert (task.code, task.msg) == ("device_failed", "disk S1 does not answer")


async def test_a_task_for_an_absent_node_waits_for_it(endpoint: Endpoint, agent: WireAgent) -> None:
    task_id = await endpoint.run_task("node-1", ERASE, {})
    assert (await endpoint.task(task_id)).state is TaskState.QUEUED
    async with connected(endpoint, agent):
        assert (await agent.command(ERASE))["task_id"] == task_id
        await reached(endpoint, task_id, TaskState.ACCEPTED)


async def test_a_refused_task_ends_with_the_agents_reason(endpoint: Endpoint, agent: WireAgent) -> None:
    def busy(_: Any) -> dict[str, Any]:
        raise ProblemError("busy", "disk S1 belongs to task t0")

    agent.answers[ERASE] = busy
    async with connected(endpoint, agent):
        task_id = await endpoint.run_task("node-1", ERASE, {})
        async with asyncio.timeout(10):
            task = await endpoint.wait_task(task_id)
    assert (task.state, task.code, task.msg) == (TaskState.ERROR, "busy", "disk S1 belongs to task t0")


async def test_the_same_task_id_asks_nothing_twice(endpoint: Endpoint, agent: WireAgent) -> None:
    async with connected(endpoint, agent):
        for _ in range(2):
            asked = await endpoint.run_task("node-1", ERASE, {"exclude": ["1"]}, task_id="t-fixed")
            assert asked == "t-fixed"
        await reached(endpoint, "t-fixed", TaskState.ACCEPTED)
        with pytest.raises(TeethError, match="asks for something else"):
            await endpoint.run_task("node-1", ERASE, {"exclude": ["2"]}, task_id="t-fixed")
    asked = []
    while not agent.commands.empty():
        asked.append(agent.commands.get_nowait()[0])
    assert asked.count(ERASE) == 1


async def test_a_repeated_end_is_acknowledged_and_a_second_end_refused(
    endpoint: Endpoint, agent: WireAgent
) -> None:
    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_task("node-1", ERASE, {})
        await agent.command(ERASE)
        end = {"seq": 7, "result": {"erased": []}}
        assert (await dialled.status(task_id, "complete", **end))["verdict"] == "applied"
    async with connected(endpoint, agent) as dialled:
        assert (await dialled.status(task_id, "complete", **end))["verdict"] == "repeated"
        with pytest.raises(RemoteError) as caught:
            await dialled.status(task_id, "error", seq=8, msg="no, it failed")
        assert caught.value.problem.code == "task_finished"
    assert (await endpoint.task(task_id)).state is TaskState.COMPLETE


async def test_a_running_task_survives_the_connection(endpoint: Endpoint, agent: WireAgent) -> None:
    with endpoint.subscribe() as watcher:
        async with connected(endpoint, agent) as dialled:
            task_id = await endpoint.run_task("node-1", ERASE, {})
            await agent.command(ERASE)
            await dialled.status(task_id, "running", seq=1, percent=30)
            dialled.vanish()
            async with asyncio.timeout(10):
                while not isinstance(await watcher.get(), NodeDisconnected):
                    pass
    assert (await endpoint.task(task_id)).state is TaskState.RUNNING
    agent.tasks = [{"task_id": task_id, "state": "running"}]
    async with connected(endpoint, agent) as dialled:
        assert dialled.welcome["tasks"] == [{"task_id": task_id, "state": "running", "seq": 1}]
        await dialled.status(task_id, "complete", seq=2)
    assert (await endpoint.task(task_id)).state is TaskState.COMPLETE


async def test_a_task_that_the_agent_forgot_is_unknown_and_not_started_again(
    endpoint: Endpoint, agent: WireAgent
) -> None:
    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_task("node-1", ERASE, {})
        await agent.command(ERASE)
        await dialled.status(task_id, "running", seq=1, percent=30)
    async with connected(endpoint, agent):
        await agent.command("inventory")  # sent after the tasks, had there been any
    task = await endpoint.task(task_id)
    assert (task.state, task.code) == (TaskState.UNKNOWN, "agent_restarted")
    assert ERASE not in [method for method, _ in list(agent.commands._queue)]  # type: ignore[attr-defined]


async def test_tasks_survive_the_endpoint(tmp_path: Path) -> None:
    config = EndpointConfig(data=tmp_path / "data")
    async with Endpoint(config) as first:
        agent = WireAgent(token=(await first.grant(MAC)).token, answers={ERASE: lambda _: {}})
        digest = first.ca_digest
        async with connected(first, agent) as dialled:
            running = await first.run_task("node-1", ERASE, {"exclude": ["1"]})
            await agent.command(ERASE)
            await dialled.status(running, "running", seq=1, percent=30)
        waiting = await first.run_task("node-1", ERASE, {"exclude": ["2"]})
    async with Endpoint(config) as second:
        assert second.ca_digest == digest
        agent.tasks = [{"task_id": running, "state": "running"}]
        async with connected(second, agent) as dialled:
            assert (await agent.command(ERASE))["task_id"] == waiting
            await dialled.status(running, "complete", seq=2)
        assert (await second.task(running)).state is TaskState.COMPLETE


async def test_what_cannot_go_over_the_wire_is_refused_at_once(endpoint: Endpoint) -> None:
    with pytest.raises(TeethError, match="over the wire's limit"):
        await endpoint.run_task("node-1", ERASE, {"x": "y" * (1 << 20)})
    with pytest.raises(TeethError, match="cannot go over the wire"):
        await endpoint.run_task("node-1", ERASE, {"x": float("nan")})
    with pytest.raises(TeethError, match="not a task id"):
        await endpoint.run_task("node-1", ERASE, {}, task_id="a b")
    assert await endpoint.tasks() == []


# --- two steps and the landing


async def leave(dialled: Dialled, task_id: str) -> None:
    assert await dialled.status(task_id, "running", seq=1, phase="prepared", fields={"boot": "kexec"}) == {
        "go": True
    }
    await dialled.status(task_id, "running", seq=2, phase="leaving", fields={"boot": "kexec"})


def script_of(params: dict[str, Any]) -> str:
    script = params["config_drive"]["vendor_data"]["cloud-init"]
    assert isinstance(script, str)
    return script


async def post(url: str, body: bytes, ca_file: Path) -> int:
    host, _, path = url.removeprefix("https://").partition("/")

    def send() -> int:
        address, port = host.split(":")
        connection = http.client.HTTPSConnection(address, int(port), timeout=10, context=trusting(ca_file))
        with contextlib.closing(connection):
            connection.request("POST", "/" + path, body)
            return connection.getresponse().status

    return await asyncio.to_thread(send)


def url_of(script: str) -> str:
    return script.split('"url": "')[1].split('"')[0]


async def run_as_guest(script: str, folder: Path) -> tuple[int, str]:
    """What cloud-init does with a script part: a file, executed."""
    path = folder / "part-001"
    path.write_text(script)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_leaving_then_unknown_then_landed(endpoint: Endpoint, agent: WireAgent, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    proof.write_text("only the config drive knew")
    with endpoint.subscribe() as watcher:
        async with connected(endpoint, agent) as dialled:
            task_id = await endpoint.run_image("node-1", IMAGE, report_files=[str(proof)])
            params = await agent.command(RUN)
            assert params["config_drive"]["user_data"] == IMAGE["config_drive"]["user_data"]
            await leave(dialled, task_id)
            assert (await endpoint.task(task_id)).state is TaskState.LEAVING
            dialled.vanish()
            await reached(endpoint, task_id, TaskState.UNKNOWN)
        code, output = await run_as_guest(script_of(params), tmp_path)
        assert (code, output) == (0, "teeth: landing reported\n")
        async with asyncio.timeout(10):
            task = await endpoint.wait_task(task_id)
            while not isinstance(event := await watcher.get(), Landed):
                pass
    assert task.state is TaskState.COMPLETE
    assert task.result is not None
    assert task.result["boot"] == "kexec"
    landing = task.result["landing"]
    assert landing["files"] == {str(proof): "only the config drive knew"}
    assert landing["boot_id"] == phone_home.collect([])["boot_id"] != ""
    assert event.facts == landing
    # The same report again (its answer was lost) is taken; another one, or another token, is not.
    assert (await run_as_guest(script_of(params), tmp_path))[0] == 1  # uptime differs: another report
    url = url_of(script_of(params))
    body = json.dumps({"hostname": "evil", "boot_id": "x", "cmdline": "q"}).encode()
    assert await post(url, body, endpoint.ca_file) == 409
    assert await post(url[:-43] + "x" * 43, body, endpoint.ca_file) == 404
    assert (await endpoint.task(task_id)).result == task.result


async def test_an_early_landing_does_not_wait_for_the_connection_to_die(
    endpoint: Endpoint, agent: WireAgent, tmp_path: Path
) -> None:
    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_image("node-1", IMAGE)
        script = script_of(await agent.command(RUN))
        await leave(dialled, task_id)
        body = json.dumps({"hostname": "web", "boot_id": "b", "cmdline": "quiet"}).encode()
        url = url_of(script)
        assert await post(url, body, endpoint.ca_file) == 200
        assert await post(url, body, endpoint.ca_file) == 200  # the answer was lost: the same report again
        assert (await endpoint.task(task_id)).state is TaskState.COMPLETE
    assert (await endpoint.task(task_id)).state is TaskState.COMPLETE


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"not json", 400),
        (b"[]", 400),
        (b'{"hostname": "web"}', 400),
        (b'{"hostname": "' + b"x" * 300 + b'", "boot_id": "b", "cmdline": ""}', 400),
        (b'{"hostname": "web", "boot_id": "b", "cmdline": "", "x": ' + b"[" * 50 + b"]" * 50 + b"}", 400),
        (b"x" * (65 << 10), 413),
    ],
)
async def test_a_landing_that_is_none_spends_nothing(
    endpoint: Endpoint, agent: WireAgent, body: bytes, status: int
) -> None:
    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_image("node-1", IMAGE)
        url = url_of(script_of(await agent.command(RUN)))
        await leave(dialled, task_id)
    assert await post(url, body, endpoint.ca_file) == status
    assert not (await endpoint.task(task_id)).state.over
    good = json.dumps({"hostname": "web", "boot_id": "b", "cmdline": "quiet"}).encode()
    assert await post(url, good, endpoint.ca_file) == 200


async def test_a_held_task_is_not_let_go(endpoint: Endpoint, agent: WireAgent) -> None:
    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_image("node-1", IMAGE, hold=True)
        await agent.command(RUN)
        assert await dialled.status(task_id, "running", seq=1, phase="prepared") == {
            "go": False,
            "retry_after": 5.0,
        }
        await endpoint.release(task_id)
        assert await dialled.status(task_id, "running", seq=2, phase="prepared") == {"go": True}


async def test_a_task_that_is_over_is_not_let_go(endpoint: Endpoint, agent: WireAgent) -> None:
    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_image("node-1", IMAGE)
        await agent.command(RUN)
        await dialled.status(task_id, "error", seq=2, msg="no", code="not_bootable")
        assert await dialled.status(task_id, "running", seq=1, phase="prepared") == {"go": False}


async def test_a_lost_answer_to_a_checkpoint_is_given_again(endpoint: Endpoint, agent: WireAgent) -> None:
    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_image("node-1", IMAGE)
        await agent.command(RUN)
        await leave(dialled, task_id)
        assert await dialled.status(task_id, "running", seq=1, phase="prepared") == {"go": True}
        assert await dialled.status(task_id, "running", seq=2, phase="leaving") == {"verdict": "stale"}
        assert (await endpoint.task(task_id)).state is TaskState.LEAVING


async def test_the_landing_door_shows_the_pinned_certificate(endpoint: Endpoint) -> None:
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection(
            "127.0.0.1", endpoint.landing_port, ssl=context, server_hostname="127.0.0.1"
        )


async def test_secrets_are_in_no_sink(
    endpoint: Endpoint, agent: WireAgent, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_image("node-1", IMAGE)
        params = await agent.command(RUN)
        assert SECRET in repr(params)  # the agent needs it
        await leave(dialled, task_id)
        await dialled.peer.call(
            "log", {"event": "careless", "fields": {"config_drive": IMAGE["config_drive"]}}
        )
        good = json.dumps({"hostname": "web", "boot_id": "b", "cmdline": f"teeth.token={SECRET}"}).encode()
        assert await post(url_of(script_of(params)), good, endpoint.ca_file) == 200
    secrets = (SECRET, agent.token, url_of(script_of(params)).rpartition("/")[2])
    listing = repr((await endpoint.tasks(), await endpoint.logs("node-1"), await endpoint.nodes()))
    files = {name: (tmp_path / name).read_text() for name in ("wire.jsonl", "endpoint.log")}
    files["any other log"] = caplog.text
    assert task_id in files["wire.jsonl"]  # the right files
    assert task_id in files["endpoint.log"]
    for secret in secrets:
        assert secret not in listing
        for name, text in files.items():
            assert secret not in text, name
