"""A machine that was deployed is network-booted five times more: each time its disk starts, unchanged.

How the disk is kept comparable: the deployed system itself writes to it, so each boot is stopped when the
kernel that the disk's own boot loader has started speaks its first line. Up to there everything else had its
turn (firmware, iPXE, the boot door's answer, GRUB), and the system has not mounted anything yet. The host
then reads the whole backing file, which nothing else writes: one changed byte changes its digest.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.site import HOME, KERNEL, MIB, SERIAL, Plan, Site, Words, empty_disk, site
from teeth.boot.images import load_image
from teeth.build.guest import build_guest
from teeth.cache import file_digest
from teeth.lab.accel import Accelerator
from teeth.lab.console import Banner, find_banners
from teeth.lab.disk import Bus
from teeth.lab.firmware import Firmware
from teeth.paths import Paths

pytestmark = [pytest.mark.boot, pytest.mark.image, pytest.mark.machines(1024)]

TIMES = 5
DISK = 1024 * MIB
HAND_OVER = "teeth: no boot grant for this machine, starting from its own disk"


async def test_its_disk_does_not_change(
    kept: Path, ramdisk: Path, accelerator: Accelerator, paths: Paths
) -> None:
    build_guest(paths)
    image = load_image(paths.guest)
    target = empty_disk(kept / "target.raw", DISK, Bus.VIRTIO_SCSI)
    plan = Plan(
        folder=kept,
        ramdisk=ramdisk,
        accelerator=accelerator,
        images=[image],
        disks=(target,),
        firmware=Firmware.BIOS,
        network=True,
    )
    words = Words()
    async with site(plan) as here:
        done = await here.prepare(here.endpoint.image(image.id), SERIAL)
        assert (done.state, done.code) == ("complete", ""), done.msg
        landed = await here.run_image(image.id, "reboot", words.config_drive())
        assert landed.host_name == words.host_name
        # Stopped, QEMU has nothing under way to the file.
        await here.machine.qmp.execute("stop")
        before = file_digest(target.path)
        for number in range(TIMES):
            await boot_to_the_kernel(here)
            assert file_digest(target.path) == before, f"changed by network boot {number + 1}"
        assert len(await here.endpoint.nodes()) == 1
        said = "\n".join(line.text for line in here.machine.console.lines)
    # Once after the deployment and five times more; the ramdisk had one turn, the first.
    assert said.count(HAND_OVER) == TIMES + 1
    assert said.count("teeth: this machine has booted the teeth ramdisk") == 1


async def boot_to_the_kernel(here: Site) -> None:
    """Press reset; stop the machine at the first line of whatever kernel starts."""
    since = here.machine.console.position
    await here.machine.reset()
    await here.machine.qmp.execute("cont")
    await here.machine.wait_for(KERNEL, within=HOME, since=since)
    await here.machine.qmp.execute("stop")
    kinds = [kind for kind, line in find_banners(here.machine.console.lines) if line.number >= since]
    assert Banner.IPXE in kinds
    assert kinds[-1] is Banner.LINUX
