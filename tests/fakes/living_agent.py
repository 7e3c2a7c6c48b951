"""A whole agent's session in this process, with the tasks that a test gives it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.tls_endpoint import Screen
from teeth_agent.config import Config
from teeth_agent.reporter import Reporter
from teeth_agent.session.clock import SystemClock
from teeth_agent.session.console import Console
from teeth_agent.session.dial import TlsDialer
from teeth_agent.session.enrol import FileKeys, Keys
from teeth_agent.session.home import Home, Identity
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import TaskRunner
from teeth_agent.tasks import TaskFunction
from teeth_agent.tasks.context import TaskContext
from teeth_protocol.limits import Limits

TOKEN = "join-token-that-nobody-may-print"


@dataclass
class Agent:
    """One running agent: its console, its log spool, its tasks, and where its key lies."""

    screen: Screen
    spool: LogSpool
    runner: TaskRunner
    folder: Path
    release: threading.Event = field(default_factory=threading.Event)


def saying(facts: dict[str, Any]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """A source of facts that never change."""

    async def say() -> dict[str, Any]:
        return dict(facts)

    return say


@contextlib.asynccontextmanager
async def agent(
    *ports: int,
    digest: str | None = None,
    ca_file: Path | None = None,
    tasks: Mapping[str, TaskFunction] | None = None,
    runner: type[TaskRunner] = TaskRunner,
    facts: Any = None,
    folder: Path | None = None,
    keys: Keys | None = None,
    clock: SystemClock | None = None,
    token: str = TOKEN,
    node: str = "node-1",
    boot: str = "boot-1",
    macs: tuple[str, ...] = ("52:54:00:00:00:01",),
    limits: Limits | None = None,
) -> AsyncIterator[Agent]:
    """``folder``: with what an earlier process of the same boot has left; else it begins with nothing."""
    temporary = tempfile.TemporaryDirectory(prefix="teeth-agent-")
    place = folder or Path(temporary.name) / "run"
    screen, spool = Screen(), LogSpool()
    console = Console(screen)
    work = runner(
        TaskContext(boot_id=boot),
        spool,
        (tasks or {}).get,
        console.say,
        progress_interval=0.01,
        retry_interval=0.01,
    )
    config = Config(
        endpoints=tuple(("127.0.0.1", port) for port in ports),
        ca_digest=digest,
        ca_file=ca_file,
        token=lambda: token,
        boot_mac="",
        ramdisk="ramdisk-1",
        built=0,
        version="1.2",
    )
    identity = Identity(node_id=node, boot_id=boot, macs=macs, timings={"python": 1.23456})
    home = Home(
        config,
        identity,
        work,
        spool,
        console,
        dialer=TlsDialer(ca_digest=digest, ca_file=ca_file, clock=clock, say=console.say),
        keys=keys or FileKeys(place, boot_id=boot),
        served=sorted(tasks or {}),
        inventory=saying({"disks": facts}),
        status=saying({"uptime": 7.0}),
        limits=limits,
        backoff=0.01,
    )
    job = asyncio.create_task(home.run())
    living = Agent(screen, spool, work, place)
    try:
        yield living
    finally:
        living.release.set()
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        temporary.cleanup()
        assert TOKEN not in screen.getvalue()


def waiting(living: list[Agent], entered: threading.Event | None = None) -> TaskFunction:
    """A task that blocks its thread until the test's agent is released."""

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        if entered is not None:
            entered.set()
        assert living[0].release.wait(60)
        return {"n": params.get("n", 0)}

    return run
