"""One whole agent in a process of its own, for tests that kill it.

The session, enrolment, task runner and journal are the real ones. Only the work is a test's: it notes every
beginning and end in a file, so that a second one shows.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from teeth_agent import run
from teeth_agent.config import Config, parse_endpoint
from teeth_agent.reporter import Reporter
from teeth_agent.session.clock import SystemClock
from teeth_agent.session.console import Console
from teeth_agent.session.dial import TlsDialer
from teeth_agent.session.enrol import FileKeys
from teeth_agent.session.home import Home, Identity
from teeth_agent.session.journal import FileJournal
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import TaskRunner
from teeth_agent.tasks import TaskFunction
from teeth_agent.tasks.context import TaskContext
from teeth_protocol import methods

NODE = "node-that-is-killed"
MAC = "52:54:00:00:00:0a"
STEP = 0.02  # seconds


def counted_work(effects: Path) -> TaskFunction:
    """Work that takes ``steps`` moments and leaves a line when it begins and one when it is done."""

    def note(word: str, params: Mapping[str, Any]) -> None:
        descriptor = os.open(effects, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{word} {params['task_id']}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def work(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        note("begun", params)
        steps = int(params["steps"])
        for step in range(steps):
            reporter.check_cancelled()
            reporter.progress(100 * step / steps, eta=(steps - step) * STEP, step="work")
            time.sleep(STEP)
        note("done", params)
        return {"steps": steps}

    return work


async def facts() -> dict[str, Any]:
    return {}


async def live(arguments: argparse.Namespace) -> None:
    spool, console = LogSpool(), Console()
    folder: Path = arguments.run
    run.mark_tools(arguments.boot)
    work = counted_work(arguments.effects)
    runner = TaskRunner(
        TaskContext(boot_id=arguments.boot),
        spool,
        {methods.DISK_ERASE: work}.get,
        console.say,
        journal=FileJournal(folder / "tasks.jsonl"),
        progress_interval=0.05,
    )
    config = Config(
        endpoints=(parse_endpoint(arguments.endpoint),),
        ca_digest=None,
        ca_file=arguments.ca,
        token=lambda: arguments.token.read_text(encoding="ascii").strip(),
        boot_mac="",
        ramdisk="none",
        built=0,
        version="test",
    )
    clock = SystemClock(0)
    home = Home(
        config,
        Identity(node_id=NODE, boot_id=arguments.boot, macs=(MAC,)),
        runner,
        spool,
        console,
        dialer=TlsDialer(ca_digest=None, ca_file=arguments.ca, clock=clock, say=console.say),
        keys=FileKeys(folder, boot_id=arguments.boot),
        served=(methods.DISK_ERASE,),
        inventory=facts,
        status=facts,
        backoff=0.1,
    )
    await home.run()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--boot", required=True)
    for name in ("--ca", "--token", "--run", "--effects"):
        parser.add_argument(name, type=Path, required=True)
    asyncio.run(live(parser.parse_args()))


if __name__ == "__main__":
    main()
