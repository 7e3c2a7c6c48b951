"""A whole agent's session in this process, with the tasks that a test gives it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.tls_endpoint import Screen
from teeth_agent.config import Config
from teeth_agent.reporter import Reporter
from teeth_agent.session.console import Console
from teeth_agent.session.home import Home, Identity
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import TaskRunner
from teeth_agent.tasks import TaskFunction
from teeth_agent.tasks.context import TaskContext
from teeth_protocol.limits import Limits

TOKEN = "join-token-that-nobody-may-print"


@dataclass
class Agent:
    """One running agent: its console, its log spool, its tasks."""

    screen: Screen
    spool: LogSpool
    runner: TaskRunner
    release: threading.Event = field(default_factory=threading.Event)


@contextlib.asynccontextmanager
async def agent(
    *ports: int,
    digest: str | None = None,
    ca_file: Path | None = None,
    tasks: Mapping[str, TaskFunction] | None = None,
    runner: type[TaskRunner] = TaskRunner,
    facts: Any = None,
    macs: tuple[str, ...] = ("52:54:00:00:00:01",),
    limits: Limits | None = None,
) -> AsyncIterator[Agent]:
    screen, spool = Screen(), LogSpool()
    console = Console(screen)
    work = runner(
        TaskContext(boot_id="boot-1"),
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
        token=TOKEN,
        boot_mac="",
        ramdisk="ramdisk-1",
        built=0,
        version="1.2",
    )
    identity = Identity(node_id="node-1", boot_id="boot-1", macs=macs, timings={"python": 1.23456})
    home = Home(
        config,
        identity,
        work,
        spool,
        console,
        inventory=lambda: {"disks": facts},
        status=lambda: {"uptime": 7.0},
        limits=limits,
        backoff=0.01,
    )
    job = asyncio.create_task(home.run())
    living = Agent(screen, spool, work)
    try:
        yield living
    finally:
        living.release.set()
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        assert TOKEN not in screen.getvalue()


def waiting(living: list[Agent], entered: threading.Event | None = None) -> TaskFunction:
    """A task that blocks its thread until the test's agent is released."""

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        if entered is not None:
            entered.set()
        assert living[0].release.wait(60)
        return {"n": params.get("n", 0)}

    return run
