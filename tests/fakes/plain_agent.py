"""The agent's real session and task runner, in this process, dialling in plain text or by TLS."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from fakes.living_agent import saying
from fakes.tls_endpoint import Screen
from teeth_agent.config import Config
from teeth_agent.erase.policy import read_policy
from teeth_agent.reporter import Reporter
from teeth_agent.session.console import Console
from teeth_agent.session.dial import Dialer, TlsDialer
from teeth_agent.session.enrol import Credential, FileKeys
from teeth_agent.session.home import Home, Identity
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import TaskRunner
from teeth_agent.tasks.context import TaskContext

ERASE = "decom.disk_erase"


class PlainDialer:
    """For a listener without TLS; nobody knows us by a credential there."""

    async def dial(
        self, host: str, port: int, credential: Credential | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(host, port)


class PlanningDisk:
    """``decom.disk_erase`` without a machine: plans as asked, and remembers whoever asked for more."""

    def __init__(self) -> None:
        self.plans = 0
        self.erased: list[Mapping[str, Any]] = []

    def run(self, params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        policy = read_policy(params)
        if not policy.plan_only:
            self.erased.append(params)
            return {"units": []}
        self.plans += 1
        reporter.progress(50, eta=1, step="look")
        reporter.checkpoint("looked")  # must be acknowledged before there can be an end
        return {"plan": {"units": [], "allow": sorted(policy.allow)}}


@contextlib.asynccontextmanager
async def real_agent(
    port: int, *, digest: str | None = None, disk: PlanningDisk, backoff: float = 0.001
) -> AsyncIterator[Screen]:
    """A running agent that dials 127.0.0.1; with ``digest`` by TLS, enrolling first. Yields its console."""
    screen, spool = Screen(), LogSpool()
    console = Console(screen)
    dialer: Dialer = PlainDialer() if digest is None else TlsDialer(ca_digest=digest, ca_file=None)
    config = Config(
        endpoints=(("127.0.0.1", port),), ca_digest=digest or f"sha256:{'0' * 64}", ca_file=None,
        token=lambda: "token", boot_mac="", ramdisk="ramdisk-1", built=0, version="1.2",
    )  # fmt: skip
    runner = TaskRunner(
        TaskContext(boot_id="boot-1"), spool, {ERASE: disk.run}.get, console.say,
        progress_interval=0.01, retry_interval=0.01,
    )  # fmt: skip
    spool.add("info", "test", "the first second of boot")
    with tempfile.TemporaryDirectory(prefix="teeth-agent-") as folder:
        home = Home(
            config,
            Identity(node_id="node-1", boot_id="boot-1", macs=("52:54:00:00:00:01",)),
            runner,
            spool,
            console,
            dialer=dialer,
            keys=FileKeys(Path(folder) / "run", boot_id="boot-1"),
            served=[ERASE],
            inventory=saying({"disks": []}),
            status=saying({"uptime": 7.0, "version": "1.2", "boot_id": "boot-1"}),
            backoff=backoff,
        )
        job = asyncio.create_task(home.run())
        try:
            yield screen
        finally:
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)
