"""Making all of a unit reachable before it is erased: hidden ends opened, namespaces attached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from teeth_agent import sysfs
from teeth_agent.drives.ata import AtaDrive
from teeth_agent.drives.ata_areas import restore_native_max
from teeth_agent.drives.nvme import NvmeDrive
from teeth_agent.erase.methods import Ports
from teeth_agent.erase.methods.nvmeformat import attach_detached
from teeth_agent.erase.model import Medium, Unit, group_units
from teeth_agent.errors import DeviceError


def open_up(unit: Unit, ports: Ports, commands: list[str]) -> list[str]:
    """Take away what hides parts of the unit; a phrase for each thing that was done.

    What the drive refuses stays as it is: the last proof finds it. Raises DeviceError when the drive does not
    answer. ``commands`` gets what was sent.
    """
    first = unit.first
    if first.controller is not None:
        device = f"/dev/{first.controller}"
        with ports.open_nvme(device) as port:
            drive = NvmeDrive(port, device=device)
            sent = attach_detached(drive, drive.identify())
            commands += sent
            return [f"{len(sent)} detached namespaces were attached"] if sent else []
    if first.speaks_ata:
        with ports.open_scsi(first.devnode) as scsi:
            ata = AtaDrive(scsi, name=first.devnode, transport=first.transport)
            try:
                return _open_ends(ata)
            finally:
                commands += ata.commands
    return []


def _open_ends(drive: AtaDrive) -> list[str]:
    restored = restore_native_max(drive)
    if not restored.changed:
        return []
    before, after = restored.before.accessible, restored.after.accessible
    return [f"its hidden end was opened: {before} sectors became {after}"]


def refreshed(unit: Unit, now: Sequence[Medium]) -> Unit:
    """The unit as the kernel has it after it looked again: larger, or with more namespaces.

    Raises DeviceError(identity_changed) when what is there now is not the same drive.
    """
    names = {medium.name for medium in unit.media}
    found = [one for one in group_units(tuple(now)) if names & {medium.name for medium in one.media}]
    if len(found) != 1 or not names <= {medium.name for medium in found[0].media}:
        raise DeviceError(f"{unit.key} is not there as it was", code="identity_changed")
    known = {medium.name: medium for medium in found[0].media}
    for medium in unit.media:
        other = known[medium.name]
        if (medium.serial, medium.wwn, medium.model) != (other.serial, other.wwn, other.model):
            raise DeviceError(f"{medium.name} is another drive than before", code="identity_changed")
    return found[0]


def rescan(medium: Medium, root: Path = Path("/")) -> None:
    """Let the kernel look at a drive anew, whose size or namespaces have changed. Raises DeviceError.

    libata keeps what it once read of a drive: there it is taken out and found again.
    """
    try:
        if medium.controller is not None:
            sysfs.write_text(root, f"/sys/class/nvme/{medium.controller}/rescan_controller", "1")
            return
        device = f"/sys/class/block/{medium.name}/device"
        if medium.transport == "sata":
            host = next((part for part in medium.sysfs_path.split("/") if part.startswith("host")), "")
            sysfs.write_text(root, f"{device}/delete", "1")
            sysfs.write_text(root, f"/sys/class/scsi_host/{host}/scan", "- - -")
        else:
            sysfs.write_text(root, f"{device}/rescan", "1")
    except OSError as error:
        raise DeviceError(
            f"{medium.name} cannot be looked at again: {error.strerror}", code="rescan_failed"
        ) from error
