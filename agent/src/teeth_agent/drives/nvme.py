"""An NVMe drive behind its controller's admin queue: what is asked, what is ordered, what a refusal means.

NVM Express Base Specification 2.0. Commands that change the drive are built as values first (NvmeCommand), so
that what is sent can be recorded, and tested without a drive.
"""

from __future__ import annotations

from dataclasses import dataclass

from teeth_agent.drives.nvmedata import (
    FIRMWARE_LOG_SIZE,
    LIST_MAX,
    PAGE,
    Action,
    Controller,
    FirmwareLog,
    Namespace,
    SanitizeLog,
    SecureErase,
    parse_controller,
    parse_firmware_log,
    parse_list,
    parse_namespace,
    parse_sanitize_log,
)
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough.nvme import FORMAT_NVM, NvmePort, NvmeReply

GET_LOG_PAGE, IDENTIFY, NAMESPACE_ATTACHMENT, SANITIZE = 0x02, 0x06, 0x15, 0x84
BROADCAST = 0xFFFFFFFF

_CNS_NAMESPACE, _CNS_CONTROLLER, _CNS_ACTIVE, _CNS_ALLOCATED, _CNS_OF_ALLOCATED = 0x00, 0x01, 0x02, 0x10, 0x11
_LOG_FIRMWARE, _LOG_SANITIZE = 0x03, 0x81
_SANITIZE_LOG_BYTES = 512
# More namespaces than any controller has: a drive that never ends its list must end all the same.
_LISTS_MAX = 16
_QUICK_SECONDS = 30.0
# The answer to Sanitize and to Namespace Attachment comes at once, but a busy drive may be slow to give it.
_ORDER_SECONDS = 120.0

INVALID_OPCODE, INVALID_FIELD, INVALID_NAMESPACE = 0x001, 0x002, 0x00B
SANITIZE_FAILED, SANITIZE_RUNNING, FORMAT_RUNNING = 0x01C, 0x01D, 0x084
INVALID_LOG, ALREADY_ATTACHED = 0x109, 0x118

_WORDS = {
    INVALID_OPCODE: "it has no such command",
    INVALID_FIELD: "a field of the command is invalid",
    0x006: "internal error",
    0x007: "the command was aborted",
    INVALID_NAMESPACE: "no such namespace, or no such format",
    0x00C: "wrong order of commands",
    SANITIZE_FAILED: "a sanitize failed before: only another sanitize gets the drive out of that",
    SANITIZE_RUNNING: "a sanitize is under way",
    0x020: "the namespace is write protected",
    0x021: "the command was interrupted",
    0x082: "the namespace is not ready",
    0x083: "reservation conflict",
    FORMAT_RUNNING: "a format is under way",
    INVALID_LOG: "it has no such log page",
    0x10A: "invalid format",
    0x10B: "its new firmware waits for a reset",
    0x110: "its new firmware waits for a reset of the subsystem",
    0x111: "its new firmware waits for a controller reset",
    ALREADY_ATTACHED: "the namespace is attached already",
    0x119: "the namespace is private to another controller",
    0x11F: "no such controller",
    0x123: "a persistent memory region is enabled",
    0x202: "access denied",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmeCommand:
    """One command as it is sent, and how nvme-cli would be told to send it."""

    opcode: int
    nsid: int = 0
    cdw10: int = 0
    cdw11: int = 0
    send: bytes = b""
    equivalent: str = ""

    def __str__(self) -> str:
        """For the record, as in "admin 84h nsid=0 cdw10=00000002h cdw11=00000000h: nvme sanitize ..."."""
        words = (
            f"admin {self.opcode:02x}h nsid={self.nsid:x}h cdw10={self.cdw10:08x}h cdw11={self.cdw11:08x}h"
        )
        return f"{words}: {self.equivalent}" if self.equivalent else words


def sanitize_command(
    action: Action,
    *,
    exit_allowed: bool = False,
    passes: int = 1,
    pattern: int = 0,
    no_deallocate: bool = False,
    mark: int = 0,
    device: str = "/dev/nvme0",
) -> NvmeCommand:
    """Sanitize (5.24). ``exit_allowed`` is AUSE: after a failure the drive may be used again unsanitized.

    ``passes`` (1 to 16) and ``pattern`` (32 bits) are for overwriting only. Other actions ignore the field of
    the passes: a ``mark`` (0 to 15) there tells this command from others in the log. ValueError for what is
    no command.
    """
    action = Action(action)
    if not 1 <= passes <= 16 or not 0 <= pattern <= 0xFFFFFFFF or not 0 <= mark <= 15:
        raise ValueError(f"{passes} passes of {pattern:#x} cannot be asked for")
    cdw10, cdw11, words = int(action), 0, ["nvme", "sanitize", device, f"--sanact={int(action)}"]
    if action is not Action.EXIT_FAILURE:
        if exit_allowed:
            cdw10 |= 0x8
            words.append("--ause")
        if no_deallocate:
            cdw10 |= 0x200
            words.append("--no-dealloc")
    if mark and action in (Action.BLOCK, Action.CRYPTO):
        cdw10 |= mark << 4
        words.append(f"--owpass={mark}")
    if action is Action.OVERWRITE:
        cdw10 |= (passes & 0xF) << 4  # 0 means sixteen
        cdw11 = pattern
        words += [f"--owpass={passes & 0xF}", f"--ovrpat={pattern:#x}"]
    return NvmeCommand(opcode=SANITIZE, cdw10=cdw10, cdw11=cdw11, equivalent=" ".join(words))


def format_command(
    namespace: Namespace, ses: SecureErase, *, nsid: int | None = None, device: str = "/dev/nvme0"
) -> NvmeCommand:
    """Format NVM (5.14) with secure erase, keeping the namespace's block size, metadata and protection.

    ``nsid``: where the command goes, if not to the namespace itself. ValueError for a ``ses`` that does not
    erase: 0 is none of SecureErase, and there is no other way to make this command.
    """
    ses = SecureErase(ses)
    target = namespace.nsid if nsid is None else nsid
    # LBAFL, MSET, PI, PIL, SES, LBAFU.
    cdw10 = namespace.lbaf & 0xF | int(namespace.metadata_inline) << 4 | namespace.protection << 5
    cdw10 |= int(namespace.protection_first) << 8 | int(ses) << 9 | (namespace.lbaf >> 4 & 0x3) << 12
    words = (
        f"nvme format {device} --namespace-id={target:#x} --ses={int(ses)} --lbaf={namespace.lbaf}"
        f" --ms={int(namespace.metadata_inline)} --pi={namespace.protection}"
        f" --pil={int(namespace.protection_first)} --force"
    )
    return NvmeCommand(opcode=FORMAT_NVM, nsid=target, cdw10=cdw10, equivalent=words)


def attachment_command(
    nsid: int, controller: int, *, attach: bool, device: str = "/dev/nvme0"
) -> NvmeCommand:
    """Namespace Attachment (5.22) of one namespace to or from one controller, by its CNTLID."""
    word = "attach-ns" if attach else "detach-ns"
    return NvmeCommand(
        opcode=NAMESPACE_ATTACHMENT,
        nsid=nsid,
        cdw10=0 if attach else 1,
        send=((1).to_bytes(2, "little") + controller.to_bytes(2, "little")).ljust(PAGE, b"\0"),
        equivalent=f"nvme {word} {device} --namespace-id={nsid:#x} --controllers={controller:#x}",
    )


class NvmeDrive:
    """A drive by one of its controllers. ``device`` names it in messages and equivalent command lines.

    Questions raise DeviceError: refused by the controller, bad_answer for what makes no sense, and what the
    port raises.
    """

    def __init__(self, port: NvmePort, *, device: str = "/dev/nvme0") -> None:
        self.device = device
        self._port = port

    # --- questions

    def identify(self) -> Controller:
        return parse_controller(self._identify(_CNS_CONTROLLER, "Identify Controller"))

    def namespaces(self, *, allocated: bool = False) -> tuple[int, ...]:
        """Ids of the namespaces attached to this controller; with ``allocated`` of all in the subsystem.

        Only a controller that manages namespaces (OACS bit 3) knows the latter: ask that first.
        """
        cns = _CNS_ALLOCATED if allocated else _CNS_ACTIVE
        found: list[int] = []
        for _ in range(_LISTS_MAX):
            last = found[-1] if found else 0
            listed = parse_list(self._identify(cns, "a namespace list", nsid=last))
            if listed and listed[0] <= last:
                raise DeviceError(f"{self.device}: its namespace list starts over", code="bad_answer")
            found += listed
            if len(listed) < LIST_MAX:
                return tuple(found)
        raise DeviceError(f"{self.device} lists more than {len(found)} namespaces", code="bad_answer")

    def identify_namespace(self, nsid: int, *, allocated: bool = False) -> Namespace:
        """One namespace; with ``allocated`` also one that is attached to no controller.

        DeviceError(no_namespace) for one that is not there.
        """
        cns = _CNS_OF_ALLOCATED if allocated else _CNS_NAMESPACE
        data = self._identify(cns, f"Identify of namespace {nsid}", nsid=nsid)
        if not any(data):  # the answer for an id that is not in use (5.17.2.1)
            raise DeviceError(f"{self.device} has no namespace {nsid}", code="no_namespace")
        return parse_namespace(nsid, data)

    def sanitize_log(self) -> SanitizeLog:
        """The sanitize status log. DeviceError(refused) on a drive without it."""
        return parse_sanitize_log(self._log(_LOG_SANITIZE, _SANITIZE_LOG_BYTES, "the sanitize log"))

    def firmware_log(self) -> FirmwareLog:
        return parse_firmware_log(self._log(_LOG_FIRMWARE, FIRMWARE_LOG_SIZE, "the firmware slot log"))

    # --- orders

    def order(self, command: NvmeCommand, *, timeout: float = _ORDER_SECONDS) -> NvmeReply:
        """Send a command that changes the drive. DeviceError when it is not taken: see failure.

        A format returns when it has ended: give it the time it needs.
        """
        reply = self._port.admin(
            command.opcode,
            nsid=command.nsid,
            cdw10=command.cdw10,
            cdw11=command.cdw11,
            send=command.send,
            timeout=timeout,
        )
        if not reply.good:
            raise failure(self.device, f"command {command.opcode:02x}h", reply.status)
        return reply

    def sanitize(
        self,
        action: Action,
        *,
        exit_allowed: bool = False,
        passes: int = 1,
        pattern: int = 0,
        no_deallocate: bool = False,
    ) -> NvmeCommand:
        """Start a sanitize; the drive goes on by itself. What was sent."""
        command = sanitize_command(
            action,
            exit_allowed=exit_allowed,
            passes=passes,
            pattern=pattern,
            no_deallocate=no_deallocate,
            device=self.device,
        )
        self.order(command)
        return command

    def format(self, nsid: int, ses: SecureErase, *, timeout: float) -> NvmeCommand:
        """Erase one namespace by Format NVM, its format kept; blocks until it is done. What was sent."""
        command = format_command(self.identify_namespace(nsid), ses, device=self.device)
        self.order(command, timeout=timeout)
        return command

    def attach(self, nsid: int, controller: int) -> NvmeCommand:
        """Attach a namespace to the controller of that id; one that is attached already is left so."""
        command = attachment_command(nsid, controller, attach=True, device=self.device)
        self._attachment(command, (0, ALREADY_ATTACHED))
        return command

    def detach(self, nsid: int, controller: int) -> NvmeCommand:
        command = attachment_command(nsid, controller, attach=False, device=self.device)
        self._attachment(command, (0,))
        return command

    def _attachment(self, command: NvmeCommand, accepted: tuple[int, ...]) -> None:
        reply = self._port.admin(
            command.opcode, nsid=command.nsid, cdw10=command.cdw10, send=command.send, timeout=_ORDER_SECONDS
        )
        if reply.status not in accepted:
            raise failure(self.device, f"attachment of namespace {command.nsid}", reply.status)

    # --- how questions are asked

    def _identify(self, cns: int, what: str, *, nsid: int = 0) -> bytes:
        reply = self._port.admin(IDENTIFY, nsid=nsid, cdw10=cns, receive=PAGE, timeout=_QUICK_SECONDS)
        return self._answer(reply, what)

    def _log(self, page: int, size: int, what: str) -> bytes:
        # NUMDL counts dwords from zero (5.16.1).
        cdw10 = page | (size // 4 - 1) << 16
        reply = self._port.admin(
            GET_LOG_PAGE, nsid=BROADCAST, cdw10=cdw10, receive=size, timeout=_QUICK_SECONDS
        )
        return self._answer(reply, what)

    def _answer(self, reply: NvmeReply, what: str) -> bytes:
        if not reply.good:
            raise failure(self.device, what, reply.status)
        return reply.data


def failure(device: str, what: str, status: int) -> DeviceError:
    """A refusal in words. Code: sanitize_failed, sanitize_running, format_running, read_only or refused."""
    code = {
        SANITIZE_FAILED: "sanitize_failed",
        SANITIZE_RUNNING: "sanitize_running",
        FORMAT_RUNNING: "format_running",
        0x020: "read_only",
    }.get(status, "refused")
    words = _WORDS.get(status, "no reason known")
    said = f"{device}: {what} refused: {words} (status type {status >> 8}, code {status & 0xFF:02x}h)"
    return DeviceError(said, code=code)
