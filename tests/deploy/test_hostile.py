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


DISK = 256 * MIB
# OVMF, of a disk on which it finds no loader of its own architecture.
NO_OPTION = "BdsDxe: (failed to load|No bootable option)"
BOMB = 2048 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """An image, and the code with which preparing it must end."""

    name: str
    image: ImageFile
    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unbootable:
    """An image that is what its digest says and cannot be started. ``reason``: a part of what the agent says;
    ``seen``: what a machine says that is started from it all the same."""

    name: str
    image: ImageFile
    reason: str
    seen: str
    firmware: Firmware


def attacks(folder: Path) -> list[Attack]:
    """What must not get through prepare_image."""
    good = hostile.disk_of(hostile.System(name="good", files={hostile.KERNEL: b"kernel"}), folder)
    flipped = folder / "flipped.disk"
    content = bytearray(good.read_bytes())
    true = hostile.described(good).manifest["digest"]
    content[-1] ^= 1
    flipped.write_bytes(content)
    truncated = hostile.cut(hostile.qcow2(good, folder, "truncated"), 0.5)
    size = good.stat().st_size
    bomb = hostile.bomb(folder, BOMB)
    return [
        Attack(
            name="the digest is wrong at the last byte",
            image=hostile.described(flipped, digest=true),
            codes=("digest_mismatch",),
        ),
        Attack(
            name="a bomb that says it is small",
            image=hostile.described(bomb, compression="zstd", raw_size=64 * MIB),
            codes=("image_size", "disk_too_small"),
        ),
        Attack(
            name="a bomb that says nothing",
            image=hostile.described(bomb, compression="zstd"),
            codes=("disk_too_small", "image_size"),
        ),
        Attack(
            name="half a qcow2",
            image=hostile.described(truncated, format="qcow2", raw_size=size),
            codes=("image_truncated", "image_corrupt", "image_format"),
        ),
        Attack(
            name="a qcow2 with a backing file",
            image=hostile.described(hostile.backed(good, folder), format="qcow2", raw_size=size),
            codes=("image_format",),
        ),
    ]


def unbootables(folder: Path) -> list[Unbootable]:
    """What is written as it is, and then refused by run_image."""
    missing = hostile.disk_of(hostile.System(name="no-kernel", files={hostile.INITRD: b"initrd"}), folder)
    corrupt = hostile.disk_of(
        hostile.System(
            name="corrupt-grub",
            files={hostile.KERNEL: b"kernel"},
            grub_cfg="menuentry 'x {\n\udcff\udcfe linux /boot/vm\nset default=\"${\n" * 40,
        ),
        folder,
    )
    arm = hostile.disk_of(
        hostile.System(name="arm", files={hostile.KERNEL: hostile.ARM_KERNEL, hostile.INITRD: b"initrd"}),
        folder,
    )
    hostile.for_arm(arm, folder)
    return [
        Unbootable(name=name, image=_packed(disk), reason=reason, seen=seen, firmware=firmware)
        for name, disk, reason, seen, firmware in (
            ("no-kernel", missing, "which is not there", r"vmlinuz-1' not found", Firmware.BIOS),
            (
                "corrupt-grub-cfg",
                corrupt,
                "no grub.cfg with a Linux entry",
                "^grub>|GNU GRUB .*version",
                Firmware.BIOS,
            ),
            ("wrong-architecture", arm, "not a bzImage for x86", NO_OPTION, Firmware.UEFI),
        )
    ]


def _packed(disk: Path) -> ImageFile:
    return hostile.described(hostile.zstd(disk), compression="zstd", raw_size=disk.stat().st_size)


async def test_nothing_hostile_is_called_prepared(
    kept: Path, ramdisk: Path, accelerator: Accelerator
) -> None:
    bad, dead, target = attacks(kept), unbootables(kept), used_disk(kept)
    plan = Plan(
        folder=kept,
        ramdisk=ramdisk,
        accelerator=accelerator,
        images=[*(one.image for one in bad), *(one.image for one in dead)],
        disks=(target,),
    )
    said = []
    async with site(plan) as here:
        for attack in bad:
            done = await here.prepare(here.endpoint.image(attack.image.id), SERIAL)
            said.append(f"{attack.name}: {done.code}: {done.msg}")
            assert (done.state, done.code) == ("error", one_of(done.code, attack.codes)), said[-1]
            assert has_no_start(target.path), attack.name
            ran = await run(here, attack.image)
            assert (ran.state, ran.code) == ("error", "not_prepared"), attack.name
        await host_sees_no_system(target.path, kept / "nothing", accelerator, NOTHING)
        for one in dead:
            done = await here.prepare(here.endpoint.image(one.image.id), SERIAL)
            assert (done.state, done.code) == ("complete", ""), f"{one.name}: {done.msg}"
            ran = await run(here, one.image)
            said.append(f"{one.name}: {ran.code}: {ran.msg}")
            assert (ran.state, ran.code, ran.phase) == ("error", "kexec_not_viable", ""), said[-1]
            assert one.reason in ran.msg
            await host_sees_no_system(
                target.path, kept / one.name, accelerator, one.seen, firmware=one.firmware
            )
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
    return await here.task(methods.RUN_IMAGE, {"image_id": image.id, "boot": "kexec", "config_drive": drive})
