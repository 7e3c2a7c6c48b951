"""What the demo's machine is, and the faults it can be given on purpose."""

from __future__ import annotations

import enum
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from teeth.lab.disk import Bus, VirtualDisk
from teeth.lab.firmware import Firmware
from teeth.lab.machine import DirectBoot, Machine, NetworkBoot
from teeth.lab.network import Network, Nic

MIB = 1 << 20
# Large enough for the guest image and a config drive; every MiB is written and read under emulation.
_TARGET_SIZE = 1280 * MIB
_OTHER_SIZE = 256 * MIB
_SMALL_SIZE = 64 * MIB
# What the landed system is comfortable with; the ramdisk itself needs far less (make bench).
_MEMORY = 1024


class Fault(enum.Enum):
    """One thing that is made to go wrong for real, to see what a user is told."""

    ENDPOINT_DOWN = "endpoint-down"
    WRONG_CA = "wrong-ca"
    NO_DHCP = "no-dhcp"
    NO_LINK = "no-link"
    NO_DISK = "no-disk"
    SMALL_DISK = "small-disk"
    BAD_DIGEST = "bad-digest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One run: a machine with old data on every disk, and what only its new system can know.

    ``host_name`` and ``secret`` are drawn anew for each run and reach the machine by the config drive alone.
    """

    folder: Path
    fault: Fault | None = None
    firmware: Firmware = Firmware.BIOS
    mac: str = "52:54:00:7e:e7:01"
    uuid: UUID = field(default_factory=uuid4)
    host_name: str = field(default_factory=lambda: f"landed-{secrets.token_hex(4)}")
    secret: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def disks(self) -> tuple[VirtualDisk, ...]:
        """One disk of each kind that servers have; the first is the one the system is written to."""
        if self.fault is Fault.NO_DISK:
            return ()
        size = _SMALL_SIZE if self.fault is Fault.SMALL_DISK else _TARGET_SIZE
        target = VirtualDisk(
            path=self.folder / "disks/nvme.raw",
            size=size,
            bus=Bus.NVME,
            serial="TEETH-NVME-1",
            wwn="7e7e000000000001",
        )
        if self.fault is not None:
            return (target,)
        scsi = VirtualDisk(
            path=self.folder / "disks/scsi.raw",
            size=_OTHER_SIZE,
            bus=Bus.VIRTIO_SCSI,
            serial="TEETH-SCSI-2",
            wwn="5000c50000000002",
            rotational=True,
        )
        virtio = VirtualDisk(
            path=self.folder / "disks/virtio.raw",
            size=_OTHER_SIZE,
            bus=Bus.VIRTIO_BLK,
            serial="TEETH-VIRTIO-3",
        )
        return target, scsi, virtio

    def machine(self, boot: NetworkBoot | DirectBoot, cpus: int) -> Machine:
        """The machine itself. Without DHCP or a link it cannot be network-booted: it starts directly."""
        silent = self.fault is Fault.NO_DHCP
        nic = Nic(
            mac=self.mac,
            network=Network.SILENT if silent else Network.USER,
            link=self.fault is not Fault.NO_LINK,
        )
        return Machine(
            name="demo",
            boot=boot,
            memory=_MEMORY,
            cpus=cpus,
            firmware=self.firmware,
            uuid=self.uuid,
            serial="TEETH-DEMO",
            nics=(nic,),
            disks=self.disks,
        )
