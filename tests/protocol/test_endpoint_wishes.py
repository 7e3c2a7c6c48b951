"""Cancelling, settling and holding back, against a real endpoint."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes.wire_agent import Dialled, WireAgent
from teeth.endpoint.events import TaskChanged
from teeth.endpoint.taskstate import Task, TaskState
from teeth.errors import TeethError
from teeth.service import Endpoint, EndpointConfig
from teeth_protocol.errors import ProblemError

MAC = "52:54:00:00:00:01"
ERASE, CANCEL = "decom.disk_erase", "cancel_task"


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with Endpoint(EndpointConfig(data=tmp_path / "data")) as running:
        yield running


@pytest.fixture
async def agent(endpoint: Endpoint) -> WireAgent:
    agent = WireAgent(token=(await endpoint.grant(MAC)).token)
    agent.answers |= {ERASE: lambda _: {"state": "running"}, CANCEL: lambda _: {"state": "running"}}
    return agent


@contextlib.asynccontextmanager
async def connected(endpoint: Endpoint, agent: WireAgent) -> AsyncIterator[Dialled]:
    async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
        yield dialled


async def reached(endpoint: Endpoint, task_id: str, state: TaskState) -> Task:
    async with asyncio.timeout(10):
        with endpoint.subscribe() as watcher:
            while (task := await endpoint.task(task_id)).state is not state:
                while not isinstance(await watcher.get(), TaskChanged):
                    pass
    return task


async def in_doubt(endpoint: Endpoint, agent: WireAgent) -> str:
    """A task that the agent took, and then lost with its memory: the node is held."""
    async with connected(endpoint, agent):
        task_id = await endpoint.run_task("node-1", ERASE, {})
        await reached(endpoint, task_id, TaskState.ACCEPTED)
    async with connected(endpoint, agent):
        await reached(endpoint, task_id, TaskState.UNKNOWN)
    return task_id


def refuse(code: str) -> Any:
    def answer(params: Mapping[str, Any]) -> dict[str, Any]:
        raise ProblemError(code, f"said {code}")

    return answer


async def test_a_task_that_waits_is_cancelled_at_once(endpoint: Endpoint, agent: WireAgent) -> None:
    task_id = await endpoint.run_task("node-1", ERASE, {})
    task = await endpoint.cancel_task(task_id)
    assert (task.state, task.code) == (TaskState.ERROR, "cancelled")
    assert await endpoint.cancel_task(task_id) == task
    async with connected(endpoint, agent):
        other = await endpoint.run_task("node-1", ERASE, {"allow": ["S1"]})
        assert (await agent.command(ERASE))["task_id"] == other


async def test_a_task_that_runs_is_asked_to_stop_and_says_itself_how_it_ended(
    endpoint: Endpoint, agent: WireAgent
) -> None:
    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_task("node-1", ERASE, {})
        await reached(endpoint, task_id, TaskState.ACCEPTED)
        task = await endpoint.cancel_task(task_id)
        assert task.state is TaskState.ACCEPTED
        assert await agent.command(CANCEL) == {"task_id": task_id}
        await dialled.status(task_id, "complete", seq=1, percent=100, result={"too": "late"})
    assert (await endpoint.task(task_id)).state is TaskState.COMPLETE


async def test_the_wish_is_repeated_until_the_task_is_over(endpoint: Endpoint, agent: WireAgent) -> None:
    async with connected(endpoint, agent):
        task_id = await endpoint.run_task("node-1", ERASE, {})
        await reached(endpoint, task_id, TaskState.ACCEPTED)
    await endpoint.cancel_task(task_id)
    agent.tasks = [{"task_id": task_id, "method": ERASE, "state": "running", "percent": 1.0}]
    for _ in range(2):
        async with connected(endpoint, agent) as dialled:
            assert await agent.command(CANCEL) == {"task_id": task_id}
    async with connected(endpoint, agent) as dialled:
        await agent.command(CANCEL)
        await dialled.status(task_id, "error", seq=1, code="cancelled", msg="stopped")
    agent.tasks = []
    async with connected(endpoint, agent):
        await endpoint.run_task("node-1", ERASE, {"allow": ["S1"]})
        assert (await agent.commands.get())[0] != CANCEL
    assert (await endpoint.task(task_id)).code == "cancelled"


async def test_a_command_whose_answer_was_lost_is_not_sent_once_it_is_to_be_cancelled(
    endpoint: Endpoint, agent: WireAgent
) -> None:
    never = asyncio.Event()

    async def silent(params: Mapping[str, Any]) -> dict[str, Any]:
        await never.wait()
        return {}

    async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
        dialled.peer._handler = lambda method, params: _note_and(agent, silent, method, params)
        task_id = await endpoint.run_task("node-1", ERASE, {})
        await agent.command(ERASE)
        dialled.vanish()
    assert (await endpoint.cancel_task(task_id)).state is TaskState.QUEUED
    agent.answers[CANCEL] = refuse("unknown_task")
    async with connected(endpoint, agent):
        await agent.command(CANCEL)
        task = await reached(endpoint, task_id, TaskState.ERROR)
    assert (task.code, task.msg) == ("cancelled", "cancelled before the agent accepted it")
    assert all(method != ERASE for method, _ in _drained(agent))


async def _note_and(agent: WireAgent, then: Any, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    agent.commands.put_nowait((method, dict(params)))
    return await then(params) if method == ERASE else {}


def _drained(agent: WireAgent) -> list[tuple[str, dict[str, Any]]]:
    found = []
    while not agent.commands.empty():
        found.append(agent.commands.get_nowait())
    return found


async def test_an_agent_that_cannot_cancel_is_asked_and_nothing_is_claimed(
    endpoint: Endpoint, agent: WireAgent
) -> None:
    del agent.answers[CANCEL]
    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_task("node-1", ERASE, {})
        await reached(endpoint, task_id, TaskState.ACCEPTED)
        await endpoint.cancel_task(task_id)
        await agent.command(CANCEL)
        await dialled.status(task_id, "running", seq=1, percent=5)
    task = await endpoint.task(task_id)
    assert (task.state, task.cancel_asked is not None) == (TaskState.RUNNING, True)


async def test_a_prepared_machine_that_is_to_be_cancelled_does_not_get_its_go(
    endpoint: Endpoint, agent: WireAgent
) -> None:
    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_task("node-1", ERASE, {})
        await reached(endpoint, task_id, TaskState.ACCEPTED)
        await endpoint.cancel_task(task_id)
        answer = await dialled.status(task_id, "running", seq=1, phase="prepared")
        assert answer["go"] is False


async def test_a_node_in_doubt_is_held_until_an_operator_settles(
    endpoint: Endpoint, agent: WireAgent
) -> None:
    task_id = await in_doubt(endpoint, agent)
    with pytest.raises(TeethError, match=f"node node-1 is held: nobody knows what became of task {task_id}"):
        await endpoint.run_task("node-1", ERASE, {"allow": ["S1"]})
    assert await endpoint.run_task("node-1", ERASE, {}, task_id=task_id) == task_id
    async with connected(endpoint, agent):
        looks = await endpoint.run_task("node-1", ERASE, {"plan": True})
        await reached(endpoint, looks, TaskState.ACCEPTED)
        task = await endpoint.settle_task(task_id, "error", "the machine was looked at")
        assert (task.state, task.code, task.msg) == (
            TaskState.ERROR, "settled", "the machine was looked at",
        )  # fmt: skip
        with pytest.raises(TeethError, match="only an unknown one is settled"):
            await endpoint.settle_task(task_id, "error", "again")
        await reached(
            endpoint, await endpoint.run_task("node-1", ERASE, {"allow": ["S1"]}), TaskState.ACCEPTED
        )


async def test_what_was_queued_waits_for_the_settlement_and_then_goes_out(
    endpoint: Endpoint, agent: WireAgent
) -> None:
    async with connected(endpoint, agent):
        first = await endpoint.run_task("node-1", ERASE, {})
        await reached(endpoint, first, TaskState.ACCEPTED)
    second = await endpoint.run_task("node-1", ERASE, {"allow": ["S1"]})
    _drained(agent)
    async with connected(endpoint, agent):
        await reached(endpoint, first, TaskState.UNKNOWN)
        await agent.command("inventory")
        assert (await endpoint.task(second)).state is TaskState.QUEUED
        await endpoint.settle_task(first, "complete", "wiped by hand")
        assert (await agent.command(ERASE))["task_id"] == second
        await reached(endpoint, second, TaskState.ACCEPTED)


async def test_a_late_end_frees_the_node_as_well(endpoint: Endpoint, agent: WireAgent) -> None:
    task_id = await in_doubt(endpoint, agent)
    async with connected(endpoint, agent) as dialled:
        await dialled.status(task_id, "error", seq=9, code="interrupted", msg="the agent was restarted")
        await reached(endpoint, await endpoint.run_task("node-1", ERASE, {}), TaskState.ACCEPTED)


async def test_a_refusal_is_the_end(endpoint: Endpoint, agent: WireAgent) -> None:
    agent.answers[ERASE] = refuse("device_busy")
    async with connected(endpoint, agent):
        task_id = await endpoint.run_task("node-1", ERASE, {})
        task = await reached(endpoint, task_id, TaskState.ERROR)
    assert (task.code, task.msg) == ("device_busy", "said device_busy")


async def test_too_many_commands_that_wait_are_no_refusal(endpoint: Endpoint, agent: WireAgent) -> None:
    """The 256 that may wait for an agent's answers are all taken: the task is sent when there is room."""
    gate = asyncio.Event()

    async def handler(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        agent.commands.put_nowait((method, dict(params)))
        await gate.wait()
        return {"state": "running"}

    async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
        dialled.peer._handler = handler
        calls = [asyncio.create_task(endpoint.call("node-1", "status")) for _ in range(300)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION, timeout=10)
        assert any("too many commands" in str(call.exception()) for call in done)
        task_id = await endpoint.run_task("node-1", ERASE, {})
        gate.set()
        await reached(endpoint, task_id, TaskState.ACCEPTED)
        await asyncio.gather(*calls, return_exceptions=True)


async def test_the_end_of_a_session_that_could_not_be_kept_is_kept_later(
    endpoint: Endpoint, agent: WireAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at that moment must not leave a machine that is gone looking as if it were there."""
    nodes, failed = endpoint._hub.nodes, asyncio.Event()
    loop = asyncio.get_running_loop()

    def full(session_id: int, reason: str) -> None:
        loop.call_soon_threadsafe(failed.set)
        raise OSError("no space left on device")

    async with connected(endpoint, agent) as dialled:
        task_id = await endpoint.run_task("node-1", ERASE, {})
        await reached(endpoint, task_id, TaskState.ACCEPTED)
        await dialled.status(task_id, "running", seq=1, phase="leaving")
        with monkeypatch.context() as patch:
            patch.setattr(nodes, "close_session", full)
            dialled.vanish()
            await asyncio.wait_for(failed.wait(), 10)
            while endpoint._hub._ended == {}:  # noqa: ASYNC110 - it is put back when the thread has failed
                await asyncio.sleep(0)
            assert endpoint.connected() == []
            assert (await endpoint.task(task_id)).state is TaskState.LEAVING
        await endpoint.look_after()
        assert (await endpoint.task(task_id)).state is TaskState.UNKNOWN
    assert endpoint._hub._ended == {}
