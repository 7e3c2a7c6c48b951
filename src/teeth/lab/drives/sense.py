"""Statuses and sense data: how a SCSI device says what went wrong (SPC-5 4.4, SAM-5 5.3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Status(IntEnum):
    """SAM-5 table 37."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    CONDITION_MET = 0x04
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    TASK_ABORTED = 0x40


class Key(IntEnum):
    """Sense keys, SPC-5 table 49."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    ABORTED_COMMAND = 0xB
    MISCOMPARE = 0xE


@dataclass(frozen=True, slots=True, kw_only=True)
class AtaReturn:
    """The ATA registers after a pass-through command, SAT-4 12.2.2.7."""

    error: int = 0
    status: int = 0x50  # DRDY and the obsolete seek-complete bit, as drives show it
    device: int = 0
    count: int = 0
    lba: int = 0
    extend: bool = False
    # Where the translator's log of results has these registers, plus one (SAT-4 12.3.2); 0 for nowhere.
    log_index: int = 0

    def descriptor(self) -> bytes:
        """The ATA Status Return descriptor (type 09h): registers of the 48-bit form interleaved high, low."""
        lba = self.lba.to_bytes(6, "little")
        high = self.extend
        return bytes(
            (
                *(0x09, 0x0C, int(high), self.error),
                *((self.count >> 8) & 0xFF if high else 0, self.count & 0xFF),
                *(lba[3] if high else 0, lba[0]),
                *(lba[4] if high else 0, lba[1]),
                *(lba[5] if high else 0, lba[2]),
                *(self.device, self.status),
            )
        )

    def information(self) -> bytes:
        """Fixed-format INFORMATION: error, status, device, count (7:0); SAT-4 table 207."""
        return bytes((self.error, self.status, self.device, self.count & 0xFF))

    def specific(self) -> bytes:
        """Fixed-format COMMAND-SPECIFIC INFORMATION: flags of what does not fit, then LBA (23:0)."""
        flags = self.log_index & 0x0F
        flags |= 0x80 if self.extend else 0
        flags |= 0x40 if self.extend and self.count > 0xFF else 0
        flags |= 0x20 if self.extend and self.lba >> 24 else 0
        lba = self.lba.to_bytes(6, "little")
        return bytes((flags, lba[0], lba[1], lba[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sense:
    """One piece of sense data. ``information`` is mostly an LBA; ``progress`` counts to 65536.

    ``field`` is the byte of the CDB (or, with ``in_data``, of the parameter list) that is wrong.
    """

    key: Key
    asc: int = 0
    ascq: int = 0
    information: int | None = None
    progress: int | None = None
    field: int | None = None
    in_data: bool = False
    ata: AtaReturn | None = None

    def fixed(self) -> bytes:
        """18 bytes of fixed format, SPC-5 4.4.3."""
        data = bytearray(18)
        data[0] = 0x70
        data[2] = self.key
        data[7] = 10
        data[12], data[13] = self.asc, self.ascq
        if self.ata is not None:
            data[3:7] = self.ata.information()
            data[8:12] = self.ata.specific()
        elif self.information is not None and self.information <= 0xFFFFFFFF:
            data[0] |= 0x80
            data[3:7] = self.information.to_bytes(4, "big")
        data[15:18] = self._specific()
        return bytes(data)

    def descriptor(self) -> bytes:
        """Descriptor format, SPC-5 4.4.2."""
        parts = b""
        if self.information is not None:
            parts += bytes((0x00, 0x0A, 0x80, 0)) + self.information.to_bytes(8, "big")
        if self.progress is not None or self.field is not None:
            parts += bytes((0x02, 0x06, 0, 0)) + self._specific() + b"\0"
        if self.ata is not None:
            parts += self.ata.descriptor()
        return bytes((0x72, self.key, self.asc, self.ascq, 0, 0, 0, len(parts))) + parts

    def _specific(self) -> bytes:
        """The three sense-key specific bytes: a field pointer or a progress, SPC-5 4.4.2.4."""
        if self.progress is not None:
            return b"\x80" + self.progress.to_bytes(2, "big")
        if self.field is not None:
            return bytes((0x80 if self.in_data else 0xC0,)) + self.field.to_bytes(2, "big")
        return bytes(3)


# What the models say, by SPC-5 annex F.
INVALID_OPCODE = Sense(key=Key.ILLEGAL_REQUEST, asc=0x20)
PARAMETER_LENGTH = Sense(key=Key.ILLEGAL_REQUEST, asc=0x1A)
SEQUENCE_ERROR = Sense(key=Key.ILLEGAL_REQUEST, asc=0x2C)
DATA_PHASE = Sense(key=Key.ABORTED_COMMAND, asc=0x4B)  # data phase error
LUN_NOT_SUPPORTED = Sense(key=Key.ILLEGAL_REQUEST, asc=0x25)
WRITE_PROTECTED = Sense(key=Key.DATA_PROTECT, asc=0x27)
SOFTWARE_PROTECTED = Sense(key=Key.DATA_PROTECT, asc=0x27, ascq=0x02)
SECURITY_CONFLICT = Sense(key=Key.DATA_PROTECT, asc=0x74, ascq=0x79)  # SAT-4: locked ATA device
SANITIZE_FAILED = Sense(key=Key.MEDIUM_ERROR, asc=0x31, ascq=0x03)
FORMAT_FAILED = Sense(key=Key.MEDIUM_ERROR, asc=0x31, ascq=0x01)
FORMAT_CORRUPTED = Sense(key=Key.MEDIUM_ERROR, asc=0x31, ascq=0x00)
STOPPED = Sense(key=Key.NOT_READY, asc=0x04, ascq=0x02)
NOT_PRESENT = Sense(key=Key.NOT_READY, asc=0x3A)
POWER_ON = Sense(key=Key.UNIT_ATTENTION, asc=0x29, ascq=0x01)
BUS_RESET = Sense(key=Key.UNIT_ATTENTION, asc=0x29, ascq=0x02)
LUN_RESET = Sense(key=Key.UNIT_ATTENTION, asc=0x29, ascq=0x03)
MODE_CHANGED = Sense(key=Key.UNIT_ATTENTION, asc=0x2A, ascq=0x01)
CAPACITY_CHANGED = Sense(key=Key.UNIT_ATTENTION, asc=0x2A, ascq=0x09)
RESERVATIONS_PREEMPTED = Sense(key=Key.UNIT_ATTENTION, asc=0x2A, ascq=0x03)
REGISTRATIONS_PREEMPTED = Sense(key=Key.UNIT_ATTENTION, asc=0x2A, ascq=0x05)
RESERVATIONS_RELEASED = Sense(key=Key.UNIT_ATTENTION, asc=0x2A, ascq=0x04)
MICROCODE_CHANGED = Sense(key=Key.UNIT_ATTENTION, asc=0x3F, ascq=0x01)


def invalid_field(byte: int) -> Sense:
    """INVALID FIELD IN CDB, pointing at the byte."""
    return Sense(key=Key.ILLEGAL_REQUEST, asc=0x24, field=byte)


def invalid_parameter(byte: int) -> Sense:
    """INVALID FIELD IN PARAMETER LIST, pointing at the byte."""
    return Sense(key=Key.ILLEGAL_REQUEST, asc=0x26, field=byte, in_data=True)


def out_of_range(lba: int) -> Sense:
    """LOGICAL BLOCK ADDRESS OUT OF RANGE."""
    return Sense(key=Key.ILLEGAL_REQUEST, asc=0x21, information=lba)


def unrecovered_read(lba: int) -> Sense:
    return Sense(key=Key.MEDIUM_ERROR, asc=0x11, information=lba)


def write_error(lba: int) -> Sense:
    return Sense(key=Key.MEDIUM_ERROR, asc=0x0C, information=lba)


def sanitizing(fraction: float) -> Sense:
    """NOT READY, SANITIZE IN PROGRESS."""
    return Sense(key=Key.NOT_READY, asc=0x04, ascq=0x1B, progress=min(65535, int(fraction * 65536)))


def formatting(fraction: float) -> Sense:
    """NOT READY, FORMAT IN PROGRESS."""
    return Sense(key=Key.NOT_READY, asc=0x04, ascq=0x04, progress=min(65535, int(fraction * 65536)))
