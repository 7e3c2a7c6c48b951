"""Drives that lie: each keeps bytes that it says are gone, or says of itself what is not so."""

from __future__ import annotations

from collections.abc import Sequence

from teeth.lab.drives.answer import Command, Reply, check
from teeth.lab.drives.disk import Behaviour, Disk
from teeth.lab.drives.model import DEVICE_ERASES, FORMATS, SANITIZES, SECURITY_ERASES, Method
from teeth.lab.drives.nvmelies import NVME_LIES, without_sanitize
from teeth.lab.drives.sense import INVALID_OPCODE, AtaReturn, Key, Sense
from teeth.lab.drives.spans import Span, within, without
from teeth.lab.drives.submission import Code, NvmeCommand, NvmeReply
from teeth.lab.drives.taskfile import from_cdb

_STUCK = 655 / 65536  # what a drive of a great maker showed for a week
_DISCARDS = frozenset({Method.DEALLOCATE, Method.WRITE_SAME})


class AcceptsAndKeeps(Behaviour):
    """Every erase command succeeds and no block changes."""

    name = "accepts-and-keeps"

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        return [] if method in DEVICE_ERASES else spans


class SanitizeKeeps(Behaviour):
    """Sanitize succeeds and no block changes; the other erases are honest."""

    name = "sanitize-keeps"

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        return [] if method in SANITIZES else spans


class CryptoKeepsKey(Behaviour):
    """Crypto erase succeeds and the key stays the same, so all is readable as before."""

    name = "crypto-keeps-key"

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        return [] if method in (Method.SANITIZE_CRYPTO, Method.FORMAT_CRYPTO) else spans


class SecurityEraseKeeps(Behaviour):
    """ATA security erase takes the password away and no block changes."""

    name = "security-erase-keeps"
    kinds = frozenset({"sata"})

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        return [] if method in SECURITY_ERASES else spans


class FormatKeeps(Behaviour):
    """FORMAT UNIT and Format NVM succeed and no block changes."""

    name = "format-keeps"

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        return [] if method in FORMATS else spans


class EnhancedIsNormal(Behaviour):
    """Enhanced security erase leaves hidden ends and retired blocks, as the normal one does."""

    name = "enhanced-is-normal"
    kinds = frozenset({"sata"})

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        if method is not Method.SECURITY_ERASE_ENHANCED:
            return spans
        return within(spans, 0, disk.accessible)


class ErasesHalf(Behaviour):
    """Every erase clears the first half of the drive, or of each namespace, only."""

    name = "erases-half"

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        if method not in DEVICE_ERASES:
            return spans
        halves = [((first + end) // 2, end) for first, end in disk.regions]
        return _leaving(spans, [*halves, *disk.put_away, (disk.spec.blocks, disk.all_blocks[1])])


class SkipsLastBlock(Behaviour):
    """Every erase leaves the last block the user can reach."""

    name = "skips-last-block"

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        last = [(end - 1, end) for _, end in disk.regions]
        return _leaving(spans, last) if method in DEVICE_ERASES else spans


class SkipsFirstMegabyte(Behaviour):
    """Every erase leaves the first MiB: boot loader and partition table."""

    name = "skips-first-megabyte"

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        first = [(first, min(end, first + (1 << 20) // disk.spec.sector)) for first, end in disk.regions]
        return _leaving(spans, first) if method in DEVICE_ERASES else spans


class SkipsMiddle(Behaviour):
    """Every erase leaves 64 KiB in the middle."""

    name = "skips-middle"

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        length = (64 << 10) // disk.spec.sector
        middles = [((first + end) // 2, (first + end) // 2 + length) for first, end in disk.regions]
        return _leaving(spans, middles) if method in DEVICE_ERASES else spans


class LeavesRemapped(Behaviour):
    """Every erase leaves the retired blocks, which held user data before they were remapped."""

    name = "leaves-remapped"

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        return within(spans, 0, disk.spec.blocks) if method in DEVICE_ERASES else spans


class LeavesHidden(Behaviour):
    """Every erase leaves what the user does not see: behind the last address, or in no attached namespace."""

    name = "leaves-hidden"

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        return _leaving(spans, disk.put_away) if method in DEVICE_ERASES else spans


class ZeroesFromCache(Behaviour):
    """Nothing is erased, but reads give zeros until power goes; then the old content is back."""

    name = "zeroes-from-cache"

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._masked: list[Span] = []

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        self._masked.extend(spans)
        return []

    def stored(self, disk: Disk, lba: int, data: bytes) -> bytes | None:
        # A fresh write shines through.
        self._masked = list(without(self._masked, lba, lba + len(data) // disk.spec.sector))
        return data

    def shown(self, disk: Disk, lba: int, data: bytes) -> bytes:
        return _masked(self._masked, lba, data, disk.spec.sector)

    def power_lost(self, disk: Disk) -> None:
        self._masked.clear()


class ClearsAfterPowerCycle(Behaviour):
    """An erase ends well and reads give the old content; it really happens at the next power-on."""

    name = "clears-after-power-cycle"

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._owed: list[Span] = []

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        if method not in DEVICE_ERASES:
            return spans
        self._owed = list(spans)
        return []

    def power_on(self, disk: Disk) -> None:
        owed, self._owed = self._owed, []
        for span in owed:
            disk.fill(span, b"\0")


class SuccessWhileFailing(Behaviour):
    """Every erase fails half-way and the drive says that it went well."""

    name = "success-while-failing"

    def fails_at(self, disk: Disk, method: Method) -> float | None:
        return 0.5

    def outcome(self, disk: Disk, method: Method, well: bool) -> bool:
        return True


class ProgressStuck(Behaviour):
    """Progress stands at 655 of 65536 until the erase is suddenly done."""

    name = "progress-stuck"

    def progress(self, disk: Disk, fraction: float) -> float:
        return min(fraction, _STUCK)


class NeverEnds(Behaviour):
    """Progress stops at 655 of 65536, and so does the erase: it is in progress for ever."""

    name = "never-ends"

    def progress(self, disk: Disk, fraction: float) -> float:
        return min(fraction, _STUCK)

    def stalls_at(self, disk: Disk, method: Method) -> float | None:
        return _STUCK if method in SANITIZES | FORMATS else None


class ProgressBackwards(Behaviour):
    """Progress counts down: from 90 percent to 10."""

    name = "progress-backwards"

    def progress(self, disk: Disk, fraction: float) -> float:
        return 0.9 - 0.8 * fraction


class ClaimsSanitize(Behaviour):
    """Says that it has Sanitize, and aborts every such command."""

    name = "claims-sanitize"

    def before(self, disk: Disk, command: Command) -> Reply | None:
        registers = from_cdb(command.cdb)
        if command.cdb[0] == 0x48:
            return check(INVALID_OPCODE)
        if registers is None or registers.command != 0xB4 or not registers.features & 0xFF:
            return None
        refusal = AtaReturn(error=0x04, status=0x51, extend=True)
        return check(Sense(key=Key.ABORTED_COMMAND, ata=refusal))

    def before_nvme(self, disk: Disk, command: NvmeCommand) -> NvmeReply | None:
        sanitizes = not command.io and command.opcode == 0x84
        return NvmeReply(status=Code.INTERNAL_ERROR) if sanitizes else None


class HidesSanitize(Behaviour):
    """Has Sanitize and does not say so: IDENTIFY and the operation codes know nothing of it."""

    name = "hides-sanitize"

    def identify(self, disk: Disk, words: list[int]) -> None:
        words[59] &= 0x0FFF & ~0x0C00

    def after(self, disk: Disk, command: Command, reply: Reply) -> Reply:
        if command.cdb[0] != 0xA3 or command.cdb[1] & 0x1F != 0x0C or not reply.good:
            return reply
        return Reply(data=_without_sanitize(reply.data, command.cdb))

    def after_nvme(self, disk: Disk, command: NvmeCommand, reply: NvmeReply) -> NvmeReply:
        return without_sanitize(command, reply)


class LosesPasswordState(Behaviour):
    """IDENTIFY says that no password is set although one is: the next power-on finds the drive locked."""

    name = "loses-password-state"
    kinds = frozenset({"sata"})

    def identify(self, disk: Disk, words: list[int]) -> None:
        words[85] &= ~0x0002
        words[128] &= ~0x0116


class KeepsPassword(Behaviour):
    """A security erase that went well leaves the password in force."""

    name = "keeps-password"
    kinds = frozenset({"sata"})

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._held: str = ""

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        if method in SECURITY_ERASES:
            self._held = disk.state.security.user
        return spans

    def after(self, disk: Disk, command: Command, reply: Reply) -> Reply:
        if self._held and disk.job is None and not disk.state.security.user:
            disk.state.security.user, self._held = self._held, ""
            disk.save()
        return reply


class SaysFrozenNever(Behaviour):
    """Is frozen and says that it is not."""

    name = "hides-freeze"
    kinds = frozenset({"sata"})

    def identify(self, disk: Disk, words: list[int]) -> None:
        words[128] &= ~0x0008


class CapacityMore(Behaviour):
    """Says twice the blocks it has; addresses behind the end wrap round to the beginning."""

    name = "capacity-double"

    def capacity(self, disk: Disk, blocks: int) -> int:
        return blocks * 2

    def wraps(self, disk: Disk) -> int | None:
        return disk.accessible


class CapacityLess(Behaviour):
    """Says half the blocks it has; what lies behind is out of reach and never erased."""

    name = "capacity-half"

    def capacity(self, disk: Disk, blocks: int) -> int:
        return blocks // 2

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        halves = [((first + end) // 2, end) for first, end in disk.regions]
        return _leaving(spans, [*halves, *disk.put_away, (disk.spec.blocks, disk.all_blocks[1])])


class ShrinksWhenErased(Behaviour):
    """After an erase the drive has 1 MiB less, and the end keeps its content."""

    name = "shrinks-when-erased"

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._shrunk = False

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        less = (1 << 20) // disk.spec.sector
        ends = [(max(end - less, first + 1), end) for first, end in disk.regions]
        rest = [*disk.put_away, (disk.spec.blocks, disk.all_blocks[1])]
        return _leaving(spans, [*ends, *rest]) if method in DEVICE_ERASES else spans

    def ended(self, disk: Disk, method: Method) -> None:
        self._shrunk = True

    def capacity(self, disk: Disk, blocks: int) -> int:
        return max(1, blocks - (1 << 20) // disk.spec.sector) if self._shrunk else blocks


class DropsWrites(Behaviour):
    """Every write succeeds and none is kept."""

    name = "drops-writes"

    def stored(self, disk: Disk, lba: int, data: bytes) -> bytes | None:
        return None


class DropsZeroWrites(Behaviour):
    """Writes of zeros are taken for a hint and not kept; all others are."""

    name = "drops-zero-writes"

    def stored(self, disk: Disk, lba: int, data: bytes) -> bytes | None:
        return data if any(data) else None


class FlushIsNothing(Behaviour):
    """FLUSH and SYNCHRONIZE CACHE succeed, and the write cache is lost all the same when power goes."""

    name = "flush-is-nothing"

    def flushes(self, disk: Disk) -> bool:
        return False


class TrimReadsZero(Behaviour):
    """Trimmed blocks read as zeros until power goes, and keep their content."""

    name = "trim-keeps"

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._masked: list[Span] = []

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        if method not in _DISCARDS:
            return spans
        self._masked.extend(spans)
        return []

    def stored(self, disk: Disk, lba: int, data: bytes) -> bytes | None:
        self._masked = list(without(self._masked, lba, lba + len(data) // disk.spec.sector))
        return data

    def shown(self, disk: Disk, lba: int, data: bytes) -> bytes:
        return _masked(self._masked, lba, data, disk.spec.sector)

    def power_lost(self, disk: Disk) -> None:
        self._masked.clear()


class ReadsZero(Behaviour):
    """Erases do nothing, reads give zeros until the first write: only the medium itself shows it."""

    name = "reads-zero"

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self._erased = False

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        if method not in DEVICE_ERASES:
            return spans
        self._erased = True
        return []

    def stored(self, disk: Disk, lba: int, data: bytes) -> bytes | None:
        # The first write shows that there is a medium: from then on reads are true.
        self._erased = False
        return data

    def shown(self, disk: Disk, lba: int, data: bytes) -> bytes:
        return bytes(len(data)) if self._erased else data


def _leaving(spans: Sequence[Span], kept: Sequence[Span]) -> list[Span]:
    """``spans`` without what is kept."""
    left = list(spans)
    for first, end in kept:
        left = without(left, first, end)
    return left


def _masked(spans: Sequence[Span], lba: int, data: bytes, sector: int) -> bytes:
    """Zeros where a span covers, else the data."""
    shown = bytearray(data)
    for start, stop in within(spans, lba, lba + len(data) // sector):
        shown[(start - lba) * sector : (stop - lba) * sector] = bytes((stop - start) * sector)
    return bytes(shown)


def _without_sanitize(data: bytes, cdb: bytes) -> bytes:
    """What REPORT SUPPORTED OPERATION CODES gave, without opcode 48h."""
    if cdb[2] & 0x07:
        return bytes((0, 0x01, 0, 0)) if cdb[3] == 0x48 else data
    size = 20 if cdb[2] & 0x80 else 8
    rows = [data[at : at + size] for at in range(4, len(data), size)]
    kept = b"".join(row for row in rows if row[0] != 0x48)
    return len(kept).to_bytes(4, "big") + kept


LIES: tuple[type[Behaviour], ...] = (
    AcceptsAndKeeps,
    SanitizeKeeps,
    CryptoKeepsKey,
    SecurityEraseKeeps,
    FormatKeeps,
    EnhancedIsNormal,
    ErasesHalf,
    SkipsLastBlock,
    SkipsFirstMegabyte,
    SkipsMiddle,
    LeavesRemapped,
    LeavesHidden,
    ZeroesFromCache,
    ClearsAfterPowerCycle,
    SuccessWhileFailing,
    NeverEnds,
    ProgressStuck,
    ProgressBackwards,
    ClaimsSanitize,
    HidesSanitize,
    LosesPasswordState,
    KeepsPassword,
    SaysFrozenNever,
    CapacityMore,
    CapacityLess,
    ShrinksWhenErased,
    DropsWrites,
    DropsZeroWrites,
    FlushIsNothing,
    TrimReadsZero,
    ReadsZero,
    *NVME_LIES,
)
