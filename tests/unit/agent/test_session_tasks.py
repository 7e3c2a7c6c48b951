"""Tasks over the agent's session: accepted once, told of over connections, cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from fakes.living_agent import Agent, agent, waiting
from fakes.tls_endpoint import Authority, TlsEndpoint, Visit, tls_endpoint
from teeth_agent.reporter import Reporter
from teeth_agent.tasks.context import TaskContext
from teeth_protocol.errors import ProblemError
from teeth_stream import RemoteError

# --- tasks


async def test_a_task_is_accepted_once(endpoint: TlsEndpoint, authority: Authority) -> None:
    agents: list[Agent] = []
    started: list[int] = []

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        started.append(params["n"])
        assert agents[0].release.wait(60)
        return {"n": params["n"]}

    tasks = {"decom.disk_erase": run, "decom.qc": run}
    async with agent(endpoint.port, digest=authority.digest, tasks=tasks) as living:
        agents.append(living)
        visit = await endpoint.visit()

        async def refused(method: str, params: dict[str, Any]) -> str:
            with pytest.raises(RemoteError) as error:
                await visit.peer.call(method, params)
            return error.value.problem.code

        asked = {"task_id": "t1", "n": 1, "o": {"a": [1], "b": 2}}
        accepted = {"task_id": "t1", "state": "running", "percent": 0.0}
        assert await visit.peer.call("decom.disk_erase", asked) == accepted
        again = {"o": {"b": 2, "a": [1]}, "n": 1, "task_id": "t1"}
        assert await visit.peer.call("decom.disk_erase", again) == accepted
        assert await refused("decom.disk_erase", {**asked, "n": 2}) == "task_conflict"
        assert await refused("decom.qc", asked) == "task_conflict"
        assert await refused("decom.disk_erase", {"task_id": "t2", "n": 1}) == "device_busy"
        assert await refused("decom.firmware_secure", {"task_id": "t3"}) == "unknown_method"
        for bad in ({}, {"task_id": ""}, {"task_id": 7}, {"task_id": "a b"}, {"task_id": "x" * 129}):
            assert await refused("decom.disk_erase", bad) == "bad_params"
        status = await visit.peer.call("status", {})
        assert [task["task_id"] for task in status["tasks"]] == ["t1"]

        living.release.set()
        assert (await visit.state("complete"))["result"] == {"n": 1}
        done = {"task_id": "t1", "state": "complete", "percent": 0.0}
        assert await visit.peer.call("decom.disk_erase", asked) == done
        assert await refused("decom.firmware_secure", {"task_id": "t3"}) == "unknown_method"
        assert await visit.peer.call("decom.disk_erase", {"task_id": "t2", "n": 2})
        await visit.until(lambda heard: [p for _, p in heard if p.get("task_id") == "t2"])
    assert started == [1, 2]


async def test_a_blocking_task_delays_no_ping(endpoint: TlsEndpoint, authority: Authority) -> None:
    agents: list[Agent] = []
    entered = threading.Event()
    tasks = {"decom.disk_erase": waiting(agents, entered)}
    async with agent(endpoint.port, digest=authority.digest, tasks=tasks) as living:
        agents.append(living)
        visit = await endpoint.visit()
        await visit.peer.call("decom.disk_erase", {"task_id": "t1"})
        assert await asyncio.to_thread(entered.wait, 60)
        for number in range(20):
            assert await visit.peer.call("ping", {"n": number}) == {"n": number}
        assert (await visit.peer.call("status", {}))["tasks"][0]["state"] == "running"
        assert visit.said("task_status") == []


async def test_an_end_that_was_not_acknowledged_is_repeated_word_for_word(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    taken = asyncio.Event()

    async def never(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "task_status" and params["state"] == "complete":
            taken.set()
            await asyncio.Event().wait()
        return {}

    mutable = {"serial": "S1"}

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        return {"erased": [mutable], "grade": "purge"}

    endpoint.reply = never
    tasks = {"decom.disk_erase": run}
    async with agent(endpoint.port, digest=authority.digest, tasks=tasks):
        repeated = []
        visit = await endpoint.visit()
        await visit.peer.call("decom.disk_erase", {"task_id": "t1"})
        for number in range(3):
            await asyncio.wait_for(taken.wait(), 30)
            repeated.append(json.dumps(await visit.state("complete")))
            mutable["serial"] = f"changed {number}"
            taken.clear()
            await visit.cut()
            visit = await endpoint.visit()
            assert visit.said("handshake")[0]["tasks"] == [
                {"task_id": "t1", "method": "decom.disk_erase", "state": "complete", "percent": 0.0}
            ]
        assert len(set(repeated)) == 1
        assert json.loads(repeated[0])["result"] == {"erased": [{"serial": "S1"}], "grade": "purge"}

        async def yes(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            return {}

        endpoint.reply = yes
        await visit.cut()
        visit = await endpoint.visit()
        await visit.state("complete")
        await visit.peer.call("ping", {})
        await visit.cut()
        visit = await endpoint.visit()
        assert visit.said("handshake")[0]["tasks"] == []
        assert visit.said("task_status") == []


async def test_a_task_that_ends_while_nobody_listens(authority: Authority) -> None:
    agents: list[Agent] = []
    tasks = {"decom.disk_erase": waiting(agents)}
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(tls_endpoint(authority))
        gate = asyncio.Event()

        async def shut(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            if method == "handshake":
                await gate.wait()
            return {}

        living = await stack.enter_async_context(agent(first.port, digest=authority.digest, tasks=tasks))
        agents.append(living)
        visit = await first.visit()
        await visit.peer.call("decom.disk_erase", {"task_id": "t1", "n": 5})
        first.reply = shut
        await visit.cut()
        living.release.set()
        await living.screen.says("teeth: decom.disk_erase complete")
        gate.set()
        visit = await first.visit()
        assert (await visit.state("complete"))["result"] == {"n": 5}


async def test_a_checkpoint_waits_for_its_acknowledgement_over_connections(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    passed = threading.Event()
    answers: list[Mapping[str, Any]] = []

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        reporter.progress(40, step="write")
        answers.append(reporter.checkpoint("prepared", boot="kexec"))
        passed.set()
        return {}

    async def never(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if "phase" in params:
            await asyncio.Event().wait()
        return {}

    async def go(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"go": True} if params.get("phase") == "prepared" else {}

    endpoint.reply = never
    async with agent(endpoint.port, digest=authority.digest, tasks={"standbye.run_image": run}):
        visit = await endpoint.visit()
        await visit.peer.call("standbye.run_image", {"task_id": "t1"})
        first = await visit.state("prepared")
        assert first["fields"] == {"boot": "kexec"}
        assert first["percent"] == 40
        await visit.cut()
        visit = await endpoint.visit()
        assert await visit.state("prepared") == first
        assert not passed.is_set()
        endpoint.reply = go
        await visit.cut()
        visit = await endpoint.visit()
        assert await visit.state("prepared") == first
        assert await asyncio.to_thread(passed.wait, 60)
        await visit.state("complete")
        numbers = [status["seq"] for status in visit.said("task_status")]
        assert numbers == sorted(set(numbers))
    assert answers == [{"go": True}]


async def test_an_endpoint_that_fails_to_keep_a_status_is_asked_again(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    async def full_disk(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "task_status" and len(visit.said("task_status")) < 3:
            raise ProblemError("internal", "task_status failed inside this side")
        return {}

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        return {"proof": "x"}

    endpoint.reply = full_disk
    async with agent(endpoint.port, digest=authority.digest, tasks={"decom.disk_erase": run}):
        visit = await endpoint.visit()
        await visit.peer.call("decom.disk_erase", {"task_id": "t1"})
        await visit.until(lambda heard: len(visit.said("task_status")) == 3)
        one, two, three = visit.said("task_status")
        assert one == two == three
        assert one["result"] == {"proof": "x"}


async def test_a_stale_session_ends_and_the_status_goes_to_the_next(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    async def stale(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "task_status":
            raise ProblemError("stale_epoch", "a newer session of this node exists")
        return {}

    async def yes(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        return {"proof": "x"}

    endpoint.reply = stale
    async with agent(endpoint.port, digest=authority.digest, tasks={"decom.disk_erase": run}):
        visit = await endpoint.visit()
        await visit.peer.call("decom.disk_erase", {"task_id": "t1"})
        first = await visit.state("complete")
        endpoint.reply = yes
        await asyncio.wait_for(visit.over, 30)
        assert await (await endpoint.visit()).state("complete") == first


async def test_a_refused_checkpoint_says_so_to_the_task(endpoint: TlsEndpoint, authority: Authority) -> None:
    async def refuse(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if params.get("phase"):
            raise ProblemError("unknown_task", "this endpoint knows no task t1")
        return {}

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        return dict(reporter.checkpoint("prepared"))

    endpoint.reply = refuse
    async with agent(endpoint.port, digest=authority.digest, tasks={"standbye.run_image": run}):
        visit = await endpoint.visit()
        await visit.peer.call("standbye.run_image", {"task_id": "t1"})
        assert (await visit.state("complete"))["result"] == {"refused": "unknown_task"}


async def test_cancel(endpoint: TlsEndpoint, authority: Authority) -> None:
    entered, cancelled = threading.Event(), threading.Event()

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        reporter.check_cancelled()
        entered.set()
        assert cancelled.wait(60)
        reporter.check_cancelled()
        return {}

    async with agent(endpoint.port, digest=authority.digest, tasks={"decom.disk_erase": run}):
        visit = await endpoint.visit()
        with pytest.raises(RemoteError) as error:
            await visit.peer.call("cancel_task", {"task_id": "t1"})
        assert error.value.problem.code == "unknown_task"
        await visit.peer.call("decom.disk_erase", {"task_id": "t1"})
        assert await asyncio.to_thread(entered.wait, 60)
        assert await visit.peer.call("cancel_task", {"task_id": "t1"}) == {
            "task_id": "t1",
            "state": "running",
        }
        cancelled.set()
        ended = await visit.state("error")
        assert (ended["code"], ended["msg"]) == ("cancelled", "the task was cancelled")


async def test_wrong_params_of_cancel_are_named(endpoint: TlsEndpoint, authority: Authority) -> None:
    async with agent(endpoint.port, digest=authority.digest):
        visit = await endpoint.visit()
        with pytest.raises(RemoteError, match=r"params\.task_id: missing") as error:
            await visit.peer.call("cancel_task", {})
        assert error.value.problem.code == "bad_params"
