"""The guest image starts by itself, from BIOS and from UEFI, and does what only its config drive says."""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from teeth.build.guest import DISK, build_guest
from teeth.lab.accel import find_accelerator
from teeth.lab.console import Banner, find_banners
from teeth.lab.disk import Bus, VirtualDisk
from teeth.lab.firmware import Firmware
from teeth.lab.machine import DiskBoot, Machine
from teeth.lab.network import Nic
from teeth.lab.running import run_machine
from teeth.paths import Paths, find_checkout
from teeth.proc import run

pytestmark = [pytest.mark.boot, pytest.mark.image]

# 25 to 45 s under plain emulation on a quiet machine with two cores.
DEADLINE = 240.0
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """An image on a disk and a config drive on another, with words that nothing else knows."""

    disks: tuple[VirtualDisk, ...]
    host_name: str
    secret: str


@pytest.fixture(scope="module")
def paths() -> Paths:
    paths = find_checkout()
    build_guest(paths)
    return paths


def deploy(paths: Paths, folder: Path, bus: Bus) -> Deployed:
    host_name, secret = f"guest-{secrets.token_hex(4)}", secrets.token_hex(12)
    disk, drive = folder / "disk.raw", folder / "config.raw"
    run(["zstd", "-q", "-d", "--sparse", paths.guest / DISK, "-o", disk])
    config_drive(drive, folder / "drive", host_name, secret)
    return Deployed(
        disks=(
            VirtualDisk(path=disk, size=disk.stat().st_size, bus=bus, serial="SYSTEM", boot=True),
            VirtualDisk(path=drive, size=drive.stat().st_size, bus=Bus.VIRTIO_BLK, serial="DRIVE"),
        ),
        host_name=host_name,
        secret=secret,
    )


def config_drive(path: Path, content: Path, host_name: str, secret: str) -> None:
    """A FAT file system named config-2 in OpenStack's layout."""
    latest = content / "openstack" / "latest"
    latest.mkdir(parents=True)
    meta = {"uuid": "3f1c3e50-7d0a-4f0e-8a51-3f7a1f9d2c11", "hostname": host_name}
    (latest / "meta_data.json").write_text(json.dumps(meta))
    (latest / "user_data").write_text(
        "#cloud-config\n"
        f"write_files: [{{path: /etc/landed, content: {secret}}}]\n"
        "runcmd:\n"
        "  - 'echo \"landed: $(hostname) $(cat /etc/landed) $(findmnt -no SOURCE /)\" >/dev/ttyS0'\n"
        "  - 'systemctl poweroff --no-block'\n"
    )
    path.write_bytes(bytes(4 * MIB))
    run(["mformat", "-i", path, "-v", "config-2", "::"])
    run(["mcopy", "-s", "-i", path, content / "openstack", "::"])


@pytest.mark.parametrize(
    ("firmware", "bus", "root"),
    [
        (Firmware.BIOS, Bus.NVME, "/dev/nvme0n1p3"),
        (Firmware.UEFI, Bus.VIRTIO_SCSI, "/dev/sda3"),
    ],
)
async def test_it_starts_and_follows_its_config_drive(
    paths: Paths, tmp_path: Path, firmware: Firmware, bus: Bus, root: str
) -> None:
    deployed = deploy(paths, tmp_path, bus)
    machine = Machine(
        name="guest",
        boot=DiskBoot(),
        # One: QEMU before 8.1 at times runs a stale translation when a kernel patches its own code while
        # another processor executes it ("Oops: int3").
        cpus=1,
        memory=1024,
        firmware=firmware,
        nics=(Nic(mac="52:54:00:7e:e7:31"),),
        disks=deployed.disks,
        restart=False,
    )
    accelerator = find_accelerator(paths.ramdisk / "vmlinuz", paths.cache)
    async with run_machine(machine, accelerator=accelerator, folder=tmp_path / "run") as running:
        line = await running.wait_for("^landed: ", within=DEADLINE)
        assert line.text.split()[1:] == [deployed.host_name, deployed.secret, root]
        assert [kind for kind, _ in find_banners(running.console.lines)].count(Banner.LINUX) == 1
        # Nothing is left in the way of an orderly end either.
        assert await running.wait_end(within=DEADLINE) == 0
    shutil.rmtree(tmp_path / "drive")
    for disk in deployed.disks:
        disk.path.unlink()
