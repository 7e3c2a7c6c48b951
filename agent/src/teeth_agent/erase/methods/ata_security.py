"""ATA security erase: a password is set, and the drive erases and takes it away in one command of hours."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from teeth_agent.drives.ata import AtaDrive
from teeth_agent.drives.ata_commands import Who
from teeth_agent.drives.ata_identity import AtaIdentity, Security
from teeth_agent.erase.methods import Poll, State
from teeth_agent.erase.methods.ata_leftovers import PASSWORD, Found, Tries, left_locked, recover, release
from teeth_agent.errors import DeviceError

_AT_LEAST_SECONDS = 12 * 3600.0
_NEARLY = 0.99  # an estimate never says that it is done
_JOIN_SECONDS = 5.0

# Runs work beside the caller; what it gives waits so many seconds and tells whether the work has ended.
Aside = Callable[[Callable[[], None]], Callable[[float], bool]]


def in_thread(work: Callable[[], None]) -> Callable[[float], bool]:
    """A thread that does not keep the process alive: the drive goes on by itself, the next agent recovers."""

    def quietly() -> None:
        # The end of the process, of whatever kind: threading tells only of the plain one in silence.
        with contextlib.suppress(SystemExit):
            work()

    thread = threading.Thread(target=quietly, name="security-erase", daemon=True)
    thread.start()

    def ended(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    return ended


class SecurityErase:
    """A DeviceErase. Making one asks the drive who it is (DeviceError). The drive answers nothing while it
    erases: how far it is is reckoned from the time gone and the drive's estimate, and called so.
    """

    def __init__(
        self,
        drive: AtaDrive,
        *,
        enhanced: bool,
        tries: Tries | None = None,
        clock: Callable[[], float] = time.monotonic,
        aside: Aside = in_thread,
    ) -> None:
        self._drive = drive
        self._enhanced = enhanced
        self._tries = tries
        self._clock = clock
        self._aside = aside
        self._from = len(drive.commands)
        self._identity = drive.identify()
        self._ended: Callable[[float], bool] | None = None
        self._since = 0.0
        self._well = False
        self._error: DeviceError | None = None
        self._touched = False

    @property
    def estimate(self) -> float | None:
        security = self._identity.security
        return security.enhanced_seconds if self._enhanced else security.erase_seconds

    @property
    def timeout(self) -> float:
        """Seconds that the command may take: twice the estimate, and never less than half a day."""
        return max(2 * (self.estimate or 0.0), _AT_LEAST_SECONDS)

    @property
    def commands(self) -> list[str]:
        return self._drive.commands[self._from :]

    def start(self) -> None:
        """Set the password, see that it is in force, begin.

        Raises DeviceError(frozen | locked | security_expired | method_unsupported | password_not_seen), or
        the drive's refusal; the password is then gone again, or the error is drive_left_locked.
        """
        self._well, self._error, self._ended = False, None, None
        self._ready(self._drive.identify())
        self._touched = True
        try:
            self._drive.set_password(PASSWORD)
            if not self._drive.identify().security.enabled:
                raise DeviceError(
                    f"{self._drive.name} took a password and says that it has none", code="password_not_seen"
                )
        except DeviceError:
            release(self._drive)
            raise
        self._since = self._clock()
        self._ended = self._aside(self._erase)

    def _ready(self, identity: AtaIdentity) -> None:
        security, name = identity.security, self._drive.name
        if not security.supported or (self._enhanced and not security.enhanced):
            raise DeviceError(f"{name} has no such erase", code="method_unsupported")
        if security.frozen:
            raise DeviceError(f"{name} is frozen: it takes no security command", code="frozen")
        if not (security.enabled or security.locked):
            return
        left = recover(self._drive, self._tries)
        if not left.usable:
            code = "security_expired" if left.found is Found.EXPIRED else "locked"
            raise DeviceError(f"{name}: {left.detail}", code=code)

    def _erase(self) -> None:
        try:
            self._drive.security_erase(Who.USER, PASSWORD, enhanced=self._enhanced, timeout=self.timeout)
        except DeviceError as error:
            self._error = error
        except Exception as error:  # nobody above a thread could take it
            self._error = DeviceError(f"{type(error).__name__}: {error}", code="internal_error")
        else:
            self._well = True

    def adopt(self) -> bool:
        """Never: a security erase ends with its command, and what it leaves is a password (ata_leftovers)."""
        return False

    def poll(self) -> Poll:
        assert self._ended is not None, "nothing was started"
        gone = self._clock() - self._since
        evidence: dict[str, Any] = {"seconds": round(gone, 1)}
        if not self._ended(0.0):
            fraction = min(_NEARLY, gone / self.estimate) if self.estimate else None
            evidence["fraction"] = "by the time gone and the drive's estimate"
            return Poll(state=State.RUNNING, fraction=fraction, evidence=evidence)
        if self._well:
            return Poll(state=State.DONE, fraction=1.0, evidence=evidence | {"command": "completed"})
        why = str(self._error) if self._error else "the command ended without an answer"
        return Poll(state=State.FAILED, fraction=None, evidence=evidence | {"command": why})

    def complete(self) -> Mapping[str, Any]:
        """The command ended well, and the drive says that no password is in force any more."""
        security = self._drive.identify().security
        if not self._well:
            raise DeviceError(f"{self._drive.name}: the erase command did not end well", code="not_completed")
        if security.enabled or security.locked:
            raise DeviceError(
                f"{self._drive.name}: the erase ended and the password is still in force",
                code="not_completed",
            )
        return {"command": "completed", "enhanced": self._enhanced, "security": _words(security)}

    def abandon(self) -> None:
        if not self._touched:
            return
        if self._ended is not None and not self._ended(_JOIN_SECONDS):
            raise left_locked(self._drive, "the erase is still under way")
        release(self._drive)


def _words(security: Security) -> dict[str, Any]:
    return {"enabled": security.enabled, "locked": security.locked, "frozen": security.frozen}
