"""Reading back, past every cache of ours, what an erase promises: zeros."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.erase.stream import CHUNK, Range, each_chunk

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
    device: Device, advance: Callable[[int], None], *, sampled: bool = False, seed: int | None = None
) -> Readback:
    """Read the device, or a sample chosen by ``seed``, and compare with zero. Raises DeviceError.

    ``advance`` is told every chunk's length, from several threads, and may raise to stop.
    """
    ranges: list[Range] = [(0, device.size)]
    if sampled:
        seed = random.SystemRandom().getrandbits(48) if seed is None else seed
        # Reproducible from the record on purpose: it is the seed that nobody can foresee.
        ranges = sample(device.size, device.logical_block, random.Random(seed))  # noqa: S311
    whole = ranges == [(0, device.size)]
    reader = _Reader(device, advance)
    each_chunk(ranges, reader.make_worker)
    return Readback(
        sampled=not whole,
        planned=sum(length for _, length in ranges),
        read=reader.read,
        mismatch=reader.mismatch,
        seed=None if whole else seed,
    )


class _Reader:
    """What the reading threads share."""

    def __init__(self, device: Device, advance: Callable[[int], None]) -> None:
        self._device = device
        self._advance = advance
        self._lock = threading.Lock()
        # bytearray compares with any buffer by memcmp: twenty times as fast as memoryview does it.
        self._zeros = bytearray(CHUNK)
        self.read = 0
        self.mismatch: int | None = None

    def make_worker(self) -> Callable[[int, int], bool]:
        buffer = aligned_buffer(CHUNK)

        def check(offset: int, length: int) -> bool:
            self._device.read_into(offset, buffer[:length])
            zero = self._is_zero(buffer, length)
            self._note(length, None if zero else offset + _first_nonzero(buffer[:length]))
            self._advance(length)
            return zero

        return check

    def _is_zero(self, buffer: memoryview, length: int) -> bool:
        if length == CHUNK:
            return self._zeros == buffer
        return bytearray(length) == buffer[:length]

    def _note(self, length: int, mismatch: int | None) -> None:
        with self._lock:
            self.read += length
            if mismatch is not None:
                self.mismatch = mismatch if self.mismatch is None else min(self.mismatch, mismatch)


def _first_nonzero(buffer: memoryview) -> int:
    data = bytes(buffer)
    return len(data) - len(data.lstrip(b"\0"))
