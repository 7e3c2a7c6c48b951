"""A disk that was made around the files of a system starts by itself, from BIOS and from UEFI.

The system is a kernel and the smallest initrd there is: what is proven is the boot loader of the ramdisk, the
layout and the configuration, up to the kernel's user mode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import diskimages, rootimages
from fakes.reporting import ToldReporter
from teeth.build.layers import Layer, split, unpack_archive
from teeth.build.manifest import read_manifest
from teeth.lab.accel import find_accelerator
from teeth.lab.disk import Bus, VirtualDisk
from teeth.lab.firmware import Firmware
from teeth.lab.machine import DiskBoot, Machine
from teeth.lab.network import Nic
from teeth.lab.probe_payload import MARKER, init_program, probe_initramfs
from teeth.lab.running import run_machine
from teeth.paths import Paths
from teeth_agent.blockio import open_device
from teeth_agent.image import rootinstall
from teeth_agent.image.params import ImageSpec

pytestmark = [
    pytest.mark.boot,
    pytest.mark.image,
    pytest.mark.skipif(not diskimages.can_loop(), reason="needs root and loop devices"),
]
DEADLINE = 240.0
SIZE = 600 << 20


@pytest.fixture(scope="module")
def loader(paths: Paths, ramdisk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The boot programs that the ramdisk carries."""
    work = tmp_path_factory.mktemp("ramdisk")
    manifest = read_manifest(paths.ramdisk)
    assert manifest is not None
    layers = [Layer(**layer) for layer in manifest["layers"]]
    unpack_archive(split(paths.ramdisk / "initramfs", layers, work)[0], work / "root")
    return work / "root/usr/lib/teeth-boot"


@pytest.fixture(scope="module")
def disk(paths: Paths, loader: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    files = {
        "boot/vmlinuz-1": (paths.ramdisk / "vmlinuz").read_bytes(),
        "boot/initrd.img-1": probe_initramfs(),
        "usr/lib/systemd/systemd": init_program(),
    }
    content = rootimages.archive(rootimages.system_members(files))
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    with path.open("wb") as stream:
        stream.truncate(SIZE)
    image = ImageSpec(
        id="root",
        name="root",
        urls=("http://127.0.0.1/",),
        size=len(content),
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        compression="none",
        raw_size=None,
        raw_digest=None,
        format="tar",
        kind="root",
    )
    with open_device(str(path), write=True) as device:
        rootinstall.install(
            image,
            device,
            rootimages.BytesSource(content),
            ToldReporter(),
            write_filesystem=lambda window: pytest.fail("a tar is no file system image"),
            machine="x86_64",
            command_line="console=ttyS0,115200",
            loader=loader,
        )
    yield path
    path.unlink()


@pytest.mark.parametrize(
    ("firmware", "bus"), [(Firmware.BIOS, Bus.VIRTIO_BLK), (Firmware.UEFI, Bus.NVME)], ids=["bios", "uefi"]
)
async def test_it_starts(paths: Paths, disk: Path, tmp_path: Path, firmware: Firmware, bus: Bus) -> None:
    machine = Machine(
        name="root",
        boot=DiskBoot(),
        cpus=1,
        memory=512,
        firmware=firmware,
        nics=(Nic(mac="52:54:00:7e:e7:32"),),
        disks=(VirtualDisk(path=disk, size=SIZE, bus=bus, serial="SYSTEM", boot=True),),
        restart=False,
    )
    accelerator = find_accelerator(paths.ramdisk / "vmlinuz", paths.cache)
    async with run_machine(machine, accelerator=accelerator, folder=tmp_path / "run") as running:
        line = await running.wait_for(r"Command line: ", within=DEADLINE)
        assert "BOOT_IMAGE=/boot/vmlinuz-1 root=UUID=" in line.text
        assert "ro console=ttyS0,115200" in line.text
        await running.wait_for(MARKER, within=DEADLINE)
