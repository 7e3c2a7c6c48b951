"""A SCSI logical unit behind a port: what is asked, what is ordered, and what its sense data mean.

SPC-5 and SBC-4. Commands that change the unit are built as values first (ScsiCommand), so that what is sent
can be recorded, and tested without a unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from teeth_agent.drives.scsidata import (
    BlockLimits,
    Capacity,
    Characteristics,
    Designator,
    Inquiry,
    Provisioning,
    Support,
    page_body,
    parse_block_limits,
    parse_capacity,
    parse_characteristics,
    parse_defects,
    parse_designators,
    parse_inquiry,
    parse_keys,
    parse_provisioning,
    parse_support,
    parse_write_protected,
)
from teeth_agent.drives.sense import Sense, parse_sense
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough.scsi import ScsiPort, ScsiReply

SANITIZE, FORMAT_UNIT = 0x48, 0x04

_GOOD, _CHECK, _CONFLICT = 0x00, 0x02, 0x18
_RECOVERED, _NOT_READY, _ILLEGAL, _ATTENTION, _PROTECT = 0x1, 0x2, 0x5, 0x6, 0x7
# Unit attentions wait one behind the other, one for each thing that happened; more than these is a fault.
_ATTENTIONS = 8
_QUICK_SECONDS = 20.0
# With IMMED the answer comes at once, but a disk that must spin up first takes its time.
_ORDER_SECONDS = 120.0
_KEYS_BYTES = 4096

_SANITIZING, _FORMATTING = (0x04, 0x1B), (0x04, 0x04)
_SANITIZE_FAILED = (0x31, 0x03)
_FORMAT_FAILED = frozenset({(0x31, 0x00), (0x31, 0x01)})


class Action(IntEnum):
    """Service actions of SANITIZE (SBC-4 5.30)."""

    OVERWRITE = 0x01
    BLOCK = 0x02
    CRYPTO = 0x03
    EXIT_FAILURE = 0x1F


_OPTIONS = {
    Action.OVERWRITE: "--overwrite",
    Action.BLOCK: "--block",
    Action.CRYPTO: "--crypto",
    Action.EXIT_FAILURE: "--fail",
}


class Condition(Enum):
    """What keeps a unit from its medium, by its sense data."""

    READY = "ready"
    SANITIZING = "sanitizing"
    FORMATTING = "formatting"
    SANITIZE_FAILED = "sanitize_failed"
    FORMAT_FAILED = "format_failed"
    NOT_READY = "not_ready"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A unit's condition and what said so. ``fraction``: of a running erase, None where it is not told."""

    condition: Condition
    fraction: float | None
    sense: bytes
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScsiCommand:
    """One command as it is sent, and how sg3-utils would be told to send it."""

    cdb: bytes
    send: bytes = b""
    equivalent: str = ""

    def __str__(self) -> str:
        """For the record, as in "cdb 48 82 00 ...: sg_sanitize ..."; what is sent stands in brackets."""
        words = f"cdb {self.cdb.hex(' ')}" + (f" [{self.send.hex(' ')}]" if self.send else "")
        return f"{words}: {self.equivalent}" if self.equivalent else words


def sanitize_command(
    action: Action, *, exit_allowed: bool = False, pattern: bytes = bytes(4), device: str = "/dev/sda"
) -> ScsiCommand:
    """SANITIZE with IMMED. ``exit_allowed`` is AUSE; an overwrite makes one pass of ``pattern``."""
    action = Action(action)
    first = int(action) | 0x80
    words = ["sg_sanitize", _OPTIONS[action]]
    send = b""
    if action is Action.EXIT_FAILURE:
        first = int(action)
    elif exit_allowed:
        first |= 0x20
        words.append("--ause")
    if action is Action.OVERWRITE:
        if not 1 <= len(pattern) <= 4096:
            raise ValueError(f"a pattern of {len(pattern)} bytes cannot be asked for")
        # INVERT and TEST clear, OVERWRITE COUNT 1; the pattern's length (table 98).
        send = bytes((0x01, 0)) + len(pattern).to_bytes(2, "big") + pattern
        words += ["--count=1", "--zero" if not any(pattern) else "--pattern=FILE", f"--ipl={len(pattern)}"]
    cdb = bytes((SANITIZE, first, 0, 0, 0, 0, 0)) + len(send).to_bytes(2, "big") + b"\0"
    # Leaving the failure mode takes no time; without IMMED the answer is the outcome.
    patience = "--wait" if action is Action.EXIT_FAILURE else "--early"
    return ScsiCommand(cdb=cdb, send=send, equivalent=" ".join([*words, "--quick", patience, device]))


def format_command(protection_type: int, *, device: str = "/dev/sda") -> ScsiCommand:
    """FORMAT UNIT with IMMED that keeps block size and protection information (SBC-4 5.4, table 45).

    ``protection_type`` is what READ CAPACITY says, 0 to 3.
    """
    information, usage = {0: (0, 0), 1: (2, 0), 2: (3, 0), 3: (3, 1)}[protection_type]
    # FMTDATA without CMPLST: blocks that were retired stay so. Then the short parameter list header:
    # PROTECTION FIELD USAGE, IMMED, no defect list.
    cdb = bytes((FORMAT_UNIT, information << 6 | 0x10, 0, 0, 0, 0))
    words = ["sg_format", "--format", f"--fmtpinfo={information}", f"--pfu={usage}", "--cmplst=0"]
    words += ["--quick", "--early", device]
    return ScsiCommand(cdb=cdb, send=bytes((usage, 0x02, 0, 0)), equivalent=" ".join(words))


class ScsiDrive:
    """A logical unit. ``device`` names it in messages and equivalent command lines.

    Questions raise DeviceError: refused or failed by the unit, reserved by another initiator, bad_answer for
    what makes no sense, no_answer when a command did not arrive, and what the port raises.
    """

    def __init__(self, port: ScsiPort, *, device: str = "/dev/sda") -> None:
        self.device = device
        self._port = port

    # --- questions

    def inquiry(self) -> Inquiry:
        return parse_inquiry(self._ask(bytes((0x12, 0, 0, 0, 96, 0)), 96, "INQUIRY"))

    def vpd(self, page: int) -> bytes:
        """A vital product data page without its header; DeviceError(refused) for one that is not there."""
        cdb = bytes((0x12, 1, page)) + (1024).to_bytes(2, "big") + b"\0"
        return page_body(page, self._ask(cdb, 1024, f"page {page:02x}h"))

    def pages(self) -> frozenset[int]:
        """The vital product data pages that it has."""
        return frozenset(self.vpd(0x00))

    def serial(self) -> str:
        return self.vpd(0x80).decode("ascii", "replace").replace("\0", " ").strip()

    def designators(self) -> tuple[Designator, ...]:
        return parse_designators(self.vpd(0x83))

    def block_limits(self) -> BlockLimits:
        return parse_block_limits(self.vpd(0xB0))

    def characteristics(self) -> Characteristics:
        return parse_characteristics(self.vpd(0xB1))

    def provisioning(self) -> Provisioning:
        return parse_provisioning(self.vpd(0xB2))

    def capacity(self) -> Capacity:
        cdb = bytes((0x9E, 0x10)) + bytes(8) + (32).to_bytes(4, "big") + bytes(2)
        return parse_capacity(self._ask(cdb, 32, "READ CAPACITY(16)"))

    def supports(self, opcode: int, service: int | None = None) -> Support:
        """Whether it has a command, by REPORT SUPPORTED OPERATION CODES; never raises for a refusal."""
        # RCTD asks for timeouts; reporting option 1 is for opcodes without service actions, 2 for others.
        options = 0x80 | (0x01 if service is None else 0x02)
        cdb = bytes((0xA3, 0x0C, options, opcode)) + (service or 0).to_bytes(2, "big")
        cdb += (256).to_bytes(4, "big") + bytes(2)
        try:
            return parse_support(self._ask(cdb, 256, "REPORT SUPPORTED OPERATION CODES"))
        except DeviceError as error:
            if error.code not in ("refused", "bad_answer"):
                raise
            return Support(supported=None)

    def write_protected(self) -> bool:
        """WP of the mode parameter header."""
        try:
            data = self._ask(bytes((0x1A, 0x08, 0x3F, 0, 192, 0)), 192, "MODE SENSE(6)")
            return parse_write_protected(data, long=False)
        except DeviceError as error:
            if error.code != "refused":
                raise
        data = self._ask(bytes((0x5A, 0x08, 0x3F, 0, 0, 0, 0, 1, 0, 0)), 256, "MODE SENSE(10)")
        return parse_write_protected(data, long=True)

    def grown_defects(self) -> int | None:
        """Entries of the grown defect list, None where the unit does not tell."""
        for cdb, head in (
            (bytes((0xB7, 0x08, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0)), 8),
            (bytes((0x37, 0, 0x08, 0, 0, 0, 0, 0, 4, 0)), 4),
        ):
            reply = self._patiently(cdb, head)
            sense = parse_sense(reply.sense)
            # DEFECT LIST NOT FOUND as a recovered error comes with a list in another format.
            usable = reply.status == _GOOD or (reply.status == _CHECK and sense.key in (0, _RECOVERED))
            if usable and reply.transport == 0 and len(reply.data) >= head:
                return parse_defects(reply.data, long=head == 8)
        return None

    def reservation_keys(self) -> tuple[int, ...]:
        """Keys that initiators have registered (READ KEYS); none where the unit knows no reservations."""
        cdb = bytes((0x5E, 0, 0, 0, 0, 0, 0)) + _KEYS_BYTES.to_bytes(2, "big") + b"\0"
        try:
            return parse_keys(self._ask(cdb, _KEYS_BYTES, "READ KEYS"))
        except DeviceError as error:
            if error.code != "refused":
                raise
            return ()

    def request_sense(self) -> Sense:
        """REQUEST SENSE: of a unit at work its progress, else mostly nothing."""
        return parse_sense(self._request_sense())

    def test_unit_ready(self) -> Sense | None:
        """None when the medium can be had, else why not."""
        reply = self._patiently(bytes(6), 0)
        return None if reply.status == _GOOD and not reply.transport else parse_sense(reply.sense)

    def standing(self) -> Standing:
        """What state the unit is in: REQUEST SENSE for work under way, then TEST UNIT READY for the rest.

        Raises DeviceError(no_answer) when neither arrived: that says nothing about the medium.
        """
        raw = self._request_sense()
        sense = parse_sense(raw)
        found = judge(sense)
        if found is None or found is Condition.NOT_READY:
            # Nothing of note: only a command to the medium tells that it can be had.
            reply = self._patiently(bytes(6), 0)
            if reply.transport:
                raise self._failure(reply, "TEST UNIT READY")
            raw, sense = reply.sense, parse_sense(reply.sense)
            found = Condition.READY if reply.status == _GOOD else judge(sense) or Condition.BROKEN
            if reply.status not in (_GOOD, _CHECK):
                # Busy, or reserved by another initiator.
                return Standing(
                    condition=Condition.NOT_READY,
                    fraction=None,
                    sense=raw,
                    words=f"status {reply.status:02x}h",
                )
        words = "ready" if found is Condition.READY else str(sense)
        return Standing(condition=found, fraction=sense.progress, sense=raw, words=words)

    # --- orders

    def order(self, command: ScsiCommand, *, timeout: float = _ORDER_SECONDS) -> None:
        """Send a command that changes the unit. Raises DeviceError when it is not carried out."""
        reply = self._patiently(command.cdb, 0, send=command.send, timeout=timeout)
        if reply.status != _GOOD or reply.transport:
            raise self._failure(reply, f"command {command.cdb[0]:02x}h")

    def sanitize(
        self, action: Action, *, exit_allowed: bool = False, pattern: bytes = bytes(4)
    ) -> ScsiCommand:
        """Start a sanitize, or leave its failure mode; the unit goes on by itself. What was sent."""
        command = sanitize_command(action, exit_allowed=exit_allowed, pattern=pattern, device=self.device)
        self.order(command)
        return command

    def format_unit(self) -> ScsiCommand:
        """Start a format that keeps block size and protection; the unit goes on by itself. What was sent.

        The protection type is asked for first: DeviceError if the unit does not tell it.
        """
        command = self.format_order()
        self.order(command)
        return command

    def format_order(self) -> ScsiCommand:
        """The format that keeps what the unit is now, not yet sent."""
        return format_command(self._protection(), device=self.device)

    def _protection(self) -> int:
        try:
            kind = self.capacity().protection_type
        except DeviceError as error:
            # After a failed format there may be no capacity; what has no protection has none to keep.
            if error.code != "format_failed" or self.inquiry().protection:
                raise
            return 0
        if kind > 3:
            raise DeviceError(f"{self.device}: protection type {kind} is not known", code="bad_answer")
        return kind

    # --- how questions are asked

    def _request_sense(self) -> bytes:
        reply = self._port.command(bytes((0x03, 0, 0, 0, 252, 0)), receive=252, timeout=_QUICK_SECONDS)
        if reply.status != _GOOD or reply.transport:
            raise self._failure(reply, "REQUEST SENSE")
        return reply.data

    def _ask(self, cdb: bytes, receive: int, what: str) -> bytes:
        reply = self._patiently(cdb, receive)
        if reply.status != _GOOD or reply.transport:
            raise self._failure(reply, what)
        return reply.data

    def _patiently(
        self, cdb: bytes, receive: int, *, send: bytes = b"", timeout: float = _QUICK_SECONDS
    ) -> ScsiReply:
        """Send it again while a unit attention answers it: then it was not carried out (SAM-5 5.14)."""
        for _ in range(_ATTENTIONS):
            reply = self._port.command(cdb, send=send, receive=receive, timeout=timeout)
            if reply.status != _CHECK or reply.transport:
                break
            sense = parse_sense(reply.sense)
            if not sense.readable or sense.deferred or sense.key != _ATTENTION:
                break
        return reply

    def _failure(self, reply: ScsiReply, what: str) -> DeviceError:
        """How a command ended that did not end well, as an error."""
        if reply.transport:
            words, code = f"did not arrive (transport status {reply.transport:04x}h)", "no_answer"
        elif reply.status == _CONFLICT:
            words, code = "another initiator holds a reservation", "reserved"
        elif reply.status != _CHECK:
            words, code = f"status {reply.status:02x}h", "device_busy"
        else:
            sense = parse_sense(reply.sense)
            code = _CODES.get(judge(sense) or Condition.BROKEN, "device_failed")
            if sense.key == _ILLEGAL:
                code = "refused"
            elif sense.key == _PROTECT:
                code = "read_only"
            words = f"sense {sense}"
        return DeviceError(f"{self.device}: {what}: {words}", code=code)


_CODES = {
    Condition.SANITIZING: "sanitize_running",
    Condition.FORMATTING: "format_running",
    Condition.SANITIZE_FAILED: "sanitize_failed",
    Condition.FORMAT_FAILED: "format_failed",
    Condition.NOT_READY: "not_ready",
}


def judge(sense: Sense) -> Condition | None:
    """What sense data tell of the medium; None when they tell of something else (SBC-4 4.11, 4.35)."""
    if not sense.readable:
        return None
    pair = (sense.asc, sense.ascq)
    # A deferred error is of an earlier command, but the failure of an erase is a state, whoever is told.
    if pair == _SANITIZE_FAILED:
        return Condition.SANITIZE_FAILED
    if pair in _FORMAT_FAILED:
        return Condition.FORMAT_FAILED
    if sense.key == _NOT_READY:
        return {_SANITIZING: Condition.SANITIZING, _FORMATTING: Condition.FORMATTING}.get(
            pair, Condition.NOT_READY
        )
    if sense.key in (0, _RECOVERED, _ILLEGAL, _ATTENTION):
        # Some units tell of work under way without calling themselves not ready (SPC-5 6.39).
        return {_SANITIZING: Condition.SANITIZING, _FORMATTING: Condition.FORMATTING}.get(pair)
    return Condition.BROKEN
