"""The power goes while an image is being written: the next boot knows that the disk is not prepared, and the
disk starts nothing until it has been prepared anew."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from deploy.looks import NOTHING, has_no_start, host_sees_no_system
from deploy.site import MIB, SERIAL, TASK, Plan, Site, Words, endpoint_of, machine_at_home
from teeth.boot.images import load_image
from teeth.build.guest import RAW, build_guest
from teeth.endpoint.taskstate import TaskState
from teeth.lab.accel import Accelerator
from teeth.lab.disk import Bus, VirtualDisk
from teeth.paths import Paths
from teeth.proc import run
from teeth_protocol import methods

pytestmark = [pytest.mark.boot, pytest.mark.image, pytest.mark.machines(1024, 256)]


DISK = 1024 * MIB


def disk_with_the_same_system(paths: Paths, folder: Path) -> VirtualDisk:
    """The worst case: whatever the cut leaves over fits what was there before, and that did start."""
    path = folder / "target.raw"
    run(["cp", "--sparse=always", paths.guest / RAW, path])
    with path.open("r+b") as stream:
        stream.truncate(DISK)
    return VirtualDisk(path=path, size=DISK, bus=Bus.VIRTIO_SCSI, serial=SERIAL)


async def half_way(here: Site, task_id: str) -> None:
    """The task has written a good part of the image, and not yet all of it."""
    async with asyncio.timeout(TASK):
        async for event in here.endpoint.task_events(task_id):
            if event.percent >= 20:
                assert not event.state.over
                return
    raise AssertionError("the task ended before it was half way")


async def test_a_cut_leaves_nothing_that_starts(
    kept: Path, ramdisk: Path, accelerator: Accelerator, paths: Paths
) -> None:
    build_guest(paths)
    image, target = load_image(paths.guest), disk_with_the_same_system(paths, kept)
    plan = Plan(folder=kept, ramdisk=ramdisk, accelerator=accelerator, images=[image], disks=(target,))
    async with endpoint_of(plan) as endpoint:
        wanted = {"image": endpoint.image(image.id), "root_disk": {"serial": SERIAL}}
        async with machine_at_home(plan, endpoint) as here:
            cut = await endpoint.run_task(here.node_id, methods.PREPARE_IMAGE, wanted)
            await half_way(here, cut)
            await here.machine.crash()
        assert has_no_start(target.path)
        await host_sees_no_system(target.path, kept / "after-the-cut", accelerator, NOTHING)
        async with machine_at_home(plan, endpoint, fresh=False) as here:
            # Nobody can say how far it came: nothing else is done to the machine before a person has looked.
            await here.reach(cut, (TaskState.UNKNOWN,), within=TASK)
            await endpoint.settle_task(cut, TaskState.ERROR, "the power was cut")
            ran = await here.task(
                methods.RUN_IMAGE,
                {"image_id": image.id, "boot": "auto", "config_drive": Words().config_drive()},
            )
            assert (ran.state, ran.code) == ("error", "not_prepared"), ran.msg
            assert has_no_start(target.path)
            again = await here.prepare(wanted["image"], SERIAL)
            assert (again.state, again.code) == ("complete", ""), again.msg
    assert not has_no_start(target.path)
    same_root(paths, target.path, image.manifest["partitions"][2])


def same_root(paths: Paths, disk: Path, part: dict[str, int]) -> None:
    """The root file system is the image's, byte for byte."""
    with (paths.guest / RAW).open("rb") as left, disk.open("rb") as right:
        left.seek(part["offset"])
        right.seek(part["offset"])
        for _ in range(part["size"] // MIB):
            assert left.read(MIB) == right.read(MIB)
