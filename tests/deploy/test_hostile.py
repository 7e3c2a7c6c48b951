"""Images that are damaged, lie about themselves or cannot start: each ends with a problem that says so, the
disk is not called prepared, and what the host finds on it does not start a machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy import hostile
from deploy.looks import NOTHING, has_no_start, host_sees_no_system
from deploy.site import MIB, SERIAL, Plan, Site, Words, site
from teeth.boot.images import ImageFile
from teeth.endpoint.taskstate import Task
from teeth.lab.accel import Accelerator
from teeth.lab.disk import Bus, VirtualDisk
from teeth.lab.firmware import Firmware
from teeth_protocol import methods

pytestmark = [pytest.mark.boot, pytest.mark.image, pytest.mark.machines(1024, 256)]


DISK = 640 * MIB
# OVMF, of a disk on which it finds no loader.
NO_OPTION = "BdsDxe: (failed to load|No bootable option)"
BOMB = 2048 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """An image, and the codes of which preparing it must end with one."""

    name: str
    image: ImageFile
    codes: tuple[str, ...]


def attacks(folder: Path) -> list[Attack]:
    return [*damaged(folder), *lying(folder), *lifeless(folder), *lifeless_roots(folder)]


def damaged(folder: Path) -> list[Attack]:
    """Not what the digest says, or not whole."""
    good = hostile.disk_of(hostile.System(name="good", files={hostile.KERNEL: b"kernel"}), folder)
    true = hostile.described(good).manifest["digest"]
    flipped = hostile.with_last_byte_changed(good, folder / "flipped.disk")
    truncated = hostile.cut(hostile.qcow2(good, folder, "truncated"), 0.5)
    return [
        Attack(
            name="the digest is wrong at the last byte",
            image=hostile.described(flipped, digest=true),
            codes=("digest_mismatch",),
        ),
        Attack(
            name="half a qcow2",
            image=hostile.described(truncated, format="qcow2", raw_size=good.stat().st_size),
            codes=("image_truncated",),
        ),
    ]


def lying(folder: Path) -> list[Attack]:
    """More, or something else, than it says."""
    inner = hostile.disk_of(hostile.System(name="inner", files={hostile.KERNEL: b"kernel"}), folder)
    backed, size = hostile.backed(inner, folder), inner.stat().st_size
    bomb = hostile.bomb(folder, BOMB)
    return [
        Attack(
            name="a bomb that says it is small",
            image=hostile.described(bomb, compression="zstd", raw_size=64 * MIB),
            codes=("image_size",),
        ),
        Attack(
            name="a bomb that says nothing",
            image=hostile.described(bomb, compression="zstd"),
            codes=("disk_too_small",),
        ),
        Attack(
            name="a partition beyond the disk",
            image=hostile.described(hostile.beyond_the_disk(folder)),
            codes=("partition_table",),
        ),
        Attack(
            name="a qcow2 with a backing file",
            image=hostile.described(backed, format="qcow2", raw_size=size),
            codes=("qcow2_backing_file",),
        ),
        Attack(
            name="a qcow2 that is called raw",
            image=hostile.described(hostile.qcow2(inner, folder, "called-raw")),
            codes=("image_format",),
        ),
    ]


def lifeless(folder: Path) -> list[Attack]:
    """Whole disks whose bytes are what their digest says, and which no machine like this can start."""
    missing = hostile.disk_of(hostile.System(name="no-kernel", files={hostile.INITRD: b"initrd"}), folder)
    corrupt = hostile.disk_of(
        hostile.System(
            name="corrupt-grub",
            files={hostile.KERNEL: b"kernel"},
            grub_cfg="menuentry 'x {\n\udcff\udcfe linux /boot/vm\nset default=\"${\n" * 40,
        ),
        folder,
    )
    files = {hostile.KERNEL: hostile.ARM_KERNEL, hostile.INITRD: b"initrd"}
    arm = hostile.disk_of(hostile.System(name="arm", files=files), folder)
    hostile.for_arm(arm, folder)
    return [
        Attack(
            name=name,
            image=hostile.described(hostile.zstd(disk), compression="zstd", raw_size=disk.stat().st_size),
            codes=(code,),
        )
        for name, disk, code in (
            ("the kernel is missing", missing, "no_kernel"),
            ("grub.cfg is corrupt", corrupt, "boot_config"),
            ("the architecture is wrong", arm, "wrong_architecture"),
        )
    ]


def lifeless_roots(folder: Path) -> list[Attack]:
    """The files of systems that cannot start."""
    some = {"/etc/os-release": b"ID=none\n", "/sbin/init": b"#!/bin/sh\n", "/bin/sh": b"\x7fELF"}
    return [
        Attack(
            name=name,
            image=hostile.described(
                hostile.tar_of({**some, **more}, folder / f"{code}.tar"), format="tar", kind="root"
            ),
            codes=(code,),
        )
        for name, more, code in (
            ("files without a kernel", {}, "no_kernel"),
            ("files for another architecture", {hostile.KERNEL: hostile.ARM_KERNEL}, "wrong_architecture"),
        )
    ]


async def test_nothing_hostile_is_called_prepared(
    kept: Path, ramdisk: Path, accelerator: Accelerator
) -> None:
    made, target = attacks(kept), used_disk(kept)
    plan = Plan(
        folder=kept,
        ramdisk=ramdisk,
        accelerator=accelerator,
        images=[one.image for one in made],
        disks=(target,),
    )
    said = []
    async with site(plan) as here:
        for attack in made:
            done = await here.prepare(here.endpoint.image(attack.image.id), SERIAL)
            said.append(f"{attack.name}: {done.code}: {done.msg}")
            assert (done.state, done.code) == ("error", one_of(done.code, attack.codes)), said[-1]
            assert len(done.msg.splitlines()) == 1
            assert has_no_start(target.path), attack.name
            ran = await run(here, attack.image)
            assert (ran.state, ran.code, ran.phase) == ("error", "not_prepared", ""), attack.name
    await host_sees_no_system(target.path, kept / "by-bios", accelerator, NOTHING)
    await host_sees_no_system(target.path, kept / "by-uefi", accelerator, NO_OPTION, firmware=Firmware.UEFI)
    print("\n".join(said))


def used_disk(folder: Path) -> VirtualDisk:
    """The target, with an earlier system on it that must not start any more either."""
    earlier = hostile.disk_of(hostile.System(name="earlier", files={hostile.KERNEL: b"kernel"}), folder)
    path = folder / "target.raw"
    earlier.rename(path)
    with path.open("r+b") as stream:
        stream.truncate(DISK)
    return VirtualDisk(path=path, size=DISK, bus=Bus.VIRTIO_SCSI, serial=SERIAL)


def one_of(code: str, allowed: tuple[str, ...]) -> str:
    """``code`` when it is allowed, else all that is: for a comparison that shows both."""
    return code if code in allowed else " or ".join(allowed)


async def run(here: Site, image: ImageFile) -> Task:
    """Try to leave for the image's system; the task at its end."""
    drive = Words().config_drive()
    return await here.task(methods.RUN_IMAGE, {"image_id": image.id, "boot": "auto", "config_drive": drive})
