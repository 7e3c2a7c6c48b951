"""The agent's composition root: settings, logging, network, session."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teeth_agent import config, netlink, run, tasks
from teeth_agent.config import Config
from teeth_agent.errors import AgentError
from teeth_agent.image import stale
from teeth_agent.image.cache.cache import ImageCache
from teeth_agent.image.cache.mounts import SystemMounts
from teeth_agent.image.cache.place import CachePartition
from teeth_agent.image.sharing import Sharing
from teeth_agent.inventory import machine
from teeth_agent.network.bring_up import Network, network
from teeth_agent.run import Orphans
from teeth_agent.session.bell import favour_the_loop
from teeth_agent.session.clock import SystemClock
from teeth_agent.session.console import Console
from teeth_agent.session.dial import TlsDialer
from teeth_agent.session.enrol import FileKeys
from teeth_agent.session.home import Home, Identity
from teeth_agent.session.journal import FileJournal
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import TaskRunner
from teeth_agent.session.watchdog import last_words, watching
from teeth_agent.tasks.context import SharedState, TaskContext
from teeth_agent.tasks.startlook import StartLook, look_at_drives

_ROOT = Path("/")
_FOLDER = "run/teeth"  # in memory, ours alone, as long as the boot
_REPORT = f"{_FOLDER}/stuck.txt"
_LOOK_SECONDS = 0.5
# What a supervisor reads: nothing to retry until a person changed the boot arguments.
_EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h


def _process_start() -> float:
    """When this process began, in seconds since the kernel started (proc_pid_stat(5), field 22)."""
    stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
    ticks = int(stat.rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What one life of the agent is put together from. ``timings``: seconds since the kernel began."""

    settings: Config
    console: Console
    spool: LogSpool
    clock: SystemClock
    boot_id: str
    keys: FileKeys
    orphans: Orphans
    timings: dict[str, float]
    start_look: StartLook


async def _serve(parts: _Parts) -> None:
    console = parts.console
    with watching(_ROOT / _REPORT):
        preparing = asyncio.create_task(_prepare(parts))
        async with network(parts.settings.boot_mac, console.problem) as net:
            parts.timings["network"] = time.monotonic()
            console.say(f"network {net.link.name} {net.lease.address}/{net.lease.prefix_length}")
            await preparing
            # So that a drive that was left locked is mostly told of in the first answer; a slow bus is not
            # waited for.
            await asyncio.to_thread(parts.start_look.wait, _LOOK_SECONDS)
            home = await _home(parts, net)
            await home.run()


async def _prepare(parts: _Parts) -> None:
    """While the network comes up: end and unmount what an earlier process has left, then make the key.

    In this order, as the tool that makes the key would else be taken for one of those.
    """
    await asyncio.to_thread(parts.orphans.end)
    if parts.settings.ramdisk != "unknown":  # elsewhere, such mounts may be another agent's
        await asyncio.to_thread(stale.clear)
    parts.start_look.begin()
    with contextlib.suppress(AgentError):  # asked for again, and told of, when it is needed
        await parts.keys.csr()


async def _home(parts: _Parts, net: Network) -> Home:
    settings, console, spool = parts.settings, parts.console, parts.spool
    links = await netlink.links()
    macs = [net.link.mac, *(link.mac for link in links if link.kind == "" and link.mac != net.link.mac)]
    runner = TaskRunner(
        TaskContext(
            boot_id=parts.boot_id,
            state=SharedState(),
            drives_free=parts.start_look.wait,
            cache=ImageCache(look=_cache_partitions, mounts=SystemMounts(), root=_ROOT),
            image_key=settings.image_key,
            sharing=Sharing(f"{net.lease.address}/{net.lease.prefix_length}"),
        ),
        spool,
        tasks.load,
        console.say,
        journal=FileJournal(_ROOT / _FOLDER / "tasks.jsonl"),
        blocked=parts.orphans.blocked,
    )
    return Home(
        settings,
        Identity(
            node_id=machine.node_id(_ROOT, macs),
            boot_id=parts.boot_id,
            macs=tuple(macs),
            uuid=machine.system_uuid(_ROOT),
            timings=parts.timings,
        ),
        runner,
        spool,
        console,
        dialer=TlsDialer(
            ca_digest=settings.ca_digest, ca_file=settings.ca_file, clock=parts.clock, say=console.say
        ),
        keys=parts.keys,
        served=tasks.SERVED,
        inventory=lambda: asyncio.to_thread(_inventory, settings),
        status=lambda: asyncio.to_thread(_status, parts, net),
    )


def _cache_partitions() -> Sequence[CachePartition]:
    from teeth_agent.tasks.cachedisks import cache_partitions  # not needed before the first image

    return cache_partitions(_ROOT)


def _status(parts: _Parts, net: Network) -> dict[str, Any]:
    settings, links = parts.settings, asyncio.run(netlink.links())
    return {
        **machine.status(_ROOT, version=settings.version, ramdisk=settings.ramdisk, boot=parts.boot_id),
        "clock": {"stepped": parts.clock.stepped},
        "network": machine.addresses(links, {net.link.index: net.lease.address}),
    }


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
    favour_the_loop()
    boot_id = machine.boot_id(_ROOT)
    run.mark_tools(boot_id)
    try:
        settings = config.load(_ROOT)
        keys = FileKeys(_ROOT / _FOLDER, boot_id=boot_id)
        keys.prepare_folder()
    except AgentError as error:
        console.problem(error.code, str(error))
        return _EXIT_CONFIG
    clock = SystemClock(settings.built)
    clock.raise_to_floor()
    console.say(f"agent {settings.version}, ramdisk {settings.ramdisk[:12]}")
    if (words := last_words(_ROOT / _REPORT)) is not None:
        logging.getLogger(__name__).error("an earlier process of this boot was ended: %s", words)
    parts = _Parts(
        settings=settings,
        console=console,
        spool=spool,
        clock=clock,
        boot_id=boot_id,
        keys=keys,
        orphans=Orphans(boot_id),
        timings=timings,
        start_look=StartLook(console.problem, lambda: look_at_drives(_ROOT)),
    )
    try:
        asyncio.run(_serve(parts))
    except Exception as error:
        # Nobody but the console hears it: the supervisor starts the agent anew.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        console.problem("internal", f"the agent failed: {type(error).__name__}: {error} ({where})")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
