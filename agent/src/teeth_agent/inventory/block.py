"""The machine's disks as typed facts, from the udev database and /sys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from teeth_agent import sysfs, udev
from teeth_agent.inventory.mounts import Usage, read_usage
from teeth_agent.tools import udevadm
from teeth_agent.udev import UdevDevice

_QUIET = 1.0  # seconds; scans of one bus report their disks faster than that one after another
_SETTLE = 15.0
_SECTOR = 512  # /sys/class/block/*/size counts these, whatever the device's own block size
_HCTL = re.compile(r"/(\d+:\d+:\d+:\d+)(?:/|$)")
_WWID = re.compile(r"^(?:naa|eui|uuid|nvme)\.", re.IGNORECASE)

# Not drives: memory, files, or media that somebody else puts in. Listed, never erased.
_OUT_OF_SCOPE = {
    "loop": "a file, not a drive",
    "ram": "memory, not a drive",
    "zram": "compressed memory, not a drive",
    "nbd": "a network block device",
    "rbd": "a network block device",
    "sr": "an optical drive",
    "fd": "a floppy drive",
    "md": "assembled from other disks",
    "dm-": "assembled from other disks",
    "bcache": "assembled from other disks",
    "drbd": "assembled from other disks",
    "zd": "assembled from other disks",
    "mtdblock": "the board's own flash",
}
# Remote media of management controllers: what their emulated USB drives call themselves, vendor and model as
# USB and INQUIRY give them. Never a label: that is content, and content belongs to whoever had the machine.
_VIRTUAL_MEDIA = re.compile(
    r"\b(?:virtual (?:cdrom|floppy|media|disk|hdisk|hd|usb)|idrac|lcdrive|oemdrv|iLO|remote media|megarac|"
    r"ami virtual|imm virtual|xcc virtual|supermicro virtual|insyde virtual|cisco virtual)\b",
    re.IGNORECASE,
)
# Aspeed's management controllers and American Megatrends' virtual hub.
_VIRTUAL_MEDIA_USB = frozenset({("046b", "ff20"), ("046b", "ff31"), ("046b", "ff40"), ("0624", "0249")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition as the kernel has it now; sizes in bytes."""

    name: str
    size: int
    holders: tuple[str, ...]
    mounts: tuple[str, ...]
    swap: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One whole block device.

    ``transport`` is one of nvme, nvme-tcp / nvme-rdma / nvme-fc (shared ones), scsi, sas, sata, usb, virtio,
    mmc, sd, pmem, iscsi, fc, xen, unknown. Sizes are bytes. ``wwn`` is "0x..." for NAA names, otherwise with
    its kind in front ("eui.", "uuid.", "nvme."). ``controller`` and ``namespace`` are NVMe's. ``diskseq`` is
    the kernel's counter that a re-plugged device never keeps. ``out_of_scope`` and ``virtual_media`` give the
    reason why this is not a drive of the machine.
    """

    name: str
    devnode: str
    sysfs_path: str
    serial: str | None
    wwn: str | None
    vendor: str | None
    model: str | None
    firmware: str | None
    transport: str
    size: int
    logical_block: int
    physical_block: int
    rotational: bool
    removable: bool
    read_only: bool
    by_path: str | None
    hctl: str | None
    controller: str | None
    namespace: int | None
    diskseq: int | None
    holders: tuple[str, ...]
    mounts: tuple[str, ...]
    swap: bool
    partitions: tuple[Partition, ...]
    out_of_scope: str | None
    virtual_media: str | None

    @property
    def identity(self) -> str:
        """What this medium is called for the whole boot: its WWN, else its serial number, else its place."""
        return self.wwn or self.serial or f"{self.name}/{self.diskseq}"

    @property
    def in_use(self) -> tuple[str, ...]:
        """Why nothing may be written here, one phrase for each mount, swap area and holder; () if free."""
        reasons: list[str] = []
        parts: tuple[Disk | Partition, ...] = (self, *self.partitions)
        for part in parts:
            reasons += [f"{part.name} is mounted at {mount}" for mount in part.mounts]
            reasons += [f"{part.name} is held by {holder}" for holder in part.holders]
            reasons += [f"{part.name} is used as swap"] if part.swap else []
        return tuple(reasons)

    def to_json(self) -> dict[str, Any]:
        """The disk as it stands in the wire's inventory."""
        return asdict(self)


def settled_disks(root: Path = Path("/")) -> list[Disk]:
    """list_disks, once the buses have been scanned; waits at the most 15 s for that."""
    udevadm.settle(_SETTLE)
    udev.wait_quiet(_QUIET, _SETTLE)
    return list_disks(root)


def list_disks(root: Path = Path("/"), records: Sequence[UdevDevice] | None = None) -> list[Disk]:
    """Every whole block device of the machine, those out of scope too, by name.

    ``root`` is where /sys and /proc are found, ``records`` what udev says (asked for if None). Devices that
    the kernel hides (the single paths of NVMe multipath) are left out: their head stands for them.
    """
    usage = read_usage(root)
    found = udev.disks() if records is None else records
    hidden = [record for record in found if sysfs.read_int(root, f"{_block(record.name)}/hidden") == 1]
    return [_read_disk(root, record, usage) for record in found if record not in hidden]


def _block(name: str) -> str:
    return f"/sys/class/block/{name}"


def _read_disk(root: Path, record: UdevDevice, usage: Usage) -> Disk:
    path = _block(record.name)
    transport = _transport(root, record)
    vendor = _first(record.properties.get("ID_VENDOR"), sysfs.read_text(root, f"{path}/device/vendor"))
    if vendor and vendor.startswith("0x"):
        vendor = None  # virtio: a PCI number, the same for all, not a maker's name
    model = _first(sysfs.read_text(root, f"{path}/device/model"), record.properties.get("ID_MODEL"))
    holders, mounts, swap = _use(root, record.name, usage)
    size = (sysfs.read_int(root, f"{path}/size") or 0) * _SECTOR
    removable = sysfs.read_int(root, f"{path}/removable") == 1
    return Disk(
        name=record.name,
        devnode=record.devnode or f"/dev/{record.name}",
        sysfs_path=record.sysfs_path,
        serial=_serial(root, record, transport),
        wwn=_wwn(root, record),
        vendor=vendor,
        model=model,
        firmware=_firmware(root, record),
        transport=transport,
        size=size,
        logical_block=sysfs.read_int(root, f"{path}/queue/logical_block_size") or _SECTOR,
        physical_block=sysfs.read_int(root, f"{path}/queue/physical_block_size") or _SECTOR,
        rotational=sysfs.read_int(root, f"{path}/queue/rotational") == 1,
        removable=removable,
        read_only=sysfs.read_int(root, f"{path}/ro") == 1,
        by_path=record.properties.get("ID_PATH"),
        hctl=_hctl(record),
        controller=_controller(root, record.name),
        namespace=sysfs.read_int(root, f"{path}/nsid"),
        diskseq=sysfs.read_int(root, f"{path}/diskseq"),
        holders=holders,
        mounts=mounts,
        swap=swap,
        partitions=_partitions(root, record.name, usage),
        out_of_scope=_out_of_scope(record.name) or ("no medium in it" if removable and size == 0 else None),
        virtual_media=_virtual_media(record, vendor, model) if transport == "usb" else None,
    )


def _partitions(root: Path, disk: str, usage: Usage) -> tuple[Partition, ...]:
    partitions = []
    for name in sysfs.names(root, _block(disk)):
        if sysfs.read_int(root, f"{_block(disk)}/{name}/partition") is None:
            continue
        holders, mounts, swap = _use(root, name, usage, folder=f"{_block(disk)}/{name}")
        size = (sysfs.read_int(root, f"{_block(disk)}/{name}/size") or 0) * _SECTOR
        partitions.append(Partition(name=name, size=size, holders=holders, mounts=mounts, swap=swap))
    return tuple(partitions)


def _use(
    root: Path, name: str, usage: Usage, folder: str | None = None
) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    folder = folder or _block(name)
    number = sysfs.read_text(root, f"{folder}/dev", "") or ""
    return tuple(sysfs.names(root, f"{folder}/holders")), usage.mounts_of(name, number), name in usage.swaps


def _serial(root: Path, record: UdevDevice, transport: str) -> str | None:
    path, properties = _block(record.name), record.properties
    # For SCSI, udev's short serial is the WWN where there is one; the number on the label is page 0x80.
    scsi = properties.get("ID_SCSI_SERIAL") or _vpd_serial(root, path)
    # The rule for virtio has no short form. Where no rule ran, the kernel's own attribute says the same.
    return _first(
        scsi if transport in ("scsi", "sas", "iscsi", "fc") else None,
        properties.get("ID_SERIAL_SHORT"),
        properties.get("ID_SERIAL") if transport == "virtio" else None,
        sysfs.read_text(root, f"{path}/serial"),
        sysfs.read_text(root, f"{path}/device/serial"),
        scsi,
    )


def _vpd_serial(root: Path, path: str) -> str | None:
    page = sysfs.read_text(root, f"{path}/device/vpd_pg80")
    # SPC-4 7.8.16: four bytes of header (no white space at the front, so none is stripped), then ASCII.
    return page[4:].strip(" \0") if page and len(page) > 4 else None


def _wwn(root: Path, record: UdevDevice) -> str | None:
    properties, path = record.properties, _block(record.name)
    named = _first(
        properties.get("ID_WWN_WITH_EXTENSION"),
        properties.get("ID_WWN"),
        sysfs.read_text(root, f"{path}/wwid"),
        sysfs.read_text(root, f"{path}/device/wwid"),
    )
    if named is None:
        return None
    lower = named.lower()
    if lower.startswith("naa."):
        return f"0x{lower.removeprefix('naa.')}"
    # A "t10." name is made of vendor, model and serial number: no name of its own, so not unique by rule.
    return lower if _WWID.match(lower) or lower.startswith("0x") else None


def _firmware(root: Path, record: UdevDevice) -> str | None:
    path = _block(record.name)
    return _first(
        sysfs.read_text(root, f"{path}/device/firmware_rev"),
        sysfs.read_text(root, f"{path}/device/rev"),
        record.properties.get("ID_REVISION"),
    )


def _transport(root: Path, record: UdevDevice) -> str:
    name, path = record.name, record.sysfs_path
    if name.startswith("nvme"):
        controller = _controller(root, name)
        how = sysfs.read_text(root, f"/sys/class/nvme/{controller}/transport") if controller else None
        return "nvme" if how in (None, "pcie") else f"nvme-{how}"
    if name.startswith("mmcblk"):
        kind = sysfs.read_text(root, f"{_block(name)}/device/type")
        return "sd" if kind == "SD" else "mmc"
    for prefix, transport in (("vd", "virtio"), ("pmem", "pmem"), ("xvd", "xen")):
        if name.startswith(prefix):
            return transport
    # Where the path passes through says how the disk hangs there; the nearest to the disk counts.
    for pattern, transport in (
        (r"/usb\d+/", "usb"),
        (r"/session\d+/", "iscsi"),
        (r"/rport-\d+", "fc"),
        (r"/end_device-\d+", "sas"),
        (r"/ata\d+/", "sata"),
        (r"/host\d+/target", "scsi"),
    ):
        if re.search(pattern, path):
            return transport
    return "unknown"


def _controller(root: Path, name: str) -> str | None:
    """The NVMe controller's name: the parent itself, or the first one below a multipath subsystem."""
    if not name.startswith("nvme"):
        return None
    device = (root / _block(name).lstrip("/") / "device").resolve().name
    if re.fullmatch(r"nvme\d+", device):
        return device
    below = [
        entry for entry in sysfs.names(root, f"{_block(name)}/device") if re.fullmatch(r"nvme\d+", entry)
    ]
    return below[0] if below else None


def _hctl(record: UdevDevice) -> str | None:
    found = _HCTL.findall(record.sysfs_path)
    return found[-1] if found else None


def _out_of_scope(name: str) -> str | None:
    kind = re.match(r"[a-z]+-?", name)
    return _OUT_OF_SCOPE.get(kind.group()) if kind else None


def _virtual_media(record: UdevDevice, vendor: str | None, model: str | None) -> str | None:
    ids = (record.properties.get("ID_VENDOR_ID", ""), record.properties.get("ID_MODEL_ID", ""))
    names = f"{vendor or ''} {model or ''}".replace("_", " ")
    if ids in _VIRTUAL_MEDIA_USB or _VIRTUAL_MEDIA.search(names):
        return f"virtual media of the management controller ({names.strip()})"
    return None


def _first(*candidates: str | None) -> str | None:
    for candidate in candidates:
        if candidate and candidate.strip():
            return candidate.strip()
    return None
