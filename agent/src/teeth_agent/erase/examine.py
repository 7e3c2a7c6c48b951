"""What a drive says of itself before and after: who it is, how large, what it hides, what it has retired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from teeth_agent.drives.ata import AtaDrive
from teeth_agent.drives.ata_areas import look_areas
from teeth_agent.drives.nvme import NvmeDrive
from teeth_agent.drives.nvmedata import Controller
from teeth_agent.drives.scsi import ScsiDrive
from teeth_agent.erase.hidden import NOT_APPLICABLE, Hidden, State, judge_ata, judge_nvme
from teeth_agent.erase.methods import Ports
from teeth_agent.erase.model import Unit
from teeth_agent.errors import AgentError, DeviceError

_SCSI = ("scsi", "sas", "iscsi", "fc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """``identity``: JSON values that no erase may change. ``remapped``: blocks that the drive has retired,
    None where it does not tell. ``details``: further JSON values for the record."""

    identity: Mapping[str, Any]
    hidden: Hidden
    remapped: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def changes(self, after: Examination) -> list[str]:
        """What differs from ``after`` in what must not, a phrase each."""
        names = sorted({*self.identity, *after.identity})
        return [
            f"the drive's {name} was {self.identity.get(name)} and is {after.identity.get(name)}"
            for name in names
            if self.identity.get(name) != after.identity.get(name)
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.identity,
            "hidden_areas": self.hidden.to_json(),
            "remapped": self.remapped,
            **self.details,
        }


def examine(unit: Unit, ports: Ports) -> Examination:
    """Ask the drive itself. Never raises: what it does not answer is unknown, and unknown is no proof."""
    try:
        return _examine(unit, ports)
    except AgentError as error:
        return Examination(identity={}, hidden=Hidden(state=State.UNKNOWN, reason=str(error)))


def _examine(unit: Unit, ports: Ports) -> Examination:
    medium = unit.first
    if medium.controller is not None:
        device = f"/dev/{medium.controller}"
        with ports.open_nvme(device) as port:
            return _nvme(unit, NvmeDrive(port, device=device))
    if medium.speaks_ata:
        with ports.open_scsi(medium.devnode) as scsi:
            return _ata(AtaDrive(scsi, name=medium.devnode, transport=medium.transport))
    if medium.transport in _SCSI:
        with ports.open_scsi(medium.devnode) as scsi:
            return _scsi(unit, ScsiDrive(scsi, device=medium.devnode))
    return Examination(identity={}, hidden=_not_applicable(unit))


def _not_applicable(unit: Unit) -> Hidden:
    transport = unit.first.transport
    words = NOT_APPLICABLE.get(transport, f"there is no host protected area to be asked for over {transport}")
    return Hidden(state=State.NOT_APPLICABLE, reason=words)


def _nvme(unit: Unit, drive: NvmeDrive) -> Examination:
    controller = drive.identify()
    listed = drive.namespaces(allocated=controller.manages_namespaces)
    sizes = {}
    for namespace in listed:
        found = drive.identify_namespace(namespace, allocated=controller.manages_namespaces)
        sizes[str(namespace)] = found.size
    ours = tuple(extent.medium.namespace for extent in unit.extents)
    return Examination(
        identity={
            "serial": controller.serial,
            "model": controller.model,
            "firmware": controller.firmware,
            "namespaces": sizes,
            "capacity": controller.tnvmcap,
        },
        hidden=judge_nvme(ours, controller, listed),
        details={
            "nqn": controller.subnqn,
            "unallocated": controller.unvmcap,
            **_sanitize_log(drive, controller),
        },
    )


def _sanitize_log(drive: NvmeDrive, controller: Controller) -> dict[str, Any]:
    if not controller.actions:
        return {}
    try:
        return {"sanitize_log": drive.sanitize_log().raw.hex()}
    except DeviceError:
        return {}


def _ata(drive: AtaDrive) -> Examination:
    identity, areas = drive.identify(), look_areas(drive)
    return Examination(
        identity={
            "serial": identity.serial,
            "model": identity.model,
            "firmware": identity.firmware,
            "wwn": identity.wwn,
            "capacity": identity.size,
        },
        hidden=judge_ata(areas),
        details={
            "security": {
                "enabled": identity.security.enabled,
                "locked": identity.security.locked,
                "frozen": identity.security.frozen,
            },
            "areas": areas.to_json(),
            "identify": identity.raw.hex(),
        },
    )


def _scsi(unit: Unit, drive: ScsiDrive) -> Examination:
    inquiry, capacity = drive.inquiry(), drive.capacity()
    return Examination(
        identity={
            "vendor": inquiry.vendor,
            "model": inquiry.product,
            "firmware": inquiry.revision,
            "capacity": capacity.size,
            "block": capacity.block_size,
        },
        hidden=_not_applicable(unit),
        remapped=drive.grown_defects(),
        details={"read_capacity": capacity.raw.hex()},
    )
