"""A task never holds up a ping, however long it runs and whatever it does in its thread."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import zlib
from collections.abc import Mapping
from typing import Any

from fakes.living_agent import Agent, agent, waiting
from fakes.tls_endpoint import Authority, TlsEndpoint
from teeth_agent.reporter import Reporter
from teeth_agent.tasks.context import TaskContext

UPDATES = 3000
HOURS = 9 * 3600.0


async def test_pings_are_answered_while_a_task_of_hours_computes_and_reports(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    """Nine hours in thousands of steps, told as fast as they can be told; the hours alone are simulated."""
    started, finish = threading.Event(), threading.Event()

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        started.set()
        data = bytes(64 << 10)
        done = 0
        while done < UPDATES or not finish.is_set():
            data = hashlib.sha256(zlib.compress(data, 1)).digest() * 2048
            done += 1
            past = min(HOURS, HOURS * done / UPDATES)
            reporter.progress(100 * past / HOURS, eta=HOURS - past, step="overwrite", seconds=past)
        return {"updates": done}

    async with agent(endpoint.port, digest=authority.digest, tasks={"decom.disk_erase": run}):
        visit = await endpoint.visit()
        await visit.peer.call("decom.disk_erase", {"task_id": "t1"})
        assert await asyncio.to_thread(started.wait, 60)
        answered = 0
        while not any(status.get("percent") == 100 for status in visit.said("task_status")):
            assert await visit.peer.call("ping", {"n": answered}) == {"n": answered}
            answered += 1
        # It is still running: not one of these waited for its end.
        assert visit.said("task_status")[-1]["state"] == "running"
        finish.set()
        ended = await visit.state("complete")
    assert answered > 10
    assert ended["result"]["updates"] >= UPDATES
    percents = [status["percent"] for status in visit.said("task_status")]
    assert percents == sorted(percents)


async def test_pings_are_answered_while_a_task_waits_for_a_drive(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    living: list[Agent] = []
    entered = threading.Event()
    tasks = {"decom.disk_erase": waiting(living, entered)}
    async with agent(endpoint.port, digest=authority.digest, tasks=tasks) as running:
        living.append(running)
        visit = await endpoint.visit()
        await visit.peer.call("decom.disk_erase", {"task_id": "t1"})
        assert await asyncio.to_thread(entered.wait, 60)
        for number in range(200):
            assert await visit.peer.call("ping", {"n": number}) == {"n": number}
        assert (await visit.peer.call("status", {}))["tasks"][0]["state"] == "running"
        running.release.set()
        await visit.state("complete")
