"""What an erase that was cut short has left on a drive: found at every start of the agent and of an erase.

The drive is the journal: a sanitize goes on by itself over any power cut, and a password stays in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from teeth_agent.drives.ata import AtaDrive
from teeth_agent.drives.nvme import NvmeDrive
from teeth_agent.drives.nvmedata import SecureErase
from teeth_agent.drives.scsi import ScsiDrive
from teeth_agent.erase.methods import DeviceErase, Ports, ata, ata_leftovers, nvme, scsi
from teeth_agent.erase.methods.ata_leftovers import Found, Tries
from teeth_agent.erase.methods.leftover import Left, Leftover
from teeth_agent.erase.methods.nvmeformat import NvmeFormat
from teeth_agent.erase.model import Medium, Method, Unit
from teeth_agent.erase.polling import Around, wait_for_end
from teeth_agent.errors import AgentError, DeviceError

_SCSI = ("scsi", "sas", "iscsi", "fc")
_LOCKED = (Found.LOCKED_STRANGER, Found.EXPIRED, Found.FROZEN)
_KINDS = {
    "crypto": Method.NVME_SANITIZE_CRYPTO,
    "block": Method.NVME_SANITIZE_BLOCK,
    "overwrite": Method.NVME_SANITIZE_OVERWRITE,
}
_LOOK_SECONDS = 5.0
# A drive that formats says so by percent: large ones do one of them in less than this.
_STANDS_SECONDS = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescue:
    """What bringing a drive out of it takes. ``sanitizes``: those that the drive has, best first, as only
    another one ends a failure mode that may not be left. ``commands``: what was sent, for the record."""

    ports: Ports
    sanitizes: Sequence[Method]
    around: Around
    tries: Tries
    commands: list[str]


def recover(unit: Unit, rescue: Rescue) -> list[dict[str, Any]]:
    """Wait for what the drive still does, end what failed, take a known password away; JSON values of each.

    Afterwards the unit can be written to. Raises DeviceError: locked when a password stays in force, and
    when the drive cannot be brought out of what it is in; and what ``around.check`` raises.
    """
    first = unit.first
    if first.controller is not None:
        device = f"/dev/{first.controller}"
        with rescue.ports.open_nvme(device) as port:
            return _recover_nvme(NvmeDrive(port, device=device), rescue)
    if first.speaks_ata:
        with rescue.ports.open_scsi(first.devnode) as scsi_port:
            drive = AtaDrive(scsi_port, name=first.devnode, transport=first.transport)
            return _recover_ata(drive, rescue)
    if first.transport in _SCSI:
        with rescue.ports.open_scsi(first.devnode) as scsi_port:
            return _recover_scsi(ScsiDrive(scsi_port, device=first.devnode), rescue)
    return []


def _recover_nvme(drive: NvmeDrive, rescue: Rescue) -> list[dict[str, Any]]:
    def again(left: Leftover) -> DeviceErase | None:
        if left.left is Left.FORMATTING:
            return NvmeFormat(drive, SecureErase.USER_DATA, again=True)
        method = _KINDS.get(left.kind) or next(iter(rescue.sanitizes), None)
        return nvme.nvme_erase(method, drive, exit_allowed=True) if method is not None else None

    return _bring_out(lambda: nvme.recover(drive), lambda: nvme.under_way(drive), again, rescue)


def _recover_scsi(drive: ScsiDrive, rescue: Rescue) -> list[dict[str, Any]]:
    def again(left: Leftover) -> DeviceErase | None:
        if left.left is Left.FORMAT_FAILED:
            return scsi.scsi_erase(Method.SCSI_FORMAT, drive)
        method = next(iter(rescue.sanitizes), None)
        return scsi.scsi_erase(method, drive, exit_allowed=True) if method is not None else None

    return _bring_out(lambda: scsi.recover(drive), lambda: scsi.under_way(drive), again, rescue)


def _bring_out(
    look: Callable[[], Leftover],
    under_way: Callable[[], DeviceErase | None],
    again: Callable[[Leftover], DeviceErase | None],
    rescue: Rescue,
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    left = look()
    if left.running:
        found.append(_told(left))
        running = under_way()
        if running is not None:
            _see_through(running, rescue)
        else:
            _wait_until_idle(look, rescue.around)
        left = look()
        if left.running and (erase := again(left)) is not None:
            # It says that it formats, and does not: a power cut came between. Another format ends that.
            erase.start()
            rescue.commands.extend(erase.commands)
            wait_for_end(erase, rescue.around)
            left = look()
    if left.left in (Left.SANITIZE_FAILED, Left.FORMAT_FAILED):
        found.append(_told(left))
        erase = again(left)
        if erase is None:
            raise DeviceError("the drive is in a failure mode, and has no sanitize to end it", code="fenced")
        _end_failure(erase, rescue)
    return found


def _told(left: Leftover) -> dict[str, Any]:
    return {"found": left.left.value, "kind": left.kind, "evidence": dict(left.evidence)}


def _see_through(erase: DeviceErase, rescue: Rescue) -> None:
    """Until it has ended, well or not: the drive can then be asked for what it needs next."""
    try:
        wait_for_end(erase, rescue.around)
    except DeviceError as error:
        if error.code != "erase_failed":
            raise


def _wait_until_idle(look: Callable[[], Leftover], around: Around) -> None:
    """Returns also when there is no progress any more."""
    began = moved = around.clock()
    fraction = None
    while (left := look()).running:
        now = around.clock()
        if left.fraction != fraction:
            fraction, moved = left.fraction, now
        if now - moved > _STANDS_SECONDS:
            return
        if now - began > around.time_limit:
            raise DeviceError("the drive is busy for longer than is allowed", code="time_limit")
        around.check()
        around.pause(_LOOK_SECONDS)


def _end_failure(erase: DeviceErase, rescue: Rescue) -> None:
    """Leave the failure mode; where that is not allowed, erase again, which is the other way out."""
    try:
        erase.abandon()
    except DeviceError as error:
        if error.code not in ("fenced", "format_failed"):
            raise
        erase.start()
        wait_for_end(erase, rescue.around)
    finally:
        rescue.commands.extend(erase.commands)


def _recover_ata(drive: AtaDrive, rescue: Rescue) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    left = ata_leftovers.recover(drive, rescue.tries)
    method = next(iter(rescue.sanitizes), Method.ATA_SANITIZE_OVERWRITE)
    if left.found is Found.RUNNING:
        found.append(left.to_json())
        running = ata.under_way(drive)
        if running is not None:
            _see_through(running, rescue)
        left = ata_leftovers.recover(drive, rescue.tries)
    if left.found is Found.FAILED:
        found.append(left.to_json())
        _end_failure(ata.ata_erase(method, drive, exit_allowed=True), rescue)
        left = ata_leftovers.recover(drive, rescue.tries)
    if left.found in _LOCKED:
        raise DeviceError(f"the drive is locked by an ATA security password: {left.detail}", code="locked")
    if left.found is not Found.NONE:
        found.append(left.to_json())
    return found


def look_over(media: Iterable[Medium], ports: Ports, tries: Tries) -> list[tuple[str, str]]:
    """(name, what was found) of each drive that an erase was interrupted on. Quick: nothing is waited for.

    A password that is known is taken away at once: no drive stays locked because nobody erases it anew.
    """
    found = []
    asked: set[str] = set()
    for medium in media:
        name = medium.controller or medium.name
        if medium.out_of_scope is not None or name in asked:
            continue
        asked.add(name)
        try:
            words = _look_over_one(medium, ports, tries)
        except AgentError as error:
            words = f"it does not say whether an erase was interrupted: {error}"
        if words:
            found.append((name, words))
    return found


def standing(unit: Unit, ports: Ports) -> str:
    """What a drive is at, or was left at, by its own word; "" for nothing. Only asks, changes nothing."""
    first = unit.first
    if first.controller is not None:
        device = f"/dev/{first.controller}"
        with ports.open_nvme(device) as port:
            return _words(nvme.recover(NvmeDrive(port, device=device)))
    if first.speaks_ata:
        with ports.open_scsi(first.devnode) as scsi_port:
            drive = AtaDrive(scsi_port, name=first.devnode, transport=first.transport)
            if not drive.identify().sanitize.supported:
                return ""
            status = drive.sanitize_status()
            return "sanitizing" if status.running else "sanitize_failed" if status.failed else ""
    if first.transport in _SCSI:
        with ports.open_scsi(first.devnode) as scsi_port:
            return _words(scsi.recover(ScsiDrive(scsi_port, device=first.devnode)))
    return ""


def _look_over_one(medium: Medium, ports: Ports, tries: Tries) -> str:
    if medium.transport == "nvme" and medium.controller is not None:
        device = f"/dev/{medium.controller}"
        with ports.open_nvme(device) as port:
            return _words(nvme.recover(NvmeDrive(port, device=device)))
    if medium.speaks_ata:
        with ports.open_scsi(medium.devnode) as scsi_port:
            drive = AtaDrive(scsi_port, name=medium.devnode, transport=medium.transport)
            left = ata_leftovers.recover(drive, tries)
            return "" if left.found is Found.NONE else f"{left.found.value}: {left.detail}"
    if medium.transport in ("scsi", "sas"):
        with ports.open_scsi(medium.devnode) as scsi_port:
            return _words(scsi.recover(ScsiDrive(scsi_port, device=medium.devnode)))
    return ""


def _words(left: Leftover) -> str:
    if left.left is Left.NOTHING:
        return ""
    told = "" if left.fraction is None else f", {left.fraction:.0%} done"
    return f"{left.left.value} {left.kind}".strip() + told
