"""What the host finds on a machine's disk, and what a machine says that is started from it."""

from __future__ import annotations

from pathlib import Path

from teeth.lab.accel import Accelerator
from teeth.lab.disk import Bus, VirtualDisk
from teeth.lab.firmware import Firmware
from teeth.lab.machine import DiskBoot, Machine
from teeth.lab.running import run_machine
from teeth.proc import run

MIB = 1 << 20
NOTHING = "No bootable device"
# A firmware that finds nothing says so in seconds, also on a busy host.
_FIRMWARE = 120.0


def has_no_start(disk: Path) -> bool:
    """Neither boot code nor a partition table of either kind, at neither end of the disk."""
    with disk.open("rb") as stream:
        head = stream.read(MIB)
        stream.seek(-MIB, 2)
        tail = stream.read(MIB)
    return not any(head) and not any(tail)


async def host_sees_no_system(
    disk: Path, folder: Path, accelerator: Accelerator, seen: str, *, firmware: Firmware = Firmware.BIOS
) -> None:
    """A machine is started from a copy of the disk: it says ``seen``, and no kernel ever speaks."""
    copy = folder / "copy.raw"
    run(["mkdir", folder])
    run(["cp", "--sparse=always", disk, copy])
    machine = Machine(
        name="started",
        boot=DiskBoot(),
        memory=256,
        firmware=firmware,
        cpus=1,
        disks=(
            VirtualDisk(path=copy, size=copy.stat().st_size, bus=Bus.VIRTIO_BLK, serial="COPY", boot=True),
        ),
    )
    async with run_machine(machine, accelerator=accelerator, folder=folder) as started:
        await started.console.wait_for(seen, within=_FIRMWARE, prompt=True, give_up=())
        assert not [line for line in started.console.lines if "Linux version" in line.text]
    copy.unlink()
