"""What an NVMe command and its completion look like, apart from any transport (NVMe base 2.0, 3.3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


class Code(IntEnum):
    """Status codes, type and code in one number: SCT << 8 | SC (base 2.0, 3.3.3.2.1)."""

    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    ID_CONFLICT = 0x003
    DATA_TRANSFER_ERROR = 0x004
    INTERNAL_ERROR = 0x006
    ABORT_REQUESTED = 0x007
    INVALID_NAMESPACE = 0x00B
    SEQUENCE_ERROR = 0x00C
    SGL_LENGTH = 0x00F
    SGL_TYPE = 0x011
    SGL_OFFSET = 0x016
    SANITIZE_FAILED = 0x01C
    SANITIZE_IN_PROGRESS = 0x01D
    WRITE_PROTECTED = 0x020
    INTERRUPTED = 0x021
    LBA_OUT_OF_RANGE = 0x080
    NOT_READY = 0x082
    FORMAT_IN_PROGRESS = 0x084
    TOO_MANY_EVENT_REQUESTS = 0x105
    INVALID_FIRMWARE_SLOT = 0x106
    INVALID_FIRMWARE_IMAGE = 0x107
    INVALID_LOG_PAGE = 0x109
    INVALID_FORMAT = 0x10A
    NOT_SAVEABLE = 0x10D
    NOT_CHANGEABLE = 0x10E
    FIRMWARE_NEEDS_RESET = 0x111
    OVERLAPPING_RANGE = 0x114
    INSUFFICIENT_CAPACITY = 0x115
    NO_NAMESPACE_LEFT = 0x116
    ALREADY_ATTACHED = 0x118
    NOT_ATTACHED = 0x11A
    THIN_PROVISIONING = 0x11B
    CONTROLLER_LIST = 0x11C
    WRITE_FAULT = 0x280
    UNRECOVERED_READ = 0x281
    COMPARE_FAILURE = 0x285


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmeCommand:
    """One command. ``io``: for an I/O queue, whose opcodes are their own. ``data`` is what the host sends;
    ``expected`` how many bytes it is ready to take, None where that is not known."""

    opcode: int
    nsid: int = 0
    cdw10: int = 0
    cdw11: int = 0
    cdw12: int = 0
    cdw13: int = 0
    cdw14: int = 0
    cdw15: int = 0
    data: bytes = b""
    io: bool = False
    expected: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmeReply:
    """A completion: ``status`` is a Code, ``result`` dword 0 of the entry."""

    status: int = 0
    result: int = 0
    data: bytes = b""

    @property
    def good(self) -> bool:
        return self.status == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmeWait:
    """The command is under way until clock time ``until``; then ``finish`` gives the reply or another wait.
    Infinity means never: only a reset or a power cut ends it. NVMe commands do not wait for each other."""

    until: float
    finish: Callable[[], NvmeReply | NvmeWait]


NvmeAnswer = NvmeReply | NvmeWait


class NvmeRefused(Exception):
    """Raised inside a model: the command ends with this status."""

    def __init__(self, status: int, *, result: int = 0) -> None:
        super().__init__(f"status {status:03x}h")
        self.status = status
        self.result = result
