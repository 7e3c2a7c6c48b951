"""What a drive says it can do, in the words of erasing: typed, and made from the drives' answers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from teeth_agent.erase.model import Method, Unit


class UnitKind(Enum):
    """The rows of the ladder table."""

    NVME = "nvme"
    SATA_SSD = "sata_ssd"
    SATA_HDD = "sata_hdd"
    SCSI_SSD = "scsi_ssd"
    SCSI_HDD = "scsi_hdd"
    EMMC = "emmc"
    PMEM = "pmem"
    USB_BRIDGE = "usb_bridge"
    VIRTIO = "virtio"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sanitizes:
    """Which sanitize operations the drive offers. ``frozen``: it takes none of them until it loses power."""

    crypto: bool = False
    block: bool = False
    overwrite: bool = False
    frozen: bool = False

    @property
    def any(self) -> bool:
        return self.crypto or self.block or self.overwrite


@dataclass(frozen=True, slots=True, kw_only=True)
class AtaSecurity:
    """The ATA security feature set as IDENTIFY DEVICE words 82, 85 and 128 have it (ACS-4 4.18)."""

    supported: bool = False
    enhanced: bool = False
    enabled: bool = False
    locked: bool = False
    frozen: bool = False
    expired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AtaCapabilities:
    """An ATA drive that answers ATA commands. ``rotational`` None: it does not tell.

    ``seconds``: how long each method takes, by the drive's own word.
    """

    sanitizes: Sanitizes = Sanitizes()
    security: AtaSecurity = AtaSecurity()
    rotational: bool | None = None
    seconds: Mapping[Method, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScsiCapabilities:
    """A SCSI or SAS drive. ``format``: FORMAT UNIT. Otherwise as AtaCapabilities."""

    sanitizes: Sanitizes = Sanitizes()
    format: bool = False
    rotational: bool | None = None
    seconds: Mapping[Method, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmeCapabilities:
    """An NVMe controller. ``format_crypto``: Format NVM with cryptographic erase (FNA bit 2)."""

    sanitizes: Sanitizes = Sanitizes()
    format: bool = False
    format_crypto: bool = False
    manages_namespaces: bool = False
    seconds: Mapping[Method, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainCapabilities:
    """Something that can only be written to and read; ``reason`` says why."""

    reason: str


Capabilities = AtaCapabilities | ScsiCapabilities | NvmeCapabilities | PlainCapabilities

_BY_TRANSPORT = {
    "mmc": UnitKind.EMMC,
    "pmem": UnitKind.PMEM,
    "usb": UnitKind.USB_BRIDGE,
    "virtio": UnitKind.VIRTIO,
    "xen": UnitKind.VIRTIO,
}
_SCSI = ("scsi", "sas", "iscsi", "fc")


def kind_of(unit: Unit, capabilities: Capabilities) -> UnitKind:
    """Which row of the ladder table the unit stands in.

    The bridge decides before what is behind it: nothing that passes through USB is a SATA drive to us.
    """
    medium = unit.first
    if medium.transport in _BY_TRANSPORT:
        return _BY_TRANSPORT[medium.transport]
    if medium.controller is not None:
        return UnitKind.NVME
    said = getattr(capabilities, "rotational", None)
    rotational = medium.rotational if said is None else said
    if medium.speaks_ata:
        return UnitKind.SATA_HDD if rotational else UnitKind.SATA_SSD
    if medium.transport in _SCSI:
        return UnitKind.SCSI_HDD if rotational else UnitKind.SCSI_SSD
    return UnitKind.UNKNOWN
