"""Reading back, past every cache of ours, what an erase promises: zeros."""

from __future__ import annotations

import bisect
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from teeth_agent.blockio import Device, aligned_buffer, zones_of
from teeth_agent.erase.stream import CHUNK, Advance, Range, Tally, each_chunk, spans

# NIST SP 800-88r1 section 4.7.3: at least 1,000 subsections, two samples in each, 5 % of it or more each.
_SUBSECTIONS = 1000
_SAMPLE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Readback:
    """``read`` of ``planned`` bytes were read; ``mismatch`` is the first place known not to be zero.

    Reading ends at a mismatch: it has already disproved the erase.
    """

    sampled: bool
    planned: int
    read: int
    mismatch: int | None
    seed: int | None

    @property
    def holds(self) -> bool:
        return self.mismatch is None and self.read == self.planned

    @property
    def zero(self) -> bool:
        """Whether all that was read was zeros."""
        return self.mismatch is None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "sampled" if self.sampled else "full",
            "expected": "zero",
            "planned": self.planned,
            "bytes": self.read,
            "mismatches": 0 if self.mismatch is None else 1,
            "first_mismatch": self.mismatch,
            "seed": self.seed,
        }


def sample(size: int, block: int, chooser: random.Random) -> list[Range]:
    """Which ranges a sampled read-back reads: two of each of 1,000 subsections, and the first and last block.

    Small devices, whose subsections are too small for two samples that do not overlap, are read whole.
    """
    section = size // _SUBSECTIONS // block * block
    length = -(-int(section * _SAMPLE) // block) * block
    if section < 4 * length or length == 0:
        return [(0, size)]
    ranges: list[Range] = [(0, block), (size - block, block)]
    for start in range(0, size - section + 1, section):
        half = section // 2 // block * block
        for low, room in ((start, half), (start + half, section - half)):
            ranges.append((low + chooser.randrange((room - length) // block + 1) * block, length))
    return ranges


def expected_bytes(size: int, block: int, *, sampled: bool) -> int:
    """How much a read-back will read."""
    return sum(length for _, length in sample(size, block, random.Random(0))) if sampled else size  # noqa: S311


def read_zeros(
    device: Device, advance: Advance, *, sampled: bool = False, seed: int | None = None
) -> Readback:
    """Read the device, or a sample chosen by ``seed``, and compare with zero. Raises DeviceError.

    What has no medium behind it (the rest of a zone beyond its capacity) is not read. ``advance`` is told
    what was read, a few MiB at a time, from several threads, and may raise to stop.
    """
    ranges = spans(zones_of(device), device.size)
    whole = [(0, device.size)]
    if sampled:
        seed = random.SystemRandom().getrandbits(48) if seed is None else seed
        # Reproducible from the record on purpose: it is the seed that nobody can foresee.
        chosen = sample(device.size, device.logical_block, random.Random(seed))  # noqa: S311
        ranges = ranges if chosen == whole else common(chosen, ranges)
        seed = None if chosen == whole else seed
    tally = Tally(advance)
    comparer = Comparer(device)

    def make_worker() -> Callable[[int, int], bool]:
        compare = comparer.make_worker()

        def worker(offset: int, length: int) -> bool:
            is_zero = compare(offset, length)
            tally.add(length)
            return is_zero

        return worker

    each_chunk(ranges, make_worker)
    tally.rest()
    return comparer.readback(ranges, seed=seed)


def common(chosen: list[Range], present: list[Range]) -> list[Range]:
    """The parts of ``chosen`` that lie in ``present``, which is in order and does not overlap."""
    starts = [start for start, _ in present]
    found = []
    for start, length in chosen:
        index = max(bisect.bisect_right(starts, start) - 1, 0)
        while index < len(present) and present[index][0] < start + length:
            low = max(start, present[index][0])
            high = min(start + length, sum(present[index]))
            if low < high:
                found.append((low, high - low))
            index += 1
    return found


class Comparer:
    """Compares with zero from several threads, and keeps what came of it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        # bytearray compares with any buffer by memcmp: twenty times as fast as memoryview does it.
        self._zeros = bytearray(CHUNK)
        self._read = 0
        self._mismatch: int | None = None

    def make_worker(self) -> Callable[[int, int], bool]:
        """Reads and compares at most CHUNK bytes into a buffer of its own: one for each thread."""
        buffer = aligned_buffer(CHUNK)

        def check(offset: int, length: int) -> bool:
            view = buffer[:length]
            self._device.read_into(offset, view)
            zero = (self._zeros if length == CHUNK else bytearray(length)) == view
            self._note(length, None if zero else offset + _first_nonzero(view))
            return zero

        return check

    def readback(self, ranges: list[Range], *, seed: int | None) -> Readback:
        """What it came to; ``ranges`` is what was to be read, ``seed`` what a sample was chosen by."""
        return Readback(
            sampled=seed is not None,
            planned=sum(length for _, length in ranges),
            read=self._read,
            mismatch=self._mismatch,
            seed=seed,
        )

    def _note(self, length: int, mismatch: int | None) -> None:
        with self._lock:
            self._read += length
            if mismatch is not None:
                self._mismatch = mismatch if self._mismatch is None else min(self._mismatch, mismatch)


def _first_nonzero(buffer: memoryview) -> int:
    data = bytes(buffer)
    return len(data) - len(data.lstrip(b"\0"))
