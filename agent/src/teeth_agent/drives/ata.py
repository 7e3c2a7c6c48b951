"""An ATA drive over a SCSI port: commands sent, answers judged, states read.

Works with descriptor sense data, which bring every register, and with fixed format, which cuts some off. What
did not come through is None or "unknown", never a guess.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from teeth_agent.drives import ata_commands as ata
from teeth_agent.drives.ata_commands import AtaCommand, Way, Who
from teeth_agent.drives.ata_identity import AtaIdentity, parse_identity
from teeth_agent.drives.ata_sanitize import SanitizeStatus, read_status, refused_status
from teeth_agent.drives.sense import AtaReturn, Sense, parse_ata_return, parse_sense
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough.scsi import ScsiPort, ScsiReply

# A drive whose motor stands needs this to come up.
_SECONDS = 30.0
_TRIES = 4  # a unit attention or a deferred error is of what was before: the command was not carried out
_GOOD, _CHECK_CONDITION = 0x00, 0x02
_UNIT_ATTENTION, _NO_SENSE, _RECOVERED, _ABORTED = 0x6, 0x0, 0x1, 0xB
_INFORMATION = (0x00, 0x1D)
_UNC, _IDNF = 0x40, 0x10
_SECTOR = 512
_RESULTS_PAGE, _RESULTS_BYTES = 0x16, 512
_28BIT = (1 << 28) - 1
# Where ATA commands may go: a port of the drive's own, or an adapter whose translator (SAT) is a full one.
_DIRECT = frozenset({"sata", "sas", "scsi"})


class AtaRefused(DeviceError):
    """The drive answered and said no. ``registers``: None when they did not come through."""

    code = "ata_refused"

    def __init__(self, message: str, *, registers: AtaReturn | None, sense: Sense | None) -> None:
        super().__init__(message)
        self.registers = registers
        self.sense = sense


@dataclass(frozen=True, slots=True, kw_only=True)
class AtaAnswer:
    """The end of a command that went well. ``registers``: None when they did not come through."""

    registers: AtaReturn | None
    data: bytes


class AtaDrive:
    """One drive at ``name`` (its device node). Every method raises DeviceError: AtaRefused when the drive
    says no, passthrough_failed when no answer came.

    ``commands`` gets each command that changes the drive: in hex, with hdparm's equivalent. A unit behind USB
    is refused here (usb_bridge), whoever asks: bridges have made bricks of drives.
    """

    def __init__(self, port: ScsiPort, *, name: str, transport: str) -> None:
        if transport not in _DIRECT:
            raise DeviceError(
                f"{name}: no ATA commands are sent to a drive behind {transport}", code="usb_bridge"
            )
        self.name = name
        self.commands: list[str] = []
        self._port = port

    # --- what it is

    def identify(self) -> AtaIdentity:
        """IDENTIFY DEVICE, live: security's state is in it. DeviceError(identity_unreadable) for nonsense."""
        return parse_identity(self._run(ata.IDENTIFY, receive=_SECTOR).data)

    def reads(self) -> bool:
        """Whether the medium is open: a running or failed sanitize, or a lock, aborts reads; a bad block does
        not count as closed."""
        try:
            self._run(ata.VERIFY_FIRST)
        except AtaRefused as error:
            return error.registers is not None and bool(error.registers.error & (_UNC | _IDNF))
        return True

    # --- hidden ends

    def native_sectors(self, *, lba48: bool) -> int | None:
        """READ NATIVE MAX ADDRESS + 1; None when the address did not come through whole."""
        answer = self._run(ata.read_native_max(long=lba48)).registers
        if answer is not None and lba48 and answer.lba_high and not answer.whole:
            # Fixed format has 24 bits of the long form, and all 28 of the short one.
            answer, lba48 = self._run(ata.read_native_max(long=False)).registers, False
        if answer is None:
            return None
        if lba48:
            return answer.lba + 1
        last = answer.lba & 0xFFFFFF | (answer.device & 0x0F) << 24
        return None if last >= _28BIT - 1 else last + 1

    def set_max(self, sectors: int, *, lba48: bool, keep: bool) -> None:
        """Move the last address; READ NATIVE MAX ADDRESS goes right before, as the drive asks for."""
        self._run(ata.read_native_max(long=lba48))
        self._run(ata.set_max(sectors - 1, long=lba48, keep=keep))

    def accessible_native_sectors(self) -> int | None:
        """GET NATIVE MAX ADDRESS EXT + 1, of drives with an accessible max address; None as above."""
        answer = self._run(ata.AMA_NATIVE).registers
        return answer.lba + 1 if answer is not None and (answer.whole or not answer.lba_high) else None

    def set_accessible_max(self, sectors: int) -> None:
        self._run(ata.set_accessible_max(sectors - 1))

    def overlay_sectors(self) -> int:
        """What a configuration overlay could free at most. DeviceError(identity_unreadable) for bad data."""
        data = self._run(ata.DCO_IDENTIFY, receive=_SECTOR).data
        if len(data) != _SECTOR or (data[510] == 0xA5 and sum(data) & 0xFF):
            raise DeviceError(
                f"{self.name}: its configuration overlay cannot be read", code="identity_unreadable"
            )
        return int.from_bytes(data[6:14], "little") + 1

    def restore_overlay(self) -> None:
        """DEVICE CONFIGURATION RESTORE; refused while a host protected area is set."""
        self._run(ata.DCO_RESTORE)

    # --- security

    def set_password(self, password: str) -> None:
        self._secure(ata.security_set_password(password))

    def unlock(self, who: Who, password: str) -> None:
        self._secure(ata.security_unlock(who, password))

    def disable_password(self, who: Who, password: str) -> None:
        self._secure(ata.security_disable(who, password))

    def freeze_security(self) -> None:
        self._run(ata.SECURITY_FREEZE)

    def security_erase(self, who: Who, password: str, *, enhanced: bool, timeout: float) -> None:
        """SECURITY ERASE PREPARE and UNIT: returns when the drive has ended, hours later."""
        self._run(ata.SECURITY_PREPARE)
        command, data = ata.security_erase(who, password, enhanced=enhanced)
        # Once only: a unit attention in between would have taken the preparation back anyway.
        self._run(command, send=data, timeout=timeout, tries=1)

    def _secure(self, made: tuple[AtaCommand, bytes]) -> None:
        self._run(made[0], send=made[1])

    # --- sanitize

    def sanitize_status(self, *, clear_failed: bool = False) -> SanitizeStatus:
        """SANITIZE STATUS EXT. A drive whose sanitize failed aborts it: that is read, not raised."""
        try:
            return read_status(self._run(ata.sanitize_status(clear_failed=clear_failed)).registers)
        except AtaRefused as error:
            if error.sense is None or error.sense.key != _ABORTED:
                raise
            return refused_status(error.registers)

    def sanitize(self, make: Callable[..., AtaCommand], *, exit_allowed: bool) -> None:
        """Begin one of ata_commands' ``sanitize_*``. ``exit_allowed``: a failure may be left again, though
        the content is not gone."""
        self._run(make(exit_allowed=exit_allowed), tries=1)

    def sanitize_antifreeze(self) -> None:
        self._run(ata.sanitize_antifreeze())

    # --- the way of a command

    def _run(
        self,
        command: AtaCommand,
        *,
        send: bytes = b"",
        receive: int = 0,
        timeout: float = _SECONDS,
        tries: int = _TRIES,
    ) -> AtaAnswer:
        cdb = command.cdb()
        if command.changes:
            line = f" = hdparm {command.line} {self.name}" if command.line else " (hdparm has none)"
            self.commands.append(f"{command.name} {cdb.hex()}{line}")
        for left in reversed(range(tries)):
            reply = self._port.command(cdb, send=send, receive=receive, timeout=timeout)
            answer = judge(reply, f"{self.name}: {command.name}", retry=left > 0)
            if answer is not None:
                if command.way is Way.IN and len(answer.data) != receive:
                    raise DeviceError(
                        f"{self.name}: {command.name} gave {len(answer.data)} of {receive} bytes",
                        code="passthrough_failed",
                    )
                return self._completed(answer)
        raise AssertionError("the last try answers or raises")

    def _completed(self, answer: AtaAnswer) -> AtaAnswer:
        """What fixed format cut off, from the translator's log of results where it keeps one (SAT-4 12.3)."""
        cut = answer.registers
        if cut is None or cut.whole or not cut.log_index:
            return answer
        reply = self._port.command(_results_cdb(cut.log_index), receive=_RESULTS_BYTES, timeout=_SECONDS)
        if reply.transport or reply.status != _GOOD:
            return answer
        return replace(answer, registers=cut.completed_by(find_result(reply.data, cut.log_index)))


def _results_cdb(index: int) -> bytes:
    """LOG SENSE of the ATA Pass-Through Results page, from the parameter on."""
    code, size = (index - 1).to_bytes(2, "big"), _RESULTS_BYTES.to_bytes(2, "big")
    return bytes((0x4D, 0, 0x40 | _RESULTS_PAGE, 0, 0, *code, *size, 0))


def find_result(page: bytes, index: int) -> AtaReturn | None:
    """The registers that the log of results keeps under ``index``; None for a page that has none."""
    if len(page) < 4 or page[0] & 0x3F != _RESULTS_PAGE:
        return None
    at, end = 4, min(len(page), 4 + int.from_bytes(page[2:4], "big"))
    while at + 4 <= end:
        value = page[at + 4 : at + 4 + page[at + 3]]
        if int.from_bytes(page[at : at + 2], "big") == index - 1:
            return parse_ata_return(value)
        at += 4 + page[at + 3]
    return None


def judge(reply: ScsiReply, what: str, *, retry: bool = False) -> AtaAnswer | None:
    """Whether a pass-through went well. None, only with ``retry``: it was not carried out, to be sent again.

    GOOD, and NO SENSE or RECOVERED ERROR with ATA information, are success; registers that come with it must
    show none of error and fault. Raises AtaRefused, or DeviceError(passthrough_failed) when no answer came.
    """
    if reply.transport:
        raise DeviceError(
            f"{what}: no answer (host status {reply.transport >> 8:#x}, driver {reply.transport & 0xFF:#x})",
            code="passthrough_failed",
        )
    sense = parse_sense(reply.sense)
    if sense.readable and (sense.deferred or sense.key == _UNIT_ATTENTION) and retry:
        return None
    if reply.status not in (_GOOD, _CHECK_CONDITION):
        raise AtaRefused(f"{what}: SCSI status {reply.status:02X}h", registers=None, sense=None)
    registers = sense.ata
    if reply.status == _CHECK_CONDITION and not _benign(sense):
        raise AtaRefused(f"{what} was refused: {_why(sense)}", registers=registers, sense=sense)
    if registers is not None and not registers.good:
        raise AtaRefused(f"{what} failed: {_why(sense)}", registers=registers, sense=sense)
    return AtaAnswer(registers=registers, data=reply.data)


def _benign(sense: Sense) -> bool:
    if not sense.readable or sense.deferred or sense.key not in (_NO_SENSE, _RECOVERED):
        return False
    return (sense.asc, sense.ascq) == _INFORMATION or sense.ata is not None


def _why(sense: Sense) -> str:
    if sense.ata is None:
        return f"sense {sense}"
    return f"status {sense.ata.status:02X}h, error {sense.ata.error:02X}h, sense {sense}"
