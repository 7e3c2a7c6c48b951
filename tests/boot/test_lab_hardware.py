"""What a guest sees of the lab's hardware, asked of the kernel through a shell on the console."""

from __future__ import annotations

import itertools
from pathlib import Path
from uuid import UUID

import pytest

from boot.conftest import Boot
from teeth.lab.disk import Bus, VirtualDisk
from teeth.lab.machine import DirectBoot, Machine
from teeth.lab.network import Network, Nic
from teeth.lab.pattern import create_dirty_disk, scan_disk
from teeth.lab.running import RunningMachine

pytestmark = [pytest.mark.boot, pytest.mark.image]

BOOT = 120.0
ANSWER = 30.0
SIZE = 64 << 20
UUID_ = UUID("11111111-2222-3333-4444-555555555555")


class Shell:
    """The ramdisk's own shell as the first program: commands in, their output out."""

    def __init__(self, machine: RunningMachine) -> None:
        self._machine = machine
        self._numbers = itertools.count()

    async def run(self, command: str) -> list[str]:
        """The lines ``command`` printed. The kernel's messages are kept off the console by ``quiet``."""
        number = next(self._numbers)
        console = self._machine.console
        since = console.position
        # The quotes keep the typed line, which the terminal echoes, from looking like the answer. The
        # echo between ends a last line that the command left open.
        console.send(f"echo 'b'egin-{number}; {command}; echo; echo 'e'nd-{number}\n")
        begin = await self._machine.wait_for(f"^begin-{number}$", within=ANSWER, since=since)
        end = await self._machine.wait_for(f"^end-{number}$", within=ANSWER, since=since)
        return [line.text for line in console.lines if begin.number < line.number < end.number]


async def start_shell(boot: Boot, ramdisk: Path, **parts: object) -> tuple[RunningMachine, Shell]:
    direct = DirectBoot(
        kernel=ramdisk / "vmlinuz",
        initrd=ramdisk / "initramfs",
        cmdline="console=ttyS0 panic=-1 quiet rdinit=/bin/sh rootfstype=ramfs",
    )
    spec = {"name": "shell", "boot": direct, "memory": 1024, "uuid": UUID_, "serial": "SRV-7"} | parts
    machine = await boot(Machine(**spec))  # type: ignore[arg-type]
    await machine.wait_for(r"[#$] $", within=BOOT, prompt=True)
    shell = Shell(machine)
    await shell.run("mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev")
    await shell.run(
        "for m in virtio_pci virtio_net virtio_blk virtio_scsi sd_mod nvme ahci; do modprobe $m; done"
    )
    return machine, shell


async def test_disks_show_their_identity_and_discards_reach_the_host(
    boot: Boot, ramdisk: Path, tmp_path: Path
) -> None:
    wwn = "5000c50015ea71ac"
    kinds = (
        (Bus.NVME, {"sector_size": 4096}),
        (Bus.VIRTIO_SCSI, {"wwn": wwn, "rotational": True}),
        (Bus.VIRTIO_BLK, {}),
        (Bus.SATA, {"wwn": "5000c50015ea71ad"}),
    )
    disks = tuple(
        VirtualDisk(path=tmp_path / f"{bus.value}.raw", size=SIZE, bus=bus, serial=f"LAB{n}", **extra)  # type: ignore[arg-type]
        for n, (bus, extra) in enumerate(kinds)
    )
    for disk in disks:
        create_dirty_disk(disk.path, disk.size, disk.serial)
    _, shell = await start_shell(boot, ramdisk, disks=disks)

    for name in ("nvme0n1", "sda", "vda", "sdb"):
        await shell.run(f"until [ -b /dev/{name} ]; do sleep 0.1; done")
    assert await shell.run("cat /sys/block/nvme0n1/device/serial") == ["LAB0"]
    assert await shell.run("cat /sys/block/nvme0n1/queue/logical_block_size") == ["4096"]
    scsi = {
        (await shell.run(f"cat /sys/block/{name}/device/wwid"))[0]: await shell.run(
            f"cat /sys/block/{name}/queue/rotational"
        )
        for name in ("sda", "sdb")
    }
    assert scsi == {f"naa.{wwn}": ["1"], "naa.5000c50015ea71ad": ["0"]}
    assert await shell.run("cat /sys/block/vda/serial") == ["LAB2"]

    await shell.run("blkdiscard /dev/nvme0n1; blkdiscard /dev/vda")
    left = [scan_disk(disk.path).surviving for disk in disks]
    assert left == [0, SIZE, 0, SIZE]


async def test_the_machine_says_who_it_is(boot: Boot, ramdisk: Path) -> None:
    _, shell = await start_shell(boot, ramdisk)
    assert await shell.run("cat /sys/class/dmi/id/product_serial") == ["SRV-7"]
    assert await shell.run("cat /sys/class/dmi/id/product_uuid") == [str(UUID_)]
    assert await shell.run("cat /sys/class/dmi/id/sys_vendor") == ["Teeth"]


async def test_a_cable_can_be_out_and_be_plugged_in(boot: Boot, ramdisk: Path) -> None:
    nics = (
        Nic(mac="52:54:00:00:00:01", link=False),
        Nic(mac="52:54:00:00:00:02", network=Network.SILENT),
    )
    machine, shell = await start_shell(boot, ramdisk, nics=nics)
    await shell.run("for i in eth0 eth1; do ip link set $i up; done")
    assert await shell.run("cat /sys/class/net/eth0/address /sys/class/net/eth0/carrier") == [
        nics[0].mac,
        "0",
    ]
    assert await shell.run("cat /sys/class/net/eth1/address /sys/class/net/eth1/carrier") == [
        nics[1].mac,
        "1",
    ]
    await machine.set_link(0, up=True)
    await shell.run("until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.1; done")
    await machine.set_link(1, up=False)
    await shell.run("until [ $(cat /sys/class/net/eth1/carrier) = 0 ]; do sleep 0.1; done")
