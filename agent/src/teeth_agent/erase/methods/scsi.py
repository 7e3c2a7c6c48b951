"""SANITIZE and FORMAT UNIT on SCSI drives. Success is a unit that is ready after work that it was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from teeth_agent.drives.scsi import (
    FORMAT_UNIT,
    SANITIZE,
    Action,
    Condition,
    ScsiCommand,
    ScsiDrive,
    Standing,
    sanitize_command,
)
from teeth_agent.erase.methods import Poll, State
from teeth_agent.erase.methods.leftover import Left, Leftover
from teeth_agent.erase.model import Method
from teeth_agent.errors import DeviceError

_ACTIONS = {
    Method.SCSI_SANITIZE_CRYPTO: Action.CRYPTO,
    Method.SCSI_SANITIZE_BLOCK: Action.BLOCK,
    Method.SCSI_SANITIZE_OVERWRITE: Action.OVERWRITE,
}
_RUNNING = {Condition.SANITIZING: "sanitize_running", Condition.FORMATTING: "format_running"}


class _ScsiErase:
    """What both have in common; see DeviceErase. ``working`` is the condition while it goes on."""

    def __init__(self, drive: ScsiDrive, working: Condition) -> None:
        self.commands: list[str] = []
        self.estimate: float | None = None
        self._drive = drive
        self._working = working
        self._seen: float | None = None  # the furthest fraction that the unit told, None: never seen working
        self._adopted = False
        self._defects: int | None = None

    def poll(self) -> Poll:
        standing = self._drive.standing()
        evidence = {**_told(standing), "seen_working": self._seen is not None}
        if standing.condition is self._working:
            self._seen = max(self._seen or 0.0, standing.fraction or 0.0)
            return Poll(state=State.RUNNING, fraction=standing.fraction, evidence=evidence)
        if standing.condition is Condition.READY:
            return Poll(state=State.DONE, fraction=1.0, evidence=evidence)
        if standing.condition is Condition.NOT_READY:
            # Spinning up, reserved, busy: no word about the erase.
            return Poll(state=State.RUNNING, fraction=None, evidence=evidence)
        return Poll(state=State.FAILED, fraction=None, evidence=evidence)

    def complete(self) -> Mapping[str, Any]:
        standing = self._drive.standing()
        if standing.condition is not Condition.READY:
            raise DeviceError(
                f"{self._drive.device} is not ready after the erase: {standing.words}", code="not_completed"
            )
        capacity = self._drive.capacity()
        return {
            **_told(standing),
            "seen_working": self._seen is not None,
            "adopted": self._adopted,
            "read_capacity": capacity.raw.hex(),
            "grown_defects_before": self._defects,
            "grown_defects_after": self._drive.grown_defects(),
        }

    def _send(self, command: ScsiCommand) -> None:
        """Noted before it is sent: what was refused was tried all the same."""
        self.commands.append(str(command))
        self._drive.order(command)

    def _prepare(self, opcode: int, service: int | None) -> None:
        """What must be asked while the unit is idle; an erase does not fail for it."""
        self.estimate = self.estimate or _quietly(lambda: self._drive.supports(opcode, service).recommended)
        self._defects = _quietly(self._drive.grown_defects)

    def _take_over(self, opcode: int, service: int | None) -> None:
        self._adopted = True
        self._seen = 0.0
        self.estimate = _quietly(lambda: self._drive.supports(opcode, service).recommended)

    def _check_idle(self, standing: Standing) -> None:
        """Whatever else is under way must end first: it is never cut short."""
        if standing.condition in _RUNNING:
            raise DeviceError(
                f"{self._drive.device} is busy with an earlier erase: {standing.words}",
                code=_RUNNING[standing.condition],
            )


class ScsiSanitize(_ScsiErase):
    """SANITIZE with IMMED: crypto, block or overwrite once with zeros.

    ``exit_allowed`` is AUSE: where the policy lets a drive fall to a lower grade, a failed sanitize can be
    left. Without it a drive whose sanitize failed stays fenced: nobody can read its medium. ``ours``: the
    caller's record says that this very sanitize was begun on this unit. The unit does not tell which one is
    under way, so one is taken over only then.
    """

    def __init__(
        self, drive: ScsiDrive, action: Action, *, exit_allowed: bool = False, ours: bool = False
    ) -> None:
        super().__init__(drive, Condition.SANITIZING)
        self._action = action
        self._exit_allowed = exit_allowed
        self._ours = ours

    def start(self) -> None:
        """See DeviceErase; also what gets a unit out of a failed sanitize or format."""
        self._check_idle(self._drive.standing())
        self._prepare(SANITIZE, self._action)
        try:
            self._send(self._command(exit_allowed=self._exit_allowed))
        except DeviceError as error:
            # After a failure that may not be left only such a sanitize is taken again (SBC-4 4.11.3).
            fenced = self._drive.standing().condition is Condition.SANITIZE_FAILED
            if not (self._exit_allowed and fenced) or error.code not in ("refused", "sanitize_failed"):
                raise
            self._send(self._command(exit_allowed=False))

    def adopt(self) -> bool:
        """A failed one is not taken over: ``start`` begins it anew."""
        if not self._ours or self._drive.standing().condition is not Condition.SANITIZING:
            return False
        self._take_over(SANITIZE, self._action)
        return True

    def abandon(self) -> None:
        """Raises DeviceError: still_running, or fenced when the unit keeps its medium away for good."""
        standing = self._drive.standing()
        if standing.condition in _RUNNING:
            raise DeviceError(
                f"{self._drive.device} still erases and cannot be stopped: {standing.words}",
                code="still_running",
            )
        if standing.condition is not Condition.SANITIZE_FAILED:
            return
        if not self._exit_allowed:
            raise _fenced(self._drive.device, "the policy does not allow to leave the failure mode")
        try:
            self._send(sanitize_command(Action.EXIT_FAILURE, device=self._drive.device))
        except DeviceError as error:
            raise _fenced(self._drive.device, str(error)) from error
        if self._drive.standing().condition is Condition.SANITIZE_FAILED:
            raise _fenced(self._drive.device, "it stays in its failure mode")

    def _command(self, *, exit_allowed: bool) -> ScsiCommand:
        return sanitize_command(self._action, exit_allowed=exit_allowed, device=self._drive.device)


class ScsiFormat(_ScsiErase):
    """FORMAT UNIT with IMMED, block size and protection kept."""

    def __init__(self, drive: ScsiDrive) -> None:
        super().__init__(drive, Condition.FORMATTING)

    def start(self) -> None:
        self._check_idle(self._drive.standing())
        self._prepare(FORMAT_UNIT, None)
        self._send(self._drive.format_order())

    def adopt(self) -> bool:
        if self._drive.standing().condition is not Condition.FORMATTING:
            return False
        self._take_over(FORMAT_UNIT, None)
        return True

    def abandon(self) -> None:
        """Raises DeviceError: still_running, or format_failed when only another format makes it usable."""
        standing = self._drive.standing()
        if standing.condition in _RUNNING:
            raise DeviceError(
                f"{self._drive.device} still erases and cannot be stopped: {standing.words}",
                code="still_running",
            )
        if standing.condition is Condition.FORMAT_FAILED:
            raise DeviceError(
                f"{self._drive.device} has no usable medium until a format succeeds: {standing.words}",
                code="format_failed",
            )


def scsi_erase(
    method: Method, drive: ScsiDrive, *, exit_allowed: bool = False, ours: bool = False
) -> ScsiSanitize | ScsiFormat:
    """The method on this unit; see ScsiSanitize. KeyError for one that is not a SCSI drive's own."""
    if method is Method.SCSI_FORMAT:
        return ScsiFormat(drive)
    return ScsiSanitize(drive, _ACTIONS[method], exit_allowed=exit_allowed, ours=ours)


def recover(drive: ScsiDrive) -> Leftover:
    """What the unit was found at. Raises DeviceError when it does not answer."""
    standing = drive.standing()
    left = {
        Condition.SANITIZING: Left.SANITIZING,
        Condition.SANITIZE_FAILED: Left.SANITIZE_FAILED,
        Condition.FORMATTING: Left.FORMATTING,
        Condition.FORMAT_FAILED: Left.FORMAT_FAILED,
    }.get(standing.condition, Left.NOTHING)
    kind = "format" if left in (Left.FORMATTING, Left.FORMAT_FAILED) else ""
    return Leftover(left=left, kind=kind, fraction=standing.fraction, evidence=_told(standing))


def under_way(drive: ScsiDrive) -> ScsiSanitize | ScsiFormat | None:
    """What the unit is doing, taken over to be waited for, whoever began it; None when it does nothing.

    Which sanitize it is the unit does not tell: its end proves nothing but that another may begin.
    """
    for erase in (ScsiSanitize(drive, Action.OVERWRITE, ours=True), ScsiFormat(drive)):
        if erase.adopt():
            return erase
    return None


def _told(standing: Standing) -> dict[str, Any]:
    return {
        "condition": standing.condition.value,
        "said": standing.words,
        "sense": standing.sense.hex(),
    }


def _quietly(ask: Callable[[], int | None]) -> int | None:
    try:
        return ask()
    except DeviceError:
        return None


def _fenced(device: str, why: str) -> DeviceError:
    return DeviceError(f"{device} is fenced after a failed sanitize: {why}", code="fenced")
