"""Drives that fail: at blocks, in answers, in time, in power."""

from __future__ import annotations

import math
from dataclasses import replace

from teeth.errors import UsageError
from teeth.lab.drives.answer import Command, Reply, check
from teeth.lab.drives.disk import Behaviour, Disk
from teeth.lab.drives.model import SANITIZES, SECURITY_ERASES, Method
from teeth.lab.drives.sense import NOT_PRESENT, WRITE_PROTECTED, Key, Sense, Status
from teeth.lab.drives.submission import Code, NvmeCommand, NvmeReply
from teeth.lab.drives.taskfile import from_cdb

_WRITES = frozenset({0x04, 0x0A, 0x2A, 0x2E, 0x41, 0x42, 0x48, 0x89, 0x8A, 0x8E, 0x93, 0xAA})
_ATA_ERASES = frozenset({0xB4, 0xF4})
_DEFAULT_SLOW = 1.0


class MediaError(Behaviour):
    """The blocks given (`media-error:100,200-207`) cannot be read until they are written."""

    name = "media-error"

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._blocks = _ranges(argument, self.name)

    def added(self, disk: Disk) -> None:
        disk.state.bad = sorted({*disk.state.bad, *(lba for lba in self._blocks if lba < disk.spec.blocks)})
        disk.save()

    def removed(self, disk: Disk) -> None:
        disk.state.bad = sorted(set(disk.state.bad) - set(self._blocks))
        disk.save()


class WriteError(Behaviour):
    """The blocks given (`write-error:100-107`) cannot be written, by any number of tries."""

    name = "write-error"

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._blocks = _ranges(argument, self.name)

    def write_fails(self, disk: Disk, lba: int, count: int) -> int | None:
        return next((bad for bad in self._blocks if lba <= bad < lba + count), None)


class Hang(Behaviour):
    """No command is answered any more; a reset or a power cut does not help while the fault is on."""

    name = "hang"

    def delay(self, disk: Disk) -> float:
        return math.inf


class HangOnce(Behaviour):
    """The next command is never answered; a reset ends it and all is well."""

    name = "hang-once"
    lasting = False

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._done = False

    def delay(self, disk: Disk) -> float:
        if self._done:
            return 0.0
        self._done = True
        return math.inf


class Slow(Behaviour):
    """Every command takes so many seconds more (`slow:0.5`, without a number one second)."""

    name = "slow"

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._seconds = _number(argument or f"{_DEFAULT_SLOW}", self.name)

    def delay(self, disk: Disk) -> float:
        return self._seconds


class ReadOnly(Behaviour):
    """Write protected: every write and every erase is refused."""

    name = "read-only"

    def added(self, disk: Disk) -> None:
        disk.read_only = True

    def removed(self, disk: Disk) -> None:
        disk.read_only = False

    def before(self, disk: Disk, command: Command) -> Reply | None:
        task = from_cdb(command.cdb)
        if command.cdb[0] in _WRITES or (task is not None and task.command in _ATA_ERASES):
            return check(WRITE_PROTECTED)
        return None


class Vanished(Behaviour):
    """The drive is gone from its bus; taking the fault back brings it back."""

    name = "vanish"

    def gone(self, disk: Disk) -> bool:
        return True

    def before(self, disk: Disk, command: Command) -> Reply | None:
        return check(NOT_PRESENT)


class BusyAlways(Behaviour):
    """Every command but those that tell of the drive is answered BUSY or, by NVMe, Command Interrupted."""

    name = "busy"

    def before(self, disk: Disk, command: Command) -> Reply | None:
        return None if command.cdb[0] in (0x12, 0xA0) else Reply(status=Status.BUSY)

    def before_nvme(self, disk: Disk, command: NvmeCommand) -> NvmeReply | None:
        return None if _speaks_of_itself(command) else NvmeReply(status=Code.INTERRUPTED)


class HardwareFailure(Behaviour):
    """Every command but those that tell of the drive ends with HARDWARE ERROR or NVMe's Internal Error."""

    name = "hardware-error"

    def before(self, disk: Disk, command: Command) -> Reply | None:
        if command.cdb[0] in (0x03, 0x12, 0xA0):
            return None
        return check(Sense(key=Key.HARDWARE_ERROR, asc=0x44))

    def before_nvme(self, disk: Disk, command: NvmeCommand) -> NvmeReply | None:
        return None if _speaks_of_itself(command) else NvmeReply(status=Code.INTERNAL_ERROR)


class EraseFails(Behaviour):
    """Every device-side erase fails at so many percent (`erase-fails:30`, without a number 50)."""

    name = "erase-fails"

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._at = _number(argument or "50", self.name) / 100
        if not 0 <= self._at <= 1:
            raise UsageError(f"fault {self.name}: {argument} is not 0 to 100 percent")

    def fails_at(self, disk: Disk, method: Method) -> float | None:
        return self._at


class SanitizeFails(EraseFails):
    """Sanitize fails at so many percent (`sanitize-fails:30`), the other erases do not."""

    name = "sanitize-fails"

    def fails_at(self, disk: Disk, method: Method) -> float | None:
        return self._at if method in SANITIZES else None


class SecurityEraseFails(EraseFails):
    """ATA security erase fails at so many percent (`security-erase-fails:30`) and leaves the password."""

    name = "security-erase-fails"
    kinds = frozenset({"sata"})

    def fails_at(self, disk: Disk, method: Method) -> float | None:
        return self._at if method in SECURITY_ERASES else None


class PowerCutAtWrite(Behaviour):
    """At the Nth write from now (`power-cut-at-write:5`) the power goes and comes back; the write is lost."""

    name = "power-cut-at-write"
    lasting = False

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._left = int(_number(argument or "1", self.name))

    def stored(self, disk: Disk, lba: int, data: bytes) -> bytes | None:
        self._left -= 1
        if self._left > 0:
            return data
        disk.cut = True
        return None


class PowerCutAtErase(Behaviour):
    """The power goes and comes back when an erase is at so many percent (`power-cut-at-erase:40`)."""

    name = "power-cut-at-erase"
    lasting = False

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._at = _number(argument or "50", self.name) / 100

    def cut_at(self, disk: Disk, method: Method) -> float | None:
        return self._at


class SmartFailing(Behaviour):
    """SMART says that the drive is about to fail."""

    name = "smart-failing"

    def after(self, disk: Disk, command: Command, reply: Reply) -> Reply:
        task = from_cdb(command.cdb)
        if task is not None and task.command == 0xB0 and task.features & 0xFF == 0xDA:
            return _failing_status(reply)
        if command.cdb[0] == 0x4D and command.cdb[2] & 0x3F == 0x2F and len(reply.data) >= 10:
            # FAILURE PREDICTION THRESHOLD EXCEEDED.
            return Reply(data=reply.data[:8] + b"\x5d\x10" + reply.data[10:])
        return reply

    def after_nvme(self, disk: Disk, command: NvmeCommand, reply: NvmeReply) -> NvmeReply:
        if command.io or command.opcode != 0x02 or command.cdw10 & 0xFF != 0x02 or not reply.good:
            return reply
        # Critical warning: the reliability is degraded (base 2.0, 5.16.1.3).
        return replace(reply, data=bytes((reply.data[0] | 0x04,)) + reply.data[1:])


class DuplicateSerial(Behaviour):
    """Says the serial number of another drive (`duplicate-serial:ABC`)."""

    name = "duplicate-serial"

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        if not 0 < len(argument) <= 20 or not argument.isascii() or not argument.isprintable():
            raise UsageError(f"fault {self.name} needs the serial number, 1 to 20 printable ASCII characters")

    def serial(self, disk: Disk, serial: str) -> str:
        return self.argument


class LosesWriteCache(Behaviour):
    """The write cache is on whatever it is told: each power cut loses what no flush followed."""

    name = "cache-always-on"

    def before(self, disk: Disk, command: Command) -> Reply | None:
        disk.caching = True
        return None

    def before_nvme(self, disk: Disk, command: NvmeCommand) -> NvmeReply | None:
        disk.caching = True
        return None


class CorruptReads(Behaviour):
    """Every read has one flipped bit, and no error tells of it."""

    name = "corrupt-reads"

    def shown(self, disk: Disk, lba: int, data: bytes) -> bytes:
        return bytes((data[0] ^ 0x01,)) + data[1:] if data else data


def _ranges(text: str, name: str) -> list[int]:
    """The block numbers of `1,5-7`; at most 65536 of them."""
    blocks: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()) or int(last or first) < int(first):
            raise UsageError(f"fault {name}: {text!r} is not a list of blocks such as 100,200-207")
        if int(last or first) - int(first) >= 65536:
            raise UsageError(f"fault {name}: {part} is more than 65536 blocks")
        blocks.update(range(int(first), int(last or first) + 1))
    return sorted(blocks)


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:
        raise UsageError(f"fault {name}: {text!r} is not a number from 0 to a million")
    return value


def _speaks_of_itself(command: NvmeCommand) -> bool:
    """What an ailing controller still answers: Identify, log pages, features, event requests, keep alive."""
    return not command.io and command.opcode in (0x02, 0x06, 0x09, 0x0A, 0x0C, 0x18)


def _failing_status(reply: Reply) -> Reply:
    """SMART RETURN STATUS with the registers of a failing drive."""
    sense = reply.sense
    if sense is None or sense.ata is None or sense.ata.error:
        return reply
    return replace(reply, sense=replace(sense, ata=replace(sense.ata, lba=0x2CF4 << 8)))


FAULTS: tuple[type[Behaviour], ...] = (
    MediaError,
    WriteError,
    Hang,
    HangOnce,
    Slow,
    ReadOnly,
    Vanished,
    BusyAlways,
    HardwareFailure,
    EraseFails,
    SanitizeFails,
    SecurityEraseFails,
    PowerCutAtWrite,
    PowerCutAtErase,
    SmartFailing,
    DuplicateSerial,
    LosesWriteCache,
    CorruptReads,
)
