"""The agent's composition root: settings, logging, network, session."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from teeth_agent import config, netlink, tasks
from teeth_agent.config import Config, ConfigError
from teeth_agent.inventory import machine
from teeth_agent.network.bring_up import Network, network
from teeth_agent.session.console import Console
from teeth_agent.session.dial import TlsDialer
from teeth_agent.session.enrol import FileKeys
from teeth_agent.session.home import Home, Identity
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import TaskRunner
from teeth_agent.tasks.context import SharedState, TaskContext

_ROOT = Path("/")
# What a supervisor reads: nothing to retry until a person changed the boot arguments.
_EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h


def _process_start() -> float:
    """When this process began, in seconds since the kernel started (proc_pid_stat(5), field 22)."""
    stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
    ticks = int(stat.rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


def _raise_clock(built: int) -> None:
    """A clock before the ramdisk's build time is wrong: certificates would not be valid yet."""
    if time.time() < built:
        try:
            time.clock_settime(time.CLOCK_REALTIME, built)
        except OSError as error:
            logging.getLogger(__name__).warning("the clock could not be set: %s", error)


async def _serve(settings: Config, console: Console, spool: LogSpool, timings: dict[str, float]) -> None:
    async with network(settings.boot_mac, console.problem) as net:
        timings["network"] = time.monotonic()
        console.say(f"network {net.link.name} {net.lease.address}/{net.lease.prefix_length}")
        await _session(settings, console, spool, timings, net)


async def _session(
    settings: Config, console: Console, spool: LogSpool, timings: dict[str, float], net: Network
) -> None:
    links = await netlink.links()
    macs = [net.link.mac, *(link.mac for link in links if link.kind == "" and link.mac != net.link.mac)]
    boot = machine.boot_id(_ROOT)
    context = TaskContext(boot_id=boot, state=SharedState())
    runner = TaskRunner(context, spool, tasks.load, console.say)
    home = Home(
        settings,
        Identity(node_id=machine.node_id(_ROOT, macs), boot_id=boot, macs=tuple(macs), timings=timings),
        runner,
        spool,
        console,
        dialer=TlsDialer(ca_digest=settings.ca_digest, ca_file=settings.ca_file),
        keys=FileKeys(_ROOT / "run/teeth", boot_id=boot),
        inventory=lambda: asyncio.to_thread(_inventory, settings),
        status=lambda: asyncio.to_thread(_status, settings, boot),
    )
    await home.run()


def _status(settings: Config, boot: str) -> dict[str, Any]:
    return machine.status(_ROOT, version=settings.version, ramdisk=settings.ramdisk, boot=boot)


def _inventory(settings: Config) -> dict[str, Any]:
    from teeth_agent.inventory.block import settled_disks  # not needed before the first question

    links = asyncio.run(netlink.links())
    return {
        "firmware": machine.firmware(_ROOT),
        "processor": machine.processor(_ROOT),
        "memory": machine.memory(_ROOT),
        "interfaces": machine.interfaces(_ROOT, links, settings.boot_mac),
        "disks": [disk.to_json() for disk in settled_disks()],
    }


def main() -> int:
    """Run until the machine leaves. Returns an exit status for the supervisor."""
    spool = LogSpool()
    logging.basicConfig(level=logging.INFO, handlers=[spool])
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
    console = Console()
    timings = {"process": _process_start(), "python": time.monotonic()}
    try:
        settings = config.load(_ROOT)
    except ConfigError as error:
        console.problem(error.code, str(error))
        return _EXIT_CONFIG
    _raise_clock(settings.built)
    console.say(f"agent {settings.version}, ramdisk {settings.ramdisk[:12]}")
    try:
        asyncio.run(_serve(settings, console, spool, timings))
    except Exception as error:
        # Nobody but the console hears it: the supervisor starts the agent anew, with an empty memory.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        console.problem("internal", f"the agent failed: {type(error).__name__}: {error} ({where})")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
