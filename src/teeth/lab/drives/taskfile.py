"""ATA commands and their ends: registers in, registers out (ACS-4 6 and 9)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

ABRT = 0x04
IDNF = 0x10
UNC = 0x40


class Transfer(Enum):
    """Which way a command's data go."""

    NONE = "none"
    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taskfile:
    """One ATA command; ``extend`` when it came in its 48-bit form."""

    command: int
    features: int = 0
    count: int = 0
    lba: int = 0
    device: int = 0
    extend: bool = False


def from_cdb(cdb: bytes) -> Taskfile | None:
    """The registers inside an ATA PASS-THROUGH of 12 or 16 bytes, None for other commands (SAT-4 12.2)."""
    if cdb[0] not in (0x85, 0xA1):
        return None
    if cdb[0] == 0xA1:
        return Taskfile(
            features=cdb[3],
            count=cdb[4],
            lba=cdb[5] | cdb[6] << 8 | cdb[7] << 16 | (cdb[8] & 0x0F) << 24,
            device=cdb[8],
            command=cdb[9],
        )
    low = cdb[8] | cdb[10] << 8 | cdb[12] << 16
    if not cdb[1] & 0x01:
        low |= (cdb[13] & 0x0F) << 24
        return Taskfile(features=cdb[4], count=cdb[6], lba=low, device=cdb[13], command=cdb[14])
    return Taskfile(
        features=cdb[3] << 8 | cdb[4],
        count=cdb[5] << 8 | cdb[6],
        lba=low | cdb[7] << 24 | cdb[9] << 32 | cdb[11] << 40,
        device=cdb[13],
        command=cdb[14],
        extend=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AtaReply:
    """The end of a command: ``error`` is 0 for a good one."""

    data: bytes = b""
    error: int = 0
    count: int = 0
    lba: int = 0
    # Status bits beyond DRDY; ERR comes by itself.
    status: int = 0x50


@dataclass(frozen=True, slots=True, kw_only=True)
class AtaWait:
    """The command is under way until clock time ``until``."""

    until: float
    finish: Callable[[], AtaReply | AtaWait]


AtaAnswer = AtaReply | AtaWait


class AtaError(Exception):
    """Raised inside the model: the command ends with this error register and output."""

    def __init__(self, error: int = ABRT, *, lba: int = 0, count: int = 0) -> None:
        super().__init__(error)
        self.error = error
        self.lba = lba
        self.count = count
