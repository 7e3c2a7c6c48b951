"""Sanitize on NVMe drives. Success is a log that tells of the command that was sent, and that it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teeth_agent.drives.nvme import NvmeCommand, NvmeDrive, sanitize_command
from teeth_agent.drives.nvmedata import Action, SanitizeLog, Sanitizing, SecureErase
from teeth_agent.erase.methods import Poll, State
from teeth_agent.erase.methods.leftover import Left, Leftover
from teeth_agent.erase.methods.nvmeformat import NvmeFormat
from teeth_agent.erase.model import Method
from teeth_agent.errors import DeviceError

_ACTIONS = {
    Method.NVME_SANITIZE_CRYPTO: Action.CRYPTO,
    Method.NVME_SANITIZE_BLOCK: Action.BLOCK,
    Method.NVME_SANITIZE_OVERWRITE: Action.OVERWRITE,
}
_FORMATS = {
    Method.NVME_FORMAT_CRYPTO: SecureErase.CRYPTO,
    Method.NVME_FORMAT_USER_DATA: SecureErase.USER_DATA,
}
_MARK = 1


class NvmeSanitize:
    """Sanitize of the whole subsystem: crypto, block or overwrite once with zeros; see DeviceErase.

    ``exit_allowed`` is AUSE: where the policy lets a drive fall to a lower grade, a failed sanitize can be
    left. Without it a drive whose sanitize failed stays fenced: nobody can read its media.
    """

    def __init__(self, drive: NvmeDrive, action: Action, *, exit_allowed: bool = False) -> None:
        self.commands: list[str] = []
        self.estimate: float | None = None
        self._drive = drive
        self._action = action
        self._exit_allowed = exit_allowed
        # An overwrite is to be read back: what is deallocated need not read as what was written.
        self._no_deallocate = False
        self._before: SanitizeLog | None = None
        self._cdw10: int | None = None  # of the command that the log must tell of
        self._seen_working = False
        self._adopted = False

    def start(self) -> None:
        """See DeviceErase; also what gets a drive out of a failed sanitize."""
        before = self._drive.sanitize_log()
        if before.state is Sanitizing.RUNNING:
            raise DeviceError(
                f"{self._drive.device} is busy with a sanitize that was begun before", code="sanitize_running"
            )
        overwrite = self._action is Action.OVERWRITE
        self._no_deallocate = overwrite and not self._drive.identify().inhibits_no_deallocate
        self._before = before
        self._cdw10 = self._send(before)
        self._note_estimate(before)

    def adopt(self) -> bool:
        """Only one of this kind that is under way; ``start`` is what begins a failed one anew."""
        log = self._drive.sanitize_log()
        if log.state is not Sanitizing.RUNNING or log.action != self._action:
            return False
        self._cdw10, self._seen_working, self._adopted = log.cdw10, True, True
        self._note_estimate(log)
        return True

    def poll(self) -> Poll:
        log = self._drive.sanitize_log()
        state, why = self._judge(log)
        if state is State.RUNNING:
            self._seen_working = True
            return Poll(state=state, fraction=log.fraction, evidence=self._told(log))
        evidence = self._told(log) | ({"reason": why} if why else {})
        return Poll(state=state, fraction=1.0 if state is State.DONE else None, evidence=evidence)

    def complete(self) -> Mapping[str, Any]:
        log = self._drive.sanitize_log()
        state, why = self._judge(log)
        if state is not State.DONE:
            raise DeviceError(f"{self._drive.device}: {why or 'its sanitize goes on'}", code="not_completed")
        return self._told(log) | {"global_data_erased": log.global_data_erased}

    def abandon(self) -> None:
        """Raises DeviceError: still_running, or fenced when the drive keeps its media away for good."""
        log = self._drive.sanitize_log()
        if log.state is Sanitizing.RUNNING:
            raise DeviceError(
                f"{self._drive.device} still sanitizes and cannot be stopped: {log.fraction:.0%}",
                code="still_running",
            )
        if log.state is not Sanitizing.FAILED:
            return
        if not (self._exit_allowed and log.exit_allowed):
            raise _fenced(self._drive.device, "it was not allowed to leave the failure mode")
        command = sanitize_command(Action.EXIT_FAILURE, device=self._drive.device)
        self.commands.append(str(command))
        try:
            # The log goes on telling of the failure: that the command is taken is the drive's word.
            self._drive.order(command)
        except DeviceError as error:
            raise _fenced(self._drive.device, str(error)) from error

    # --- how

    def _send(self, before: SanitizeLog) -> int:
        """Send it, with less asked for where the drive refuses more. CDW10 of what was taken."""
        exit_allowed, may_mark = self._exit_allowed, self._action is not Action.OVERWRITE
        while True:
            command = self._command(exit_allowed=exit_allowed)
            # A log of an earlier sanitize by the very same command could not be told from one of ours.
            marked = may_mark and command.cdw10 == before.cdw10
            if marked:
                command = self._command(exit_allowed=exit_allowed, mark=_MARK)
            self.commands.append(str(command))
            try:
                self._drive.order(command)
            except DeviceError as error:
                if error.code == "refused" and marked:
                    may_mark = False  # a drive that does not ignore what it should
                elif error.code == "refused" and self._no_deallocate:
                    self._no_deallocate = False
                elif error.code == "sanitize_failed" and exit_allowed:
                    # After a failure that may not be left only such a sanitize is taken again.
                    exit_allowed = False
                else:
                    raise
            else:
                return command.cdw10

    def _command(self, *, exit_allowed: bool, mark: int = 0) -> NvmeCommand:
        return sanitize_command(
            self._action,
            exit_allowed=exit_allowed,
            no_deallocate=self._no_deallocate,
            mark=mark,
            device=self._drive.device,
        )

    def _note_estimate(self, log: SanitizeLog) -> None:
        passes = (log.cdw10 >> 4 & 0xF or 16) if self._adopted else 1
        self.estimate = log.estimate(self._action, passes=passes, no_deallocate=self._no_deallocate)

    def _judge(self, log: SanitizeLog) -> tuple[State, str]:
        """What the log says of the operation that was begun, and why if that is not good."""
        if self._cdw10 is None:
            return State.FAILED, "nothing was begun"
        if log.cdw10 != self._cdw10:
            said = f"{log.cdw10:08x}h, sent was {self._cdw10:08x}h"
            return State.FAILED, f"the sanitize log tells of another command: {said}"
        if log.state is Sanitizing.RUNNING:
            return State.RUNNING, ""
        if log.complete:
            if self._before is not None and log.raw == self._before.raw and not self._seen_working:
                return State.FAILED, "the sanitize log is what it was before the command"
            return State.DONE, ""
        if log.state is Sanitizing.FAILED:
            return State.FAILED, "the sanitize failed"
        name = "never sanitized" if log.state is Sanitizing.NEVER else f"reserved state {log.raw[2] & 7}"
        return State.FAILED, f"the sanitize log says: {name}"

    def _told(self, log: SanitizeLog) -> dict[str, Any]:
        return {
            "sanitize_log": log.raw.hex(),
            "state": log.state.name.lower() if log.state is not None else "reserved",
            "seen_working": self._seen_working,
            "adopted": self._adopted,
        }


def nvme_erase(method: Method, drive: NvmeDrive, *, exit_allowed: bool = False) -> NvmeSanitize | NvmeFormat:
    """The method on this drive. KeyError for one that is not an NVMe drive's own."""
    if (ses := _FORMATS.get(method)) is not None:
        return NvmeFormat(drive, ses)
    return NvmeSanitize(drive, _ACTIONS[method], exit_allowed=exit_allowed)


def recover(drive: NvmeDrive) -> Leftover:
    """What the drive was found at. Raises DeviceError when it does not answer.

    SANITIZE_FAILED is what the log says of the last sanitize: a drive that was let out of its failure mode
    says so too.
    """
    try:
        log = drive.sanitize_log()
    except DeviceError as error:
        if error.code != "refused":
            raise
    else:
        kind = {2: "block", 3: "overwrite", 4: "crypto"}.get(log.action, "")
        evidence = {"sanitize_log": log.raw.hex()}
        if log.state is Sanitizing.RUNNING:
            return Leftover(left=Left.SANITIZING, kind=kind, fraction=log.fraction, evidence=evidence)
        if log.state is Sanitizing.FAILED:
            return Leftover(
                left=Left.SANITIZE_FAILED, kind=kind, exit_allowed=log.exit_allowed, evidence=evidence
            )
    return _formatting(drive)


def _formatting(drive: NvmeDrive) -> Leftover:
    for nsid in drive.namespaces():
        namespace = drive.identify_namespace(nsid)
        if namespace.remaining:
            return Leftover(
                left=Left.FORMATTING,
                kind="format",
                fraction=1 - namespace.remaining / 100,
                evidence={"namespace": nsid},
            )
    return Leftover(left=Left.NOTHING)


def under_way(drive: NvmeDrive) -> NvmeSanitize | None:
    """The sanitize that the drive is busy with, taken over as what it is, whoever began it; None if none is.

    A drive without a sanitize log has none.
    """
    try:
        action = drive.sanitize_log().action
    except DeviceError as error:
        if error.code != "refused":
            raise
        return None
    if action not in (Action.BLOCK, Action.OVERWRITE, Action.CRYPTO):
        return None
    erase = NvmeSanitize(drive, Action(action))
    return erase if erase.adopt() else None


def _fenced(device: str, why: str) -> DeviceError:
    return DeviceError(f"{device} is fenced after a failed sanitize: {why}", code="fenced")
