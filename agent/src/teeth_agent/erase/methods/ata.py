"""Erases that an ATA drive carries out by itself: Sanitize here, security erase in ata_security."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from teeth_agent.drives import ata_commands
from teeth_agent.drives.ata import AtaDrive, AtaRefused
from teeth_agent.drives.ata_commands import AtaCommand
from teeth_agent.drives.ata_identity import SanitizeSupport
from teeth_agent.drives.ata_sanitize import SanitizeStatus
from teeth_agent.erase.methods import DeviceErase, Poll, State
from teeth_agent.erase.methods.ata_leftovers import Tries
from teeth_agent.erase.methods.ata_security import Aside, SecurityErase, in_thread
from teeth_agent.erase.model import Method
from teeth_agent.errors import DeviceError

_SANITIZES: dict[Method, tuple[Callable[..., AtaCommand], Callable[[SanitizeSupport], bool]]] = {
    Method.ATA_SANITIZE_CRYPTO: (ata_commands.sanitize_crypto, lambda has: has.crypto),
    Method.ATA_SANITIZE_BLOCK: (ata_commands.sanitize_block, lambda has: has.block),
    Method.ATA_SANITIZE_OVERWRITE: (ata_commands.sanitize_overwrite, lambda has: has.overwrite),
}
METHODS = frozenset({*_SANITIZES, Method.ATA_SECURITY_ERASE, Method.ATA_SECURITY_ERASE_ENHANCED})


def ata_erase(
    method: Method,
    drive: AtaDrive,
    *,
    exit_allowed: bool = False,
    ours: bool = False,
    tries: Tries | None = None,
    clock: Callable[[], float] = time.monotonic,
    aside: Aside = in_thread,
) -> DeviceErase:
    """One attempt of ``method``, one of METHODS; see SanitizeErase and SecurityErase for the rest.

    Raises DeviceError when the drive does not answer.
    """
    if method in _SANITIZES:
        return SanitizeErase(drive, method, exit_allowed=exit_allowed, ours=ours)
    assert method in METHODS, method
    enhanced = method is Method.ATA_SECURITY_ERASE_ENHANCED
    return SecurityErase(drive, enhanced=enhanced, tries=tries, clock=clock, aside=aside)


def under_way(drive: AtaDrive) -> SanitizeErase | None:
    """The sanitize that the drive carries out, taken over to be waited for, whoever began it; None without.

    Which one it is the drive does not tell: its end proves nothing but that another may begin.
    """
    erase = SanitizeErase(drive, Method.ATA_SANITIZE_OVERWRITE, exit_allowed=False, ours=True)
    return erase if erase.adopt() else None


class SanitizeErase:
    """A DeviceErase. The drive goes on by itself, over power cuts too, and tells how far it is.

    ``exit_allowed``: after a failure the drive may be used again, for a lower rung; else its medium stays
    closed. ``ours``: the caller's record says that this very sanitize was begun on this drive. The drive does
    not tell which one is under way, so one is taken over only then.
    """

    def __init__(self, drive: AtaDrive, method: Method, *, exit_allowed: bool, ours: bool) -> None:
        self._drive = drive
        self._method = method
        self._exit_allowed = exit_allowed
        self._ours = ours
        self._from = len(drive.commands)
        self._adopted = False

    @property
    def estimate(self) -> float | None:
        """ATA has none for Sanitize."""
        return None

    @property
    def commands(self) -> list[str]:
        return self._drive.commands[self._from :]

    def start(self) -> None:
        """Keep others from freezing it, and begin; also what gets a drive out of a failed sanitize.

        Raises DeviceError(method_unsupported | locked | frozen | sanitize_running | sanitize_status_lost |
        not_started), or the drive's refusal.
        """
        make, offered = _SANITIZES[self._method]
        identity, name = self._drive.identify(), self._drive.name
        if not offered(identity.sanitize):
            raise DeviceError(f"{name} has no {self._method.value}", code="method_unsupported")
        if identity.security.locked:
            raise DeviceError(f"{name} is locked by a password", code="locked")
        status = self._drive.sanitize_status()
        self._ready(status)
        if identity.sanitize.antifreeze and not status.failed:
            self._drive.sanitize_antifreeze()
            # Something is set now: a way that cuts it off would cut off the end of the erase too.
            self._ready(self._drive.sanitize_status())
        self._begin(make)
        self._adopted = False
        begun = self._drive.sanitize_status()
        if not (begun.running or begun.succeeded or begun.failed or begun.running is None):
            raise DeviceError(f"{name} took the sanitize command and did nothing", code="not_started")

    def _begin(self, make: Callable[..., AtaCommand]) -> None:
        try:
            self._drive.sanitize(make, exit_allowed=self._exit_allowed)
        except AtaRefused:
            # After a failure that may not be left only such a sanitize is taken again (ACS-4 4.15).
            if not (self._exit_allowed and self._drive.sanitize_status().failed):
                raise
            self._drive.sanitize(make, exit_allowed=False)

    def _ready(self, status: SanitizeStatus) -> None:
        name = self._drive.name
        if status.running:
            raise DeviceError(f"{name}: a sanitize operation is under way", code="sanitize_running")
        if status.frozen:
            raise DeviceError(f"{name} is sanitize-frozen until it loses power", code="frozen")
        if not status.whole:
            raise DeviceError(
                f"{name}: its sanitize status does not come through, so the end could not be seen",
                code="sanitize_status_lost",
            )

    def adopt(self) -> bool:
        """A failed one is not taken over: ``start`` begins it anew."""
        if not self._ours or not self._drive.identify().sanitize.supported:
            return False
        self._adopted = bool(self._drive.sanitize_status().running)
        return self._adopted

    def poll(self) -> Poll:
        status = self._drive.sanitize_status()
        evidence = status.evidence() | {"adopted": self._adopted}
        if status.running:
            return Poll(state=State.RUNNING, fraction=status.progress, evidence=evidence)
        if status.succeeded:
            state = State.DONE if self._drive.reads() else State.FAILED
            return Poll(state=state, fraction=1.0, evidence=evidence | {"readable": state is State.DONE})
        # Not known: as long as the medium is closed it goes on; open, nobody says that it went well.
        if status.running is None and not self._drive.reads():
            return Poll(state=State.RUNNING, fraction=None, evidence=evidence)
        return Poll(state=State.FAILED, fraction=None, evidence=evidence | {"reason": _reason(status)})

    def complete(self) -> Mapping[str, Any]:
        """The drive says that the last sanitize operation succeeded, and its medium is open again."""
        status = self._drive.sanitize_status()
        if not status.succeeded:
            raise DeviceError(f"{self._drive.name}: {_reason(status)}", code="not_completed")
        if not self._drive.reads():
            raise DeviceError(
                f"{self._drive.name}: sanitized by its own word, and its medium cannot be read",
                code="not_completed",
            )
        return status.evidence() | {"adopted": self._adopted, "readable": True}

    def abandon(self) -> None:
        """Leave the failed state if the operation allowed that. Sanitize sets no password.

        Raises DeviceError: still_running, or fenced when the drive keeps its medium closed for good.
        """
        name, status = self._drive.name, self._drive.sanitize_status()
        if status.running:
            raise DeviceError(f"{name} still erases and cannot be stopped", code="still_running")
        if not status.failed:
            return
        if not self._exit_allowed:
            raise _fenced(name, "the policy does not allow to leave the failed state")
        if self._drive.sanitize_status(clear_failed=True).failed:
            raise _fenced(name, "it stays in the failed state")


def _fenced(name: str, why: str) -> DeviceError:
    return DeviceError(f"{name} is fenced after a failed sanitize: {why}", code="fenced")


def _reason(status: SanitizeStatus) -> str:
    if status.failed:
        return f"sanitize failed: {status.reason}"
    if not status.whole:
        return "the sanitize status does not come through, so its end is unknown"
    return "the drive knows of no sanitize operation that succeeded"
