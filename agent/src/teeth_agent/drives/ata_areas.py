"""Hidden ends of an ATA drive: host protected area, accessible max address, configuration overlay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from teeth_agent.drives.ata import AtaDrive, AtaRefused
from teeth_agent.drives.ata_identity import AtaIdentity
from teeth_agent.errors import DeviceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Areas:
    """Where a drive ends, in sectors.

    ``accessible``: what can be reached now. ``native``: without a host protected area or accessible max
    address. ``overlay``: without a configuration overlay, too. Without such a feature: the number before.
    None: the drive has the feature and does not tell, ``unknown`` says why.
    """

    accessible: int
    native: int | None
    overlay: int | None
    unknown: str = ""

    @property
    def hidden(self) -> int | None:
        """Sectors out of reach; None when that is not known, or when the numbers cannot be."""
        if self.native is None or self.overlay is None:
            return None
        return None if self.native < self.accessible else self.overlay - self.accessible

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What ``restore_native_max`` found and left. ``refused``: what the drive said no to, a phrase each; then
    ``after`` may still hide something. If it ``changed`` the kernel has to look at the size anew."""

    before: Areas
    after: Areas
    refused: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return self.after.accessible != self.before.accessible


def look_areas(drive: AtaDrive) -> Areas:
    """Ask the drive where it ends. Raises DeviceError when it cannot even be identified."""
    identity = drive.identify()
    native, unknown = _native(drive, identity)
    overlay = native
    if identity.dco and native is not None:
        overlay, unknown = _overlay(drive, native)
    return Areas(accessible=identity.sectors, native=native, overlay=overlay, unknown=unknown)


def _native(drive: AtaDrive, identity: AtaIdentity) -> tuple[int | None, str]:
    if not (identity.ama or identity.hpa):
        return identity.sectors, ""
    try:
        found = (
            drive.accessible_native_sectors() if identity.ama else drive.native_sectors(lba48=identity.lba48)
        )
    except AtaRefused as error:
        return None, str(error)
    return found, "" if found is not None else "the native maximum address does not come through"


def _overlay(drive: AtaDrive, native: int) -> tuple[int | None, str]:
    """Firmware often freezes the overlay, and then its data are refused; some drives give numbers that
    cannot be, as 0 or 1."""
    try:
        found = drive.overlay_sectors()
    except DeviceError as error:
        return None, str(error)
    if found < native:
        return None, f"the configuration overlay says {found} sectors, of which {native} are in use"
    return found, ""


def restore_native_max(drive: AtaDrive) -> Restored:
    """Make every sector accessible, for good where the drive allows that; what does not tell its end stays.

    An overlay is given up only while no host protected area is set, and one change of that lasts in a power
    cycle: so it is lifted for the moment, and for good when the overlay is gone. Raises DeviceError when the
    drive does not answer.
    """
    before = look_areas(drive)
    identity = drive.identify()
    refused: list[str] = []

    def order(act: Callable[[], None]) -> None:
        try:
            act()
        except AtaRefused as error:
            refused.append(str(error))

    if identity.ama and before.native is not None and before.native > before.accessible:
        order(lambda: drive.set_accessible_max(before.native or 0))
    elif before.native is not None and before.overlay is not None and before.overlay > before.native:
        if before.native > before.accessible:
            order(lambda: drive.set_max(before.native or 0, lba48=identity.lba48, keep=False))
        order(drive.restore_overlay)
    native = look_areas(drive).native
    if identity.hpa and not identity.ama and native is not None and native > before.accessible:
        # Also where it was lifted: that was for the moment.
        order(lambda: drive.set_max(native, lba48=identity.lba48, keep=True))
    return Restored(before=before, after=look_areas(drive), refused=tuple(refused))
