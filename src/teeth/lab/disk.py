"""Virtual disks: what a guest sees of them, and the QEMU arguments that say so."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from teeth.errors import UsageError

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


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualDisk:
    """One disk, backed by the raw file ``path`` of ``size`` bytes.

    ``wwn`` is 16 lower-case hex digits: the NAA name of a SCSI or SATA disk, the EUI-64 of an NVMe
    namespace. Linux distrusts the EUI-64 of QEMU's NVMe drives (NVME_QUIRK_BOGUS_NID) and makes a name from
    vendor, serial and model instead (``nvme.1b36-...``): know those by serial.
    ``sector_size`` is the logical one; a SATA disk of 4096 presents 512-byte logical sectors on 4096-byte
    physical ones, as real ones do. Raises UsageError for what the bus cannot show.
    """

    path: Path
    size: int
    bus: Bus
    serial: str
    wwn: str = ""
    sector_size: int = 512
    rotational: bool = False
    boot: bool = False

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


def disk_arguments(disks: Sequence[VirtualDisk]) -> list[str]:
    """QEMU arguments for all disks of a machine; their nodes are called disk0, disk1, ..."""
    words: list[str] = []
    buses = {disk.bus for disk in disks}
    if Bus.VIRTIO_SCSI in buses:
        words += ["-device", "virtio-scsi-pci,id=scsi"]
    if Bus.USB in buses:
        words += ["-device", "qemu-xhci,id=usb"]
    if sum(disk.bus is Bus.SATA for disk in disks) > _AHCI_PORTS:
        raise UsageError(f"at most {_AHCI_PORTS} SATA disks fit one machine")
    ports = iter(range(_AHCI_PORTS))
    for index, disk in enumerate(disks):
        words += ["-blockdev", json.dumps(_backend(disk, index))]
        for device in _devices(disk, index, next(ports) if disk.bus is Bus.SATA else 0):
            words += ["-device", json.dumps(device)]
    return words


_AHCI_PORTS = 6  # the q35 chipset's own controller


def _backend(disk: VirtualDisk, index: int) -> dict[str, object]:
    # Discards reach the file as holes, so that an erased disk is small and quickly scanned. Flushes are
    # dropped: no lab disk outlives a crash of the host, and host and QEMU share one page cache.
    cache = {"direct": False, "no-flush": True}
    return {
        "driver": "raw",
        "node-name": f"disk{index}",
        "discard": "unmap",
        "detect-zeroes": "off",
        "cache": cache,
        "file": {"driver": "file", "filename": str(disk.path), "discard": "unmap", "cache": cache},
    }


def _devices(disk: VirtualDisk, index: int, port: int) -> list[dict[str, object]]:
    name = f"dev{index}"
    front: dict[str, object] = {"id": name, "drive": f"disk{index}"}
    sectors: dict[str, object] = {
        "logical_block_size": disk.sector_size,
        "physical_block_size": disk.sector_size,
    }
    wwn: dict[str, object] = {"wwn": int(disk.wwn, 16)} if disk.wwn else {}
    # SCSI and ATA: 1 means "does not rotate".
    rate: dict[str, object] = {"rotation_rate": 7200 if disk.rotational else 1}
    serial: dict[str, object] = {"serial": disk.serial}
    boot: dict[str, object] = {"bootindex": 100 + index} if disk.boot else {}
    match disk.bus:
        case Bus.NVME:
            eui = {"eui64": int(disk.wwn, 16)} if disk.wwn else {}
            return [
                {"driver": "nvme", "id": f"nvme{index}", **serial},
                {
                    "driver": "nvme-ns", **front, "bus": f"nvme{index}", "nsid": 1, "uuid": _NO_UUID,
                    **eui, **sectors, **boot,
                },
            ]  # fmt: skip
        case Bus.VIRTIO_SCSI:
            return [
                {"driver": "scsi-hd", **front, "bus": "scsi.0", **serial, **wwn, **rate, **sectors, **boot}
            ]
        case Bus.VIRTIO_BLK:
            return [{"driver": "virtio-blk-pci", **front, **serial, **sectors, **boot}]
        case Bus.SATA:
            physical = {"physical_block_size": disk.sector_size}
            return [
                {
                    "driver": "ide-hd",
                    **front,
                    "bus": f"ide.{port}",
                    **serial,
                    **wwn,
                    **rate,
                    **physical,
                    **boot,
                }
            ]
        case Bus.USB:
            return [{"driver": "usb-storage", **front, "bus": "usb.0", **serial, **sectors, **boot}]
