"""What is the same behind SCSI, ATA and NVMe: blocks, write cache, long operations, power."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from teeth.lab.drives.answer import Command, Refused, Reply
from teeth.lab.drives.media import Media, fill
from teeth.lab.drives.model import DriveSpec, Method, State, StateStore
from teeth.lab.drives.sense import (
    SOFTWARE_PROTECTED,
    WRITE_PROTECTED,
    out_of_range,
    unrecovered_read,
    write_error,
)
from teeth.lab.drives.spans import Span
from teeth.lab.drives.submission import NvmeCommand, NvmeReply

_CACHE_BYTES = 8 << 20  # a small drive's write cache
_NOISE = 1 << 20
_ROUNDING = 1e-9


class Behaviour:
    """Honest and sound at every place; a lie or a fault overrides the places it is about.

    ``argument`` is what stood behind the colon of its name. Behaviours are asked in the order they were
    added, each given what the one before made of it.
    """

    name = ""
    # Whether the behaviour is still there after a power cut.
    lasting = True
    # The kinds of drives that it means something to.
    kinds = frozenset({"scsi", "sata", "nvme"})

    def __init__(self, argument: str = "") -> None:
        self.argument = argument

    def added(self, disk: Disk) -> None:
        """It begins."""

    def removed(self, disk: Disk) -> None:
        """It ends: what it changed outside itself is undone."""

    def delay(self, disk: Disk) -> float:
        """Seconds before a command is looked at; infinite for never."""
        return 0.0

    def gone(self, disk: Disk) -> bool:
        """Whether the drive is not there: connections to it end, new ones are refused."""
        return False

    def admits(self, disk: Disk) -> bool:
        """Whether an NVMe drive that is being sanitized carries commands out all the same."""
        return False

    def before(self, disk: Disk, command: Command) -> Reply | None:
        """A reply given instead of carrying the command out."""
        return None

    def after(self, disk: Disk, command: Command, reply: Reply) -> Reply:
        """The reply that is given for the true one."""
        return reply

    def before_nvme(self, disk: Disk, command: NvmeCommand) -> NvmeReply | None:
        """As ``before``, of an NVMe drive."""
        return None

    def after_nvme(self, disk: Disk, command: NvmeCommand, reply: NvmeReply) -> NvmeReply:
        """As ``after``, of an NVMe drive."""
        return reply

    def shown(self, disk: Disk, lba: int, data: bytes) -> bytes:
        """What a read gives for the true content."""
        return data

    def stored(self, disk: Disk, lba: int, data: bytes) -> bytes | None:
        """What a write puts on the medium, None for nothing at all."""
        return data

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        """Which blocks an erase really clears."""
        return spans

    def progress(self, disk: Disk, fraction: float) -> float:
        """What it says of how far an erase is."""
        return fraction

    def fails_at(self, disk: Disk, method: Method) -> float | None:
        """The fraction at which a device-side erase fails, None for not."""
        return None

    def stalls_at(self, disk: Disk, method: Method) -> float | None:
        """The fraction at which a device-side erase stops for ever without ending, None for not."""
        return None

    def outcome(self, disk: Disk, method: Method, well: bool) -> bool:
        """Whether a device-side erase that has ended is said to have gone well."""
        return well

    def ended(self, disk: Disk, method: Method) -> None:
        """A device-side erase has ended, and is said to have gone well."""

    def flushes(self, disk: Disk) -> bool:
        """Whether a flush writes what is in the cache."""
        return True

    def wraps(self, disk: Disk) -> int | None:
        """The number of blocks at which addresses begin anew, None for not."""
        return None

    def capacity(self, disk: Disk, blocks: int) -> int:
        """The number of blocks it says it has."""
        return blocks

    def identify(self, disk: Disk, words: list[int]) -> None:
        """IDENTIFY DEVICE data, to be changed in place."""

    def write_fails(self, disk: Disk, lba: int, count: int) -> int | None:
        """The first block of a write that fails for good, None for none."""
        return None

    def cut_at(self, disk: Disk, method: Method) -> float | None:
        """The fraction of a device-side erase at which the power goes and comes back, None for not."""
        return None

    def serial(self, disk: Disk, serial: str) -> str:
        """The serial number it says."""
        return serial

    def power_lost(self, disk: Disk) -> None:
        """Power went."""

    def power_on(self, disk: Disk) -> None:
        """Power came back."""


@dataclass(slots=True, kw_only=True)
class Job:
    """A device-side erase under way. ``done`` is the fraction reached at clock time ``since``.

    ``pattern`` None leaves noise: what a drive reads with a key it no longer has.
    """

    method: Method
    spans: list[Span]
    pattern: bytes | None
    seconds: float
    since: float
    ended: Callable[[bool], None]
    done: float = 0.0
    cleared: int = 0
    fails_at: float | None = None
    stalls_at: float | None = None
    cut_at: float | None = None

    @property
    def until(self) -> float:
        """When it ends, one way or the other."""
        end = min(self.fails_at or 1.0, self.cut_at or 1.0)
        if self.stalls_at is not None and self.stalls_at < end:
            return math.inf
        return self.since + max(0.0, end - self.done) * self.seconds


def _first(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)


class WriteCache:
    """What the medium held before writes that no flush has followed: a power cut brings it back.

    Bounded like a real cache: what no longer fits counts as written.
    """

    def __init__(self, media: Media) -> None:
        self._media = media
        self._undo: list[tuple[int, bytes]] = []
        self._bytes = 0

    def remember(self, offset: int, length: int) -> None:
        self._undo.append((offset, self._media.read(offset, length)))
        self._bytes += length
        while self._bytes > _CACHE_BYTES:
            self._bytes -= len(self._undo.pop(0)[1])

    def flush(self) -> None:
        self._undo.clear()
        self._bytes = 0

    def lose(self) -> None:
        while self._undo:
            self._media.write(*self._undo.pop())
        self._bytes = 0


class Disk:
    """Blocks with faults and lies between them and the commands. Errors are raised as Refused."""

    def __init__(self, spec: DriveSpec, media: Media, store: StateStore, clock: Callable[[], float]) -> None:
        self.spec = spec
        self.media = media
        self.clock = clock
        self.state: State = store.load(spec)
        self.behaviours: list[Behaviour] = []
        self.job: Job | None = None
        self.powered = True
        self.read_only = False
        # Software write protection of the control mode page.
        self.protected = False
        # Set by a fault: power has to go and come back before anything else happens.
        self.cut = False
        self.caching = spec.write_cache
        self._store = store
        self._cache = WriteCache(media)
        self._volatile_max: int | None = None

    # --- size

    @property
    def blocks(self) -> int:
        """What the user can reach, as the drive says it."""
        count = self.accessible
        for behaviour in self.behaviours:
            count = behaviour.capacity(self, count)
        return count

    @property
    def accessible(self) -> int:
        return self.state.accessible if self._volatile_max is None else self._volatile_max

    def set_accessible(self, blocks: int, *, volatile: bool) -> None:
        """Move the end of what the user can reach."""
        self._volatile_max = blocks if volatile else None
        if not volatile:
            self.state.accessible = blocks
            self.save()

    @property
    def all_blocks(self) -> Span:
        """Native and retired blocks: all that ever held user data."""
        return 0, self.spec.blocks + self.spec.spares

    @property
    def regions(self) -> list[Span]:
        """Runs of the medium that users see as one range each, from its first address to its last."""
        return [(0, self.accessible)]

    @property
    def put_away(self) -> list[Span]:
        """Runs that hold user data and that no user sees until somebody changes the drive's shape."""
        return [(self.accessible, self.spec.blocks)]

    @property
    def gone(self) -> bool:
        """Whether a fault took the drive away."""
        return any(behaviour.gone(self) for behaviour in self.behaviours)

    @property
    def serial(self) -> str:
        """The serial number it says."""
        text = self.spec.serial
        for behaviour in self.behaviours:
            text = behaviour.serial(self, text)
        return text

    def add(self, behaviour: Behaviour) -> None:
        """Let a lie or a fault begin; one of the same name goes first."""
        self.remove(behaviour.name)
        self.behaviours.append(behaviour)
        behaviour.added(self)

    def remove(self, name: str) -> bool:
        """End a lie or a fault; whether there was one of that name."""
        found = [behaviour for behaviour in self.behaviours if behaviour.name == name]
        for behaviour in found:
            self.behaviours.remove(behaviour)
            behaviour.removed(self)
        return bool(found)

    # --- blocks

    def check_range(self, lba: int, count: int) -> None:
        if lba + count > self.blocks:
            raise Refused(out_of_range(max(lba, self.blocks)))

    def check_writable(self) -> None:
        if self.read_only:
            raise Refused(WRITE_PROTECTED)
        if self.protected:
            raise Refused(SOFTWARE_PROTECTED)

    def read(self, lba: int, count: int) -> bytes:
        self.check_range(lba, count)
        if self.state.bad and (hit := self._bad(lba, count)) is not None:
            raise Refused(unrecovered_read(hit))
        size = self.spec.sector
        data = b"".join(self.media.read(at * size, part * size) for at, part in self._places(lba, count))
        for behaviour in self.behaviours:
            data = behaviour.shown(self, lba, data)
        self.state.read += count
        return data

    def write(self, lba: int, data: bytes, *, through: bool = False) -> None:
        size = self.spec.sector
        count = len(data) // size
        self.check_range(lba, count)
        self.check_writable()
        content: bytes | None = data
        for behaviour in self.behaviours:
            if (hit := behaviour.write_fails(self, lba, count)) is not None:
                raise Refused(write_error(hit))
            if content is not None:
                content = behaviour.stored(self, lba, content)
        self.state.written += count
        if content is None:
            return
        while self.state.bad and (hit := self._bad(lba, count)) is not None:
            self._reassign(hit)
        for at, part in self._places(lba, count):
            if self.caching and not through:
                self._cache.remember(at * size, part * size)
            self.media.write(at * size, content[: part * size])
            content = content[part * size :]

    def _places(self, lba: int, count: int) -> list[tuple[int, int]]:
        """Where on the medium the blocks are: one run, unless the drive lies about its size."""
        end = next((end for behaviour in self.behaviours if (end := behaviour.wraps(self))), None)
        if end is None or lba + count <= end:
            return [(lba, count)]
        if lba >= end:
            return self._places(lba % end, count)
        return [(lba, end - lba), *self._places(0, lba + count - end)]

    def _bad(self, lba: int, count: int) -> int | None:
        return min((bad for bad in self.state.bad if lba <= bad < lba + count), default=None)

    def _reassign(self, lba: int) -> None:
        """A write to a bad block takes a fresh one; the old content stays behind on the retired block."""
        taken = len(self.state.remapped)
        if taken >= self.spec.spares:
            raise Refused(write_error(lba))
        size = self.spec.sector
        old = self.media.read(lba * size, size)
        self.media.write((self.spec.blocks + taken) * size, old)
        self.state.remapped[f"{lba}:{taken}"] = taken
        self.state.bad.remove(lba)
        self.save()

    def clear(self, method: Method, lba: int, count: int, pattern: bytes) -> None:
        """Fill a range for a command that names it: WRITE SAME, UNMAP, TRIM."""
        self.check_range(lba, count)
        self.check_writable()
        spans = [(at, at + part) for at, part in self._places(lba, count)]
        for span in self._after_lies(method, spans):
            self.fill(span, pattern)

    def _after_lies(self, method: Method, spans: list[Span]) -> list[Span]:
        """The spans after every behaviour had its say."""
        for behaviour in self.behaviours:
            spans = list(behaviour.erased(self, method, spans))
        return [(start, stop) for start, stop in spans if start < stop]

    def flush(self) -> None:
        if all(behaviour.flushes(self) for behaviour in self.behaviours):
            self._cache.flush()
        self.save()

    def fill(self, span: Span, pattern: bytes | None) -> None:
        """Put ``pattern`` on a span of the medium, None for noise."""
        size = self.spec.sector
        offset, stop = span[0] * size, span[1] * size
        if pattern is not None:
            fill(self.media, offset, stop - offset, pattern)
            return
        while offset < stop:
            part = min(_NOISE, stop - offset)
            seed = f"{self.spec.serial} {self.state.crypto_key} {offset}".encode()
            self.media.write(offset, hashlib.shake_128(seed).digest(part))
            offset += part

    # --- long operations

    def start(self, job: Job) -> None:
        """Begin a device-side erase; its spans are what an honest drive would clear."""
        job.spans = self._after_lies(job.method, job.spans)
        if job.method in (Method.SANITIZE_CRYPTO, Method.FORMAT_CRYPTO) and job.done == 0.0:
            self.state.crypto_key += 1
        for behaviour in self.behaviours:
            job.fails_at = _first(job.fails_at, behaviour.fails_at(self, job.method))
            job.cut_at = _first(job.cut_at, behaviour.cut_at(self, job.method))
            job.stalls_at = _first(job.stalls_at, behaviour.stalls_at(self, job.method))
        self._cache.flush()
        job.cleared = int(self._total(job) * job.done)
        self.job = job
        self.save()

    @staticmethod
    def _total(job: Job) -> int:
        return sum(stop - start for start, stop in job.spans)

    def fraction(self) -> float:
        """How far the operation under way truly is, 1.0 without one."""
        job = self.job
        if job is None:
            return 1.0
        gone = (self.clock() - job.since) / job.seconds if job.seconds > 0 else 1.0
        return min(1.0 if job.stalls_at is None else job.stalls_at, job.done + gone)

    def said_fraction(self) -> float:
        """How far it says it is."""
        fraction = self.fraction()
        for behaviour in self.behaviours:
            fraction = behaviour.progress(self, fraction)
        return fraction

    def tick(self) -> None:
        """Bring the operation under way to where the clock says it is. To be called before anything else."""
        job = self.job
        if job is None or not self.powered:
            return
        # The time that was named for a fraction is that fraction, whatever rounding makes of it.
        fraction = self.fraction() + _ROUNDING
        if job.cut_at is not None and fraction >= job.cut_at:
            self._advance(job, job.cut_at)
            # Time stops for the job here: what it does after that is lost with the power.
            job.done, job.since, job.stalls_at = job.cut_at, self.clock(), job.cut_at
            self.cut = True
            return
        failed = job.fails_at is not None and fraction >= job.fails_at
        self._advance(job, job.fails_at if failed and job.fails_at is not None else fraction)
        if failed or fraction >= 1.0:
            self.job = None
            well = not failed
            for behaviour in self.behaviours:
                well = behaviour.outcome(self, job.method, well)
            job.ended(well)
            if well:
                self._ended(job)
            self.save()

    def _advance(self, job: Job, fraction: float) -> None:
        goal = int(self._total(job) * fraction)
        passed = 0
        for start, stop in job.spans:
            first = start + max(0, job.cleared - passed)
            last = min(stop, start + goal - passed)
            if first < last:
                self.fill((first, last), job.pattern)
            passed += stop - start
        job.cleared = max(job.cleared, goal)

    def _ended(self, job: Job) -> None:
        # An erase writes every block: bad ones are taken out of use with it.
        self.state.bad.clear()
        for behaviour in self.behaviours:
            behaviour.ended(self, job.method)

    # --- power

    def power_off(self) -> None:
        """Power goes now: what no flush has followed is lost, an operation stops where it is."""
        self.tick()
        self._cache.lose()
        self.powered = False
        self._volatile_max = None
        if self.job is not None:
            done = self.fraction()
            # The clock has gone on since the last look: what counts as done must be done.
            self._advance(self.job, done)
            self.state.sanitize.done = done if self.state.sanitize.state == "running" else 0.0
            self.job = None
        for behaviour in self.behaviours:
            behaviour.power_lost(self)
        self.save()

    def power_on(self) -> None:
        self.powered = True
        self.state.power_cycles += 1
        self.behaviours = [behaviour for behaviour in self.behaviours if behaviour.lasting]
        for behaviour in self.behaviours:
            behaviour.power_on(self)
        self.save()

    def save(self) -> None:
        self._store.save(self.state)
