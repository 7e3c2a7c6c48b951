"""How long an agent takes to answer a ping while it is idle and while a task works hard in its thread.

The real endpoint in this process, the real agent's session in another, TLS between them on 127.0.0.1. The
times are those that the endpoint sees, so its own work (every report goes to disk) is in them. Writes
build/bench/ping.json and prints it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from teeth.endpoint.events import NodeConnected
from teeth.endpoint.taskstate import TaskState
from teeth.errors import TeethError
from teeth.paths import find_checkout
from teeth.service import Endpoint, EndpointConfig
from teeth_agent.config import Config
from teeth_agent.reporter import Reporter
from teeth_agent.session.bell import favour_the_loop
from teeth_agent.session.console import Console
from teeth_agent.session.dial import TlsDialer
from teeth_agent.session.enrol import FileKeys
from teeth_agent.session.home import Home, Identity
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import TaskRunner
from teeth_agent.tasks.context import TaskContext
from teeth_protocol import methods

MAC = "52:54:00:7e:e7:03"
NODE = "bench"
BOUND = 100.0  # ms
DEADLINE = 60.0


def compress_and_hash(data: bytes) -> bytes:
    """What reading back and fetching an image do: long calls that let other threads run."""
    return hashlib.sha256(zlib.compress(data, 6)).digest() * (len(data) // 32)


def compute_in_python(data: bytes) -> bytes:
    """What no task of ours does for long: Python's own lock is held all the time."""
    sum(value * value for value in range(20_000))
    return data


WORK: Mapping[str, Callable[[bytes], bytes]] = {
    "compress_and_hash": compress_and_hash,
    "compute_in_python": compute_in_python,
}


def work(params: Mapping[str, Any], _context: TaskContext, reporter: Reporter) -> dict[str, Any]:
    """Work until cancelled, with a report after every step."""
    step, data, done = WORK[params["work"]], os.urandom(1 << 20), 0
    while True:
        data = step(data)
        done += 1
        reporter.progress(min(99.0, done / 1000), eta=3600.0, step=params["work"], steps=done)
        reporter.check_cancelled()


async def live(port: int, digest: str, folder: Path) -> None:
    """The agent's process. Its token comes by standard input, so that no process list shows it."""
    token = sys.stdin.readline().strip()
    favour_the_loop()

    async def facts() -> dict[str, Any]:
        return {}

    spool, console = LogSpool(), Console(sys.stderr)
    home = Home(
        Config(
            endpoints=(("127.0.0.1", port),),
            ca_digest=digest,
            ca_file=None,
            token=lambda: token,
            boot_mac=MAC,
            ramdisk="bench",
            built=0,
            version="bench",
        ),
        Identity(node_id=NODE, boot_id="bench", macs=(MAC,)),
        TaskRunner(TaskContext(boot_id="bench"), spool, {methods.DISK_ERASE: work}.get, console.say),
        spool,
        console,
        dialer=TlsDialer(ca_digest=digest, ca_file=None),
        keys=FileKeys(folder / "agent", boot_id="bench"),
        inventory=facts,
        status=facts,
    )
    await home.run()


@contextlib.asynccontextmanager
async def agent(endpoint: Endpoint, folder: Path) -> AsyncIterator[None]:
    """An agent's process that has come home."""
    token = (await endpoint.grant(MAC)).token
    words = ["--agent", str(endpoint.agent_port), endpoint.ca_digest, str(folder)]
    with endpoint.subscribe() as events:
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, *words, stdin=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdin is not None
            process.stdin.write(f"{token}\n".encode())
            await process.stdin.drain()
            async with asyncio.timeout(DEADLINE):
                async for event in events:
                    if isinstance(event, NodeConnected):
                        break
            yield
        finally:
            process.kill()
            await process.wait()


async def pings(endpoint: Endpoint, count: int) -> list[float]:
    """Milliseconds of ``count`` pings, one after the other, a little apart."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        if await endpoint.call(NODE, methods.PING, {"n": number}) != {"n": number}:
            raise TeethError("a ping came back changed")
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.002)
    return times


def figures(times: list[float]) -> dict[str, float | int]:
    ordered = sorted(times)
    return {
        "pings": len(ordered),
        "median_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)], 2),
        "max_ms": round(ordered[-1], 2),
    }


async def under(endpoint: Endpoint, kind: str, count: int) -> list[float]:
    """Pings while a task does this kind of work."""
    task_id = await endpoint.run_task(NODE, methods.DISK_ERASE, {"work": kind, "plan": True})
    async with asyncio.timeout(DEADLINE):
        async for event in endpoint.task_events(task_id):
            if event.state is TaskState.RUNNING and event.percent > 0:
                break
    times = await pings(endpoint, count)
    await endpoint.cancel_task(task_id)
    async with asyncio.timeout(DEADLINE):
        await endpoint.wait_task(task_id)
    return times


async def measure(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="teeth-bench-") as name:
        folder = Path(name)
        async with Endpoint(EndpointConfig(data=folder / "data")) as endpoint, agent(endpoint, folder):
            samples = {"idle": await pings(endpoint, count)}
            for kind in WORK:
                samples[kind] = await under(endpoint, kind, count)
    most = max(max(times) for times in samples.values())
    return {
        "bound_ms": BOUND,
        "within_bound": most <= BOUND,
        **{name: figures(times) for name, times in samples.items()},
        "processors": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pings", type=int, default=2000, help="of each kind")
    parser.add_argument("--agent", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.agent:
        port, digest, folder = options.agent
        asyncio.run(live(int(port), digest, Path(folder)))
        return
    result = asyncio.run(measure(options.pings))
    target = find_checkout().build / "bench/ping.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
