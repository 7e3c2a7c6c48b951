"""The agent's real session and task runner against the real endpoint: the two halves of the wire meet."""

from __future__ import annotations

import asyncio
import contextlib
import io
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes import facts
from fakes.living_agent import saying
from fakes.wiretap import Wiretap
from teeth.endpoint.events import InventoryReceived, LogReceived, NodeConnected, Subscription, TaskChanged
from teeth.endpoint.taskstate import TaskState
from teeth.service import Endpoint, EndpointConfig
from teeth_agent.config import Config
from teeth_agent.errors import DeviceError
from teeth_agent.reporter import Reporter
from teeth_agent.session.console import Console
from teeth_agent.session.dial import TlsDialer
from teeth_agent.session.enrol import FileKeys
from teeth_agent.session.home import Home, Identity
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import TaskRunner
from teeth_agent.tasks.context import TaskContext

MAC = "52:54:00:00:00:01"
Work = Callable[[Mapping[str, Any], TaskContext, Reporter], dict[str, Any]]


class Screen(io.StringIO):
    """A console that can be waited on."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def write(self, text: str, /) -> int:
        self._loop.call_soon_threadsafe(self._changed.set)
        return super().write(text)

    async def says(self, words: str) -> None:
        async with asyncio.timeout(20):
            while words not in self.getvalue():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with Endpoint(EndpointConfig(data=tmp_path / "data")) as running:
        yield running


@contextlib.asynccontextmanager
async def agent(
    endpoint: Endpoint, token: str, tasks: Mapping[str, Work], **change: Any
) -> AsyncIterator[Screen]:
    """A running agent; yields what it says on its console."""
    settings: dict[str, Any] = {
        "endpoints": (("127.0.0.1", endpoint.agent_port),), "ca_digest": endpoint.ca_digest, "ca_file": None,
        "token": lambda: token, "boot_mac": MAC, "ramdisk": "r", "built": 0, "version": "test",
    }  # fmt: skip
    folder = tempfile.TemporaryDirectory(prefix="teeth-agent-")
    said, spool, config = Screen(), LogSpool(), Config(**{**settings, **change})
    console = Console(said)
    runner = TaskRunner(TaskContext(boot_id="b1"), spool, tasks.get, console.say)
    home = Home(
        config,
        Identity(node_id="node-1", boot_id="b1", macs=(MAC,)),
        runner,
        spool,
        console,
        dialer=TlsDialer(ca_digest=config.ca_digest, ca_file=config.ca_file),
        keys=FileKeys(Path(folder.name) / "run", boot_id="b1"),
        inventory=saying(facts.inventory(Path(folder.name))),
        status=saying(facts.status(Path(folder.name))),
    )
    spool.add("info", "test", "the first second of boot")
    running = asyncio.create_task(home.run())
    try:
        yield said
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        folder.cleanup()


async def next_of(watcher: Subscription, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    async with asyncio.timeout(20):
        while not isinstance(event := await watcher.get(), kind):
            assert event is not None
        return event


async def test_the_agent_comes_home_and_works(endpoint: Endpoint, wiretap: Wiretap) -> None:
    def erase(params: Mapping[str, Any], _context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        reporter.progress(50, eta=3, step="overwrite", bytes_per_second=7)
        return {"erased": params["allow"]}

    token, news = (await endpoint.grant(MAC)).token, (InventoryReceived, LogReceived)
    with endpoint.subscribe() as watcher:
        async with agent(endpoint, token, {"decom.disk_erase": erase}):
            assert (await next_of(watcher, NodeConnected)).node_id == "node-1"
            # Side by side, in either order.
            both = {
                type(event): event for event in [await next_of(watcher, news), await next_of(watcher, news)]
            }
            assert [disk["serial"] for disk in both[InventoryReceived].inventory["disks"]] == ["S1"]
            assert both[LogReceived].record["event"] == "the first second of boot"
            task_id = await endpoint.run_task("node-1", "decom.disk_erase", {"allow": ["S1"]})
            async with asyncio.timeout(20):
                task = await endpoint.wait_task(task_id)
            assert (await endpoint.call("node-1", "status"))["version"] == "test"
    assert (task.state, task.result, task.percent) == (TaskState.COMPLETE, {"erased": ["S1"]}, 100.0)
    commands = ("enroll", "handshake", "inventory", "status", "log", "task_status", "decom.disk_erase")
    assert wiretap.heard.keys() >= {f"{name}.{part}" for name in commands for part in ("params", "result")}


async def test_a_failure_arrives_with_code_and_words(endpoint: Endpoint) -> None:
    def erase(_params: Mapping[str, Any], _context: TaskContext, _reporter: Reporter) -> dict[str, Any]:
        raise DeviceError("disk S1 does not answer")

    async with agent(endpoint, (await endpoint.grant(MAC)).token, {"decom.disk_erase": erase}):
        task_id = await endpoint.run_task("node-1", "decom.disk_erase", {})
        async with asyncio.timeout(20):
            task = await endpoint.wait_task(task_id)
    assert (task.state, task.code, task.msg) == (TaskState.ERROR, "device_failed", "disk S1 does not answer")


async def test_the_two_steps_of_leaving(endpoint: Endpoint) -> None:
    gone, over = threading.Event(), threading.Event()

    def run_image(_params: Mapping[str, Any], _context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        assert reporter.checkpoint("prepared", boot="kexec")["go"] is True
        reporter.checkpoint("leaving", boot="kexec")
        gone.set()
        over.wait(20)  # kexec never returns
        return {}

    try:
        with endpoint.subscribe() as watcher:
            async with agent(endpoint, (await endpoint.grant(MAC)).token, {"standbye.run_image": run_image}):
                task_id = await endpoint.run_image(
                    "node-1", {"image_id": "i", "config_drive": {"meta_data": {"uuid": "u"}}}
                )
                assert await asyncio.to_thread(gone.wait, 20)
                assert (await endpoint.task(task_id)).state is TaskState.LEAVING
            while (await next_of(watcher, TaskChanged)).state is not TaskState.UNKNOWN:
                pass
        task = await endpoint.task(task_id)
        assert (task.state, task.result) == (TaskState.UNKNOWN, {"boot": "kexec"})
    finally:
        over.set()


async def test_a_wrong_ca_and_a_spent_token_are_said_on_the_console(endpoint: Endpoint) -> None:
    token = (await endpoint.grant(MAC)).token
    async with agent(endpoint, token, {}, ca_digest="sha256:" + "0" * 64) as said:
        await said.says("problem wrong_ca")
    assert endpoint.connected() == []
    async with agent(endpoint, "x" * 32, {}) as said:
        await said.says("problem token_unknown: 127.0.0.1")
        assert "never given out" in said.getvalue()
