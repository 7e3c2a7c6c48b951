"""``python hostile_home.py PORT``: the agent's Home and tasks in a process, for a hostile endpoint.

Only what touches the machine is not real: no TLS, no key, and tasks that read their params as the real ones
do and then do nothing. Its console is stdout; its log, with every traceback there may be, is stderr.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from typing import Any

from teeth_agent.config import Config
from teeth_agent.erase.policy import read_policy
from teeth_agent.image.params import read_prepare, read_run
from teeth_agent.reporter import Reporter
from teeth_agent.session.console import Console
from teeth_agent.session.dial import DialError
from teeth_agent.session.enrol import Credential
from teeth_agent.session.home import Home, Identity
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import TaskRunner
from teeth_agent.tasks.context import TaskContext

_READERS = {
    "decom.disk_erase": read_policy,
    "standbye.prepare_image": read_prepare,
    "standbye.run_image": read_run,
}


class PlainDialer:
    async def dial(
        self, host: str, port: int, credential: Credential | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_connection(host, port)
        except OSError as error:
            raise DialError(f"{host}:{port}: {error.strerror}") from None


class NoKeys:
    """As if enrolled long ago and for ever."""

    def now(self) -> float:
        return 0.0

    async def load(self) -> Credential | None:
        return Credential(handle=None, issued=0.0, lasts=1e9)

    async def csr(self) -> str:
        return ""

    async def keep(self, certificate: str, lasts: float) -> Credential:
        return Credential(handle=None, issued=0.0, lasts=1e9)


def load(method: str) -> Any:
    reader = _READERS.get(method)
    if reader is None:
        return None

    def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
        reader(params)
        reporter.progress(50, step="read")
        return {"read": True}

    return run


async def main(port: int) -> None:
    spool = LogSpool()
    for number in range(1000):
        spool.add("info", "test", f"record {number}")
    console = Console()
    runner = TaskRunner(
        TaskContext(boot_id="boot-1"), spool, load, console.say, progress_interval=0.01, retry_interval=0.01
    )
    home = Home(
        Config(
            endpoints=(("127.0.0.1", port),),
            ca_digest=None,
            ca_file=None,
            token=lambda: "",
            boot_mac="",
            ramdisk="r",
            built=0,
            version="1",
        ),
        Identity(node_id="node-1", boot_id="boot-1", macs=("52:54:00:00:00:01",)),
        runner,
        spool,
        console,
        dialer=PlainDialer(),
        keys=NoKeys(),
        inventory=facts,
        status=facts,
        backoff=0.0,
    )
    await home.run()


async def facts() -> dict[str, Any]:
    return {"uptime": 1.0}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(main(int(sys.argv[1])))
