"""An image of the store on a disk: what the host packs and signs is what an agent takes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fakes import diskimages, storedimages
from fakes.machine_disks import disk_at
from fakes.reporting import ToldReporter
from teeth.images.add import Order, add
from teeth.images.store import signing_key
from teeth.service import Endpoint, EndpointConfig
from teeth.signing import public_key_digest, public_raw
from teeth_agent.errors import AgentError
from teeth_agent.tasks.context import TaskContext
from teeth_agent.tasks.prepare_image import run

MIB = 1 << 20


async def prepared(
    tmp_path: Path, source: Path, *, image_key: str | None = None
) -> tuple[dict[str, Any], bytes]:
    """The outcome of a prepare_image of what was added from ``source``, and the disk."""
    data = tmp_path / "data"
    add(Order(source=str(source), name="small", level=1), data, progress=lambda *_: None)
    disk = disk_at(diskimages.blank(tmp_path / "sda", 40 * MIB))
    async with Endpoint(EndpointConfig(data=data)) as endpoint:
        params = {"task_id": "t", "image": endpoint.image("small"), "root_disk": {"model": "DISK"}}
        context = TaskContext(boot_id="boot", image_key=image_key)
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


async def test_a_machine_that_takes_signed_images_only(tmp_path: Path) -> None:
    source = storedimages.disk(tmp_path / "made")
    key = public_key_digest(public_raw(signing_key(tmp_path / "data")))
    outcome, _ = await prepared(tmp_path, source, image_key=key)
    assert outcome["verified"] is True
    other = public_key_digest(public_raw(signing_key(tmp_path / "other")))
    with pytest.raises(AgentError) as refused:
        await prepared(tmp_path, source, image_key=other)
    assert refused.value.code == "image_signature"
    assert not any((tmp_path / "sda").read_bytes()[:512].replace(b"\xa5", b"\0"))  # as it was
