"""Asking drives what they can do, and reading their answers as capabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from teeth_agent.drives.ata import AtaDrive
from teeth_agent.drives.ata_identity import AtaIdentity
from teeth_agent.drives.ata_sanitize import SanitizeStatus
from teeth_agent.drives.nvme import NvmeDrive
from teeth_agent.drives.nvmedata import Action as NvmeAction
from teeth_agent.drives.nvmedata import Controller, SanitizeLog
from teeth_agent.drives.scsi import FORMAT_UNIT, SANITIZE, ScsiDrive
from teeth_agent.drives.scsi import Action as ScsiAction
from teeth_agent.drives.scsidata import Support
from teeth_agent.erase.capabilities import (
    AtaCapabilities,
    AtaSecurity,
    Capabilities,
    NvmeCapabilities,
    PlainCapabilities,
    Sanitizes,
    ScsiCapabilities,
)
from teeth_agent.erase.methods import Ports
from teeth_agent.erase.model import Method, Unit
from teeth_agent.errors import DeviceError

_SCSI = ("scsi", "sas", "iscsi", "fc")
_NVME_METHODS = {
    Method.NVME_SANITIZE_CRYPTO: NvmeAction.CRYPTO,
    Method.NVME_SANITIZE_BLOCK: NvmeAction.BLOCK,
    Method.NVME_SANITIZE_OVERWRITE: NvmeAction.OVERWRITE,
}


def ask(unit: Unit, ports: Ports) -> Capabilities:
    """What the unit says it can do. Raises DeviceError when it does not answer as its kind should."""
    medium = unit.first
    if medium.controller is not None:
        device = f"/dev/{medium.controller}"
        with ports.open_nvme(device) as port:
            drive = NvmeDrive(port, device=device)
            controller = drive.identify()
            return nvme_capabilities(controller, _sanitize_log(drive) if controller.actions else None)
    if medium.speaks_ata:
        with ports.open_scsi(medium.devnode) as scsi:
            ata = AtaDrive(scsi, name=medium.devnode, transport=medium.transport)
            identity = ata.identify()
            status = ata.sanitize_status() if identity.sanitize.supported else None
            return ata_capabilities(identity, status)
    if medium.transport in _SCSI:
        with ports.open_scsi(medium.devnode) as scsi:
            return _ask_scsi(ScsiDrive(scsi, device=medium.devnode))
    return PlainCapabilities(reason=f"over {medium.transport} there is only writing and reading")


def _ask_scsi(drive: ScsiDrive) -> ScsiCapabilities:
    try:
        rotation = drive.characteristics().rotation
    except DeviceError as error:
        if error.code not in ("refused", "bad_answer"):
            raise
        rotation = 0  # a device of an earlier standard does not say
    return scsi_capabilities(
        rotation, lambda action: drive.supports(SANITIZE, action), drive.supports(FORMAT_UNIT)
    )


def _sanitize_log(drive: NvmeDrive) -> SanitizeLog | None:
    try:
        return drive.sanitize_log()
    except DeviceError as error:
        if error.code != "refused":
            raise
        return None


def nvme_capabilities(controller: Controller, log: SanitizeLog | None) -> NvmeCapabilities:
    """``log`` None: the controller has no sanitize log, so that nobody could follow a sanitize."""
    actions = controller.actions if log is not None else frozenset[NvmeAction]()
    seconds: dict[Method, float] = {}
    for method, action in _NVME_METHODS.items():
        said = log.estimate(action) if log is not None and action in actions else None
        if said is not None:
            seconds[method] = float(said)
    return NvmeCapabilities(
        sanitizes=Sanitizes(
            crypto=NvmeAction.CRYPTO in actions,
            block=NvmeAction.BLOCK in actions,
            overwrite=NvmeAction.OVERWRITE in actions,
        ),
        format=controller.can_format,
        format_crypto=controller.can_crypto_format,
        manages_namespaces=controller.manages_namespaces,
        seconds=seconds,
    )


def ata_capabilities(identity: AtaIdentity, status: SanitizeStatus | None) -> AtaCapabilities:
    """``status`` None: the drive has no Sanitize."""
    security, offered = identity.security, identity.sanitize
    said: Mapping[Method, float | None] = {
        Method.ATA_SECURITY_ERASE: security.erase_seconds,
        Method.ATA_SECURITY_ERASE_ENHANCED: security.enhanced_seconds,
    }
    return AtaCapabilities(
        sanitizes=Sanitizes(
            crypto=offered.crypto,
            block=offered.block,
            overwrite=offered.overwrite,
            frozen=status is not None and status.frozen is True,
        ),
        security=AtaSecurity(
            supported=security.supported,
            enhanced=security.enhanced,
            enabled=security.enabled,
            locked=security.locked,
            frozen=security.frozen,
            expired=security.expired,
        ),
        rotational=None if identity.rotation is None else identity.rotation > 0,
        seconds={method: seconds for method, seconds in said.items() if seconds is not None},
    )


def scsi_capabilities(
    rotation: int, sanitizes: Callable[[ScsiAction], Support], formats: Support
) -> ScsiCapabilities:
    """``rotation``: MEDIUM ROTATION RATE of VPD page B1h, 1 for what does not turn, 0 for not said.

    Only what the unit itself lists is offered: one that does not list its commands is overwritten.
    """
    return ScsiCapabilities(
        sanitizes=Sanitizes(
            crypto=bool(sanitizes(ScsiAction.CRYPTO)),
            block=bool(sanitizes(ScsiAction.BLOCK)),
            overwrite=bool(sanitizes(ScsiAction.OVERWRITE)),
        ),
        format=bool(formats),
        rotational=None if rotation == 0 else rotation != 1,
    )
