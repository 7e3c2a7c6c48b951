"""A whole agent's session in this process, with the tasks that a test gives it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.tls_endpoint import Screen
from teeth_agent.config import Config
from teeth_agent.reporter import Reporter
from teeth_agent.session.console import Console
from teeth_agent.session.dial import TlsDialer
from teeth_agent.session.enrol import Credential, Keys
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


class MemoryKeys:
    """Keys without a key: what is kept is what was issued."""

    def __init__(self) -> None:
        self.kept: Credential | None = None

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def load(self) -> Credential | None:
        return self.kept

    async def csr(self) -> str:
        return "a request"

    async def keep(self, certificate: str, lasts: float) -> Credential:
        self.kept = Credential(handle=certificate, issued=self.now(), lasts=lasts)
        return self.kept

    async def discard(self) -> None:
        self.kept = None


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
    keys: Keys | None = None,
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
        dialer=TlsDialer(ca_digest=digest, ca_file=ca_file),
        keys=keys or MemoryKeys(),
        inventory=saying({"disks": facts}),
        status=saying({"uptime": 7.0}),
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
