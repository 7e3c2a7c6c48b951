"""The words of erasing: what there is to erase, by which method, to which grade, with what outcome."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Grade(Enum):
    """NIST SP 800-88's words for how thorough an erase is, weakest first."""

    CLEAR = "clear"
    PURGE = "purge"

    def reaches(self, required: Grade) -> bool:
        order = list(Grade)
        return order.index(self) >= order.index(required)


class Leaves(Enum):
    """What a method promises that can be read afterwards."""

    ZEROS = "zeros"
    CONSTANT = "constant"  # one byte value everywhere: which, is the drive's choice
    CHANGED = "changed"  # zeros, one value or noise, but nothing of what was there


class Method(Enum):
    """How a unit can be erased."""

    NVME_SANITIZE_CRYPTO = "nvme_sanitize_crypto"
    NVME_SANITIZE_BLOCK = "nvme_sanitize_block"
    NVME_SANITIZE_OVERWRITE = "nvme_sanitize_overwrite"
    NVME_FORMAT_CRYPTO = "nvme_format_crypto"
    NVME_FORMAT_USER_DATA = "nvme_format_user_data"
    ATA_SANITIZE_CRYPTO = "ata_sanitize_crypto"
    ATA_SANITIZE_BLOCK = "ata_sanitize_block"
    ATA_SANITIZE_OVERWRITE = "ata_sanitize_overwrite"
    ATA_SECURITY_ERASE_ENHANCED = "ata_security_erase_enhanced"
    ATA_SECURITY_ERASE = "ata_security_erase"
    SCSI_SANITIZE_CRYPTO = "scsi_sanitize_crypto"
    SCSI_SANITIZE_BLOCK = "scsi_sanitize_block"
    SCSI_SANITIZE_OVERWRITE = "scsi_sanitize_overwrite"
    SCSI_FORMAT = "scsi_format"
    OVERWRITE = "overwrite"

    @property
    def grade(self) -> Grade:
        """The conservative reading; docs/erase.md gives the reasons."""
        return Grade.PURGE if self in _PURGES else Grade.CLEAR

    @property
    def leaves(self) -> Leaves:
        if self in (Method.OVERWRITE, *_SANITIZE_OVERWRITES):
            return Leaves.ZEROS
        return Leaves.CHANGED if self in _CHANGES else Leaves.CONSTANT

    @property
    def by_device(self) -> bool:
        """The drive does it alone, and tells how far it is; else this machine writes every block."""
        return self is not Method.OVERWRITE


_SANITIZE_OVERWRITES = (
    Method.NVME_SANITIZE_OVERWRITE,
    Method.ATA_SANITIZE_OVERWRITE,
    Method.SCSI_SANITIZE_OVERWRITE,
)
# An enhanced security erase writes what its maker chose: on drives that encrypt it is a change of the key.
_CHANGES = frozenset(
    {
        Method.NVME_SANITIZE_CRYPTO,
        Method.NVME_FORMAT_CRYPTO,
        Method.ATA_SANITIZE_CRYPTO,
        Method.ATA_SECURITY_ERASE_ENHANCED,
        Method.SCSI_SANITIZE_CRYPTO,
    }
)
_PURGES = frozenset(
    {
        *_SANITIZE_OVERWRITES,
        *_CHANGES,
        Method.NVME_SANITIZE_BLOCK,
        Method.ATA_SANITIZE_BLOCK,
        Method.SCSI_SANITIZE_BLOCK,
    }
)


SANITIZES = frozenset(method for method in Method if "_sanitize_" in method.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """Methods that are run one after the other and proven together; never none."""

    methods: tuple[Method, ...]

    @property
    def grade(self) -> Grade:
        """Of the best of its methods: a further erase takes nothing away from one before it."""
        return max((method.grade for method in self.methods), key=list(Grade).index)

    @property
    def leaves(self) -> Leaves:
        """What the last of its methods leaves is what can be read."""
        return self.methods[-1].leaves

    @property
    def name(self) -> str:
        return "+".join(method.value for method in self.methods)


class Outcome(Enum):
    """How a unit ends. There is no word for "unknown": what is not proven has failed."""

    PURGED = "purged"
    CLEARED = "cleared"
    FAILED = "failed"
    FENCED = "fenced"
    LOCKED = "locked"
    EXCLUDED = "excluded"
    INTERRUPTED = "interrupted"

    @property
    def grade(self) -> Grade | None:
        return {Outcome.PURGED: Grade.PURGE, Outcome.CLEARED: Grade.CLEAR}.get(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """One block device as erasing sees it. ``size`` and ``logical_block`` in bytes.

    ``in_use`` says why nothing may be written (one phrase each), ``out_of_scope`` and ``virtual_media`` why
    this is not a drive of the machine; ``diskseq`` is the kernel's counter that no re-plugged device keeps.
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
    rotational: bool
    removable: bool
    read_only: bool
    diskseq: int | None
    controller: str | None
    namespace: int | None
    in_use: tuple[str, ...]
    partitions: tuple[str, ...]
    out_of_scope: str | None
    virtual_media: str | None

    @property
    def identity(self) -> str:
        """As inventory's Disk has it: what tasks tell each other about a disk goes by this name."""
        return self.wwn or self.serial or f"{self.name}/{self.diskseq}"

    @property
    def speaks_ata(self) -> bool:
        """An ATA drive, on a port of its own or behind a SAS adapter that translates (SAT: vendor "ATA")."""
        return self.transport == "sata" or (self.transport in ("sas", "scsi") and self.vendor == "ATA")

    def same_as(self, other: Medium) -> bool:
        """The same device, as large as before and never unplugged in between (E1)."""
        return self.fingerprint == other.fingerprint

    @property
    def fingerprint(self) -> tuple[object, ...]:
        return (self.serial, self.wwn, self.model, self.firmware, self.size, self.namespace, self.diskseq)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """One medium (a disk, an NVMe namespace) and every path that leads to it; the first path is used."""

    paths: tuple[Medium, ...]

    @property
    def medium(self) -> Medium:
        return self.paths[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One thing that a person can pull out of the machine: a disk, or an NVMe drive with its namespaces."""

    key: str
    extents: tuple[Extent, ...]

    @property
    def first(self) -> Medium:
        return self.extents[0].medium

    @property
    def media(self) -> tuple[Medium, ...]:
        return tuple(path for extent in self.extents for path in extent.paths)

    @property
    def size(self) -> int:
        return sum(extent.medium.size for extent in self.extents)

    def is_called(self, name: str) -> bool:
        """Whether ``name`` is this unit's serial number or WWN (or that of one of its namespaces)."""
        known = {plain_name(known) for medium in self.media for known in (medium.serial, medium.wwn) if known}
        return plain_name(name) in known


def plain_name(name: str) -> str:
    """A serial number or WWN as it is compared: a drive that is to be spared is spared in either case of its
    letters, with or without 0x."""
    return name.strip().lower().removeprefix("0x")


def group_units(media: tuple[Medium, ...]) -> tuple[Unit, ...]:
    """Bring block devices together that are one unit, in the order of their names.

    NVMe: by serial number and model, one extent for each namespace. Others: by WWN, and where there is
    none by maker, model, serial number and size; several devices are then several paths to one medium. That
    is a claim of theirs: execution tests it by reading one path's canaries through the others.
    """
    grouped: dict[tuple[object, ...], dict[object, list[Medium]]] = {}
    for medium in media:
        unit, extent = _keys(medium)
        grouped.setdefault(unit, {}).setdefault(extent, []).append(medium)
    units = []
    for extents in grouped.values():
        paths = tuple(Extent(paths=tuple(found)) for found in extents.values())
        first = paths[0].medium
        units.append(Unit(key=first.serial or first.wwn or first.name, extents=paths))
    return tuple(units)


def _keys(medium: Medium) -> tuple[tuple[object, ...], object]:
    if medium.controller is not None and medium.serial:
        return ("nvme", medium.serial, medium.model), medium.namespace or medium.name
    if medium.wwn:
        return ("wwn", medium.wwn, medium.size), 0
    if medium.serial:
        return ("serial", medium.transport, medium.vendor, medium.model, medium.serial, medium.size), 0
    return ("name", medium.name), 0
