"""Virtual disks: what a guest sees of them, and the QEMU arguments that say so."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from teeth.errors import UsageError
from teeth.lab.blocknodes import IoError, nodes

_WWN = re.compile(r"[0-9a-f]{16}")
# QEMU makes up a random UUID for each start unless told otherwise; the nil UUID counts as none.
_NO_UUID = "00000000-0000-0000-0000-000000000000"


class Bus(Enum):
    """What the disk hangs on."""

    NVME = "nvme"
    VIRTIO_SCSI = "virtio-scsi"
    VIRTIO_BLK = "virtio-blk"
    SATA = "sata"
    USB = "usb"


# Longest serial number each of QEMU's models carries to the guest without cutting it.
_SERIAL_MAX = {Bus.NVME: 20, Bus.VIRTIO_SCSI: 36, Bus.VIRTIO_BLK: 20, Bus.SATA: 20, Bus.USB: 36}
_HAS_WWN = {Bus.NVME, Bus.VIRTIO_SCSI, Bus.SATA}
_HAS_ROTATION = {Bus.VIRTIO_SCSI, Bus.SATA}
# QEMU 7.2's NVMe namespaces and ATA disks refuse a file that must not be written.
_READ_ONLY = {Bus.VIRTIO_SCSI, Bus.VIRTIO_BLK, Bus.USB}
# PCI Express takes a device in or out only below a port of its own; SCSI and USB have a bus for it.
_NEEDS_PORT = {Bus.NVME, Bus.VIRTIO_BLK}
_NAMESPACES_MAX = 256  # NVME_MAX_NAMESPACES of QEMU


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualDisk:
    """One disk, backed by the raw file ``path`` of ``size`` bytes.

    ``wwn`` is 16 lower-case hex digits: the NAA name of a SCSI or SATA disk, the EUI-64 of an NVMe
    namespace. Linux distrusts the EUI-64 of QEMU's NVMe drives (NVME_QUIRK_BOGUS_NID) and makes a name from
    vendor, serial and model instead (``nvme.1b36-...``): know those by serial.
    ``sector_size`` is the logical one; a SATA disk of 4096 presents 512-byte logical sectors on 4096-byte
    physical ones, as real ones do. NVMe disks of one serial are namespaces of one controller, told apart by
    ``nsid``. ``errors`` are met from the start. ``hotplug``: an NVMe or virtio-blk disk can be taken out of
    a machine that runs (SCSI and USB disks always can, SATA disks never). Raises UsageError for what the
    bus cannot show.
    """

    path: Path
    size: int
    bus: Bus
    serial: str
    wwn: str = ""
    sector_size: int = 512
    rotational: bool = False
    boot: bool = False
    read_only: bool = False
    nsid: int = 1
    hotplug: bool = False
    errors: tuple[IoError, ...] = ()

    def __post_init__(self) -> None:
        what = f"disk {self.serial or self.path.name}"
        if not self.serial or len(self.serial) > _SERIAL_MAX[self.bus] or not self.serial.isascii():
            raise UsageError(
                f"{what}: a serial on {self.bus.value} has 1 to {_SERIAL_MAX[self.bus]} ASCII characters"
            )
        if self.wwn and self.bus not in _HAS_WWN:
            raise UsageError(f"{what}: a disk on {self.bus.value} has no WWN")
        if self.wwn and not _WWN.fullmatch(self.wwn):
            raise UsageError(f"{what}: WWN {self.wwn!r} is not 16 lower-case hex digits")
        if self.sector_size not in (512, 4096):
            raise UsageError(f"{what}: sector size {self.sector_size} is neither 512 nor 4096")
        if self.rotational and self.bus not in _HAS_ROTATION:
            raise UsageError(f"{what}: a disk on {self.bus.value} cannot say that it rotates")
        if self.size <= 0 or self.size % self.sector_size:
            raise UsageError(
                f"{what}: size {self.size} is not a whole number of {self.sector_size}-byte sectors"
            )
        if self.read_only and self.bus not in _READ_ONLY:
            raise UsageError(f"{what}: a disk on {self.bus.value} cannot be read-only")
        if (self.nsid != 1 and self.bus is not Bus.NVME) or not 1 <= self.nsid <= _NAMESPACES_MAX:
            raise UsageError(
                f"{what}: namespace {self.nsid}; NVMe disks have 1 to {_NAMESPACES_MAX}, others one"
            )

    @property
    def removable(self) -> bool:
        """Whether it can be unplugged from a running machine."""
        return self.hotplug if self.bus in _NEEDS_PORT else self.bus is not Bus.SATA


def disk_arguments(disks: Sequence[VirtualDisk]) -> list[str]:
    """QEMU arguments for all disks of a machine; their nodes are called disk0, disk1, ...

    A USB disk hangs on the controller ``usb``, which the machine brings.
    """
    words: list[str] = []
    if any(disk.bus is Bus.VIRTIO_SCSI for disk in disks):
        words += ["-device", "virtio-scsi-pci,id=scsi"]
    if sum(disk.bus is Bus.SATA for disk in disks) > _AHCI_PORTS:
        raise UsageError(f"at most {_AHCI_PORTS} SATA disks fit one machine")
    for index, disk in enumerate(disks):
        for node in nodes(index, disk.path, errors=disk.errors, read_only=disk.read_only):
            words += ["-blockdev", json.dumps(node)]
        for device in [*_around(disks, index), *_front(disks, index)]:
            words += ["-device", json.dumps(device)]
    return words


def plugged(disks: Sequence[VirtualDisk], index: int) -> dict[str, object]:
    """The device that goes when disk ``index`` is taken out, as device_add wants it back.

    On NVMe that is the controller: its namespaces stay with the subsystem and are there again with it.
    """
    if disks[index].bus is not Bus.NVME:
        return _front(disks, index)[0]
    return _controller(disks, _first(disks, index))


_AHCI_PORTS = 6  # the q35 chipset's own controller


def _first(disks: Sequence[VirtualDisk], index: int) -> int:
    """The first namespace of the NVMe controller that has disk ``index``."""
    serial = disks[index].serial
    return next(n for n, disk in enumerate(disks) if disk.bus is Bus.NVME and disk.serial == serial)


def _around(disks: Sequence[VirtualDisk], index: int) -> list[dict[str, object]]:
    """What must be there before disk ``index`` itself: a port to plug it into, its NVMe controller."""
    disk = disks[index]
    first = disk.bus is not Bus.NVME or _first(disks, index) == index
    found: list[dict[str, object]] = []
    if first and disk.hotplug and disk.bus in _NEEDS_PORT:
        number = index + 1
        found.append({"driver": "pcie-root-port", "id": f"port{index}", "chassis": number, "slot": number})
    if first and disk.bus is Bus.NVME:
        if disk.hotplug:
            found.append({"driver": "nvme-subsys", "id": f"subsys{index}", "nqn": f"subsys{index}"})
        found.append(_controller(disks, index))
    return found


def _controller(disks: Sequence[VirtualDisk], index: int) -> dict[str, object]:
    disk = disks[index]
    port = {"bus": f"port{index}", "subsys": f"subsys{index}"} if disk.hotplug else {}
    return {"driver": "nvme", "id": f"nvme{index}", "serial": disk.serial, **port}


def _front(disks: Sequence[VirtualDisk], index: int) -> list[dict[str, object]]:
    disk = disks[index]
    front: dict[str, object] = {"id": f"dev{index}", "drive": f"disk{index}"}
    sectors: dict[str, object] = {
        "logical_block_size": disk.sector_size,
        "physical_block_size": disk.sector_size,
    }
    wwn: dict[str, object] = {"wwn": int(disk.wwn, 16)} if disk.wwn else {}
    # SCSI and ATA: 1 means "does not rotate".
    rate: dict[str, object] = {"rotation_rate": 7200 if disk.rotational else 1}
    serial: dict[str, object] = {"serial": disk.serial}
    boot: dict[str, object] = {"bootindex": 100 + index} if disk.boot else {}
    # A failed transfer is the guest's to see; QEMU would stop the machine when the host's disk is full.
    report: dict[str, object] = {"werror": "report", "rerror": "report"}
    match disk.bus:
        case Bus.NVME:
            eui = {"eui64": int(disk.wwn, 16)} if disk.wwn else {}
            where = {"bus": f"nvme{_first(disks, index)}", "nsid": disk.nsid, "uuid": _NO_UUID}
            return [{"driver": "nvme-ns", **front, **where, **eui, **sectors, **boot}]
        case Bus.VIRTIO_SCSI:
            rest = {**serial, **wwn, **rate, **sectors, **boot, **report}
            return [{"driver": "scsi-hd", **front, "bus": "scsi.0", **rest}]
        case Bus.VIRTIO_BLK:
            port: dict[str, object] = {"bus": f"port{index}"} if disk.hotplug else {}
            return [{"driver": "virtio-blk-pci", **front, **port, **serial, **sectors, **boot, **report}]
        case Bus.SATA:
            number = sum(other.bus is Bus.SATA for other in disks[:index])
            physical = {"physical_block_size": disk.sector_size}
            rest = {**serial, **wwn, **rate, **physical, **boot, **report}
            return [{"driver": "ide-hd", **front, "bus": f"ide.{number}", **rest}]
        case Bus.USB:
            rest = {**serial, **sectors, **boot, **report}
            return [{"driver": "usb-storage", **front, "bus": "usb.0", **rest}]
