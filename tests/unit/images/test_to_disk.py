"""An image of the store on a disk: what the host packs and signs is what an agent takes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fakes import diskimages, storedimages
from fakes.machine_disks import disk_at
from fakes.reporting import ToldReporter
from teeth.images.add import Order, add
from teeth.service import Endpoint, EndpointConfig
from teeth_agent.tasks.context import TaskContext
from teeth_agent.tasks.prepare_image import run

MIB = 1 << 20


async def prepared(tmp_path: Path, source: Path) -> tuple[dict[str, Any], bytes]:
    """The outcome of a prepare_image of what was added from ``source``, and the disk."""
    data = tmp_path / "data"
    add(Order(source=str(source), name="small", level=1), data, progress=lambda *_: None)
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    async with Endpoint(EndpointConfig(data=data)) as endpoint:
        params = {"task_id": "t", "image": endpoint.image("small"), "root_disk": {"model": "DISK"}}
        context = TaskContext(boot_id="boot")
        outcome = await asyncio.to_thread(run, params, context, ToldReporter(), disks=lambda: [disk])
    return dict(outcome), (tmp_path / "sda").read_bytes()


async def test_a_disk_image(tmp_path: Path) -> None:
    source = storedimages.disk(tmp_path / "made")
    raw = source.read_bytes()
    outcome, disk = await prepared(tmp_path, source)
    assert (outcome["verified"], outcome["raw_bytes"]) == (True, len(raw))
    assert disk[2 * MIB : len(raw) - MIB] == raw[2 * MIB : -MIB]


async def test_a_qcow2_image(tmp_path: Path) -> None:
    source = storedimages.disk(tmp_path / "made")
    raw = source.read_bytes()
    outcome, disk = await prepared(tmp_path, storedimages.qcow2(source, "-c"))
    assert (outcome["verified"], outcome["raw_bytes"]) == (True, len(raw))
    assert disk[2 * MIB : len(raw) - MIB] == raw[2 * MIB : -MIB]
