"""Images kept on a partition of a machine's disk: they outlive a power cut, and a changed byte is found."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from deploy.site import MIB, SERIAL, TASK, Plan, Site, endpoint_of, machine_at_home
from fakes.imageserver import serving, stalling, whole
from teeth.boot.images import ImageFile
from teeth.endpoint.taskstate import Task, TaskState
from teeth.lab.accel import Accelerator
from teeth.lab.disk import Bus, VirtualDisk
from teeth.lab.network import HOST_ADDRESS
from teeth.proc import run
from teeth_protocol import methods

pytestmark = [pytest.mark.boot, pytest.mark.image, pytest.mark.machines(1024)]

DISK = 256 * MIB
CHUNK = 1 * MIB
# The first partition, which is somebody else's: from 1 MiB to 33 MiB.
OTHERS = slice(1 * MIB, 33 * MIB)
NOBODY = "http://10.0.2.2:9/nothing"


def disk_with_a_place(folder: Path) -> VirtualDisk:
    """Two partitions: one with somebody's bytes, one that is the cache's by its name."""
    path = folder / "target.raw"
    with path.open("wb") as stream:
        stream.truncate(DISK)
    run(
        [
            "sgdisk",
            *("--new=1:2048:67583", "--change-name=1:somebody"),
            *("--new=2:67584:0", "--change-name=2:teeth-cache"),
            path,
        ]
    )
    with path.open("r+b") as stream:
        stream.seek(OTHERS.start)
        stream.write(random.Random(1).randbytes(OTHERS.stop - OTHERS.start))
    return VirtualDisk(path=path, size=DISK, bus=Bus.VIRTIO_SCSI, serial=SERIAL)


def image_file(folder: Path, name: str, content: bytes) -> ImageFile:
    path = folder / f"{name}.img"
    path.write_bytes(content)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    manifest = {"id": name, "name": name, "size": len(content), "digest": digest, "format": "raw"}
    return ImageFile(path=path, manifest=manifest)


def with_chunks(params: dict[str, Any], content: bytes) -> dict[str, Any]:
    pieces = (content[start : start + CHUNK] for start in range(0, len(content), CHUNK))
    digests = [hashlib.sha256(piece).hexdigest() for piece in pieces]
    return {**params, "chunks": {"size": CHUNK, "digests": digests}}


async def cache(here: Site, *images: dict[str, Any]) -> tuple[Task, dict[str, Any]]:
    """The task, complete, and what it says of each image."""
    task = await here.task(methods.CACHE_IMAGES, {"images": list(images)})
    assert (task.state, task.code) == ("complete", ""), task.msg
    assert task.result is not None
    return task, {one["id"]: one for one in task.result["images"]}


async def test_a_cache_on_a_disk_outlives_a_power_cut_and_a_changed_byte_is_found(
    kept: Path, ramdisk: Path, accelerator: Accelerator
) -> None:
    plain, chunked = random.Random(2).randbytes(6 * MIB + 5), random.Random(3).randbytes(9 * MIB + 7)
    files = [image_file(kept, "plain", plain), image_file(kept, "chunked", chunked)]
    target = disk_with_a_place(kept)
    before = target.path.read_bytes()[OTHERS]
    plan = Plan(folder=kept, ramdisk=ramdisk, accelerator=accelerator, images=files, disks=(target,))
    async with endpoint_of(plan) as endpoint:
        one = endpoint.image("plain")
        two = with_chunks(endpoint.image("chunked"), chunked)
        huge = {**one, "id": "huge", "size": 1 << 40, "digest": "sha256:" + "0" * 64}
        async with machine_at_home(plan, endpoint) as here:
            task, said = await cache(here, one, huge, two)
            assert task.result is not None
            assert task.result["place"] == "disk"
            assert 0 < task.result["budget"] < DISK
            assert said["plain"]["cached"], said
            assert said["chunked"]["cached"], said
            assert not said["huge"]["cached"]
            assert "needs" in said["huge"]["reason"]
            await here.machine.crash()
        spoil(target.path, chunked, 5 * CHUNK + 17)
        async with machine_at_home(plan, endpoint, fresh=False) as here:
            # Nobody answers there: what is said to be cached was there, and was found right.
            _, said = await cache(here, {**one, "urls": [NOBODY]}, {**two, "urls": [NOBODY]})
            assert said["plain"]["cached"], said
            assert not said["chunked"]["cached"]
            assert "could not be fetched" in said["chunked"]["reason"]
            _, said = await cache(here, {**one, "urls": [NOBODY]}, two)
            assert said["plain"]["cached"], said
            assert said["chunked"]["cached"], said
            await here.machine.crash()
    after = target.path.read_bytes()
    assert after[OTHERS] == before
    # Mended in place: the chunk that was spoiled is on the disk again as it was.
    assert chunked[5 * CHUNK : 5 * CHUNK + 4096] in after


async def test_a_fetch_that_the_power_cut_ended_goes_on_by_range_after_the_reboot(
    kept: Path, ramdisk: Path, accelerator: Accelerator
) -> None:
    content = random.Random(4).randbytes(80 * MIB)
    target = disk_with_a_place(kept)
    plan = Plan(folder=kept, ramdisk=ramdisk, accelerator=accelerator, images=[], disks=(target,))
    wanted = with_chunks(image_file(kept, "long", content).params(""), content)
    with serving(content, stalling(70 * MIB), whole()) as server:
        wanted["urls"] = [server.url().replace("127.0.0.1", HOST_ADDRESS)]
        async with endpoint_of(plan) as endpoint:
            async with machine_at_home(plan, endpoint) as here:
                cut = await endpoint.run_task(here.node_id, methods.CACHE_IMAGES, {"images": [wanted]})
                await as_far_as(here, cut, percent=85)
                await here.machine.crash()
            async with machine_at_home(plan, endpoint, fresh=False) as here:
                await here.reach(cut, (TaskState.UNKNOWN,), within=TASK)
                await endpoint.settle_task(cut, TaskState.ERROR, "the power was cut")
                _, said = await cache(here, wanted)
                assert said["long"]["cached"], said
        # What was flushed before the cut was not fetched again: the index says so every 64 MiB.
        assert [said for _, said in server.requests] == [None, f"bytes={64 * MIB}-"]


async def as_far_as(here: Site, task_id: str, *, percent: float) -> None:
    async with asyncio.timeout(TASK):
        async for event in here.endpoint.task_events(task_id):
            assert not event.state.over, event.state
            if event.percent >= percent:
                return


def spoil(disk: Path, content: bytes, offset: int) -> None:
    """Change one byte of an image where it lies on the disk."""
    block = offset // 4096 * 4096
    place = disk.read_bytes().find(content[block : block + 4096])
    assert place > OTHERS.stop
    with disk.open("r+b") as stream:
        stream.seek(place + offset - block)
        stream.write(bytes([content[offset] ^ 0xFF]))
