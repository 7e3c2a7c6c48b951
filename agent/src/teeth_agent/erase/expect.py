"""Reading back what a drive's own erase promises: zeros, one value, or nothing of what was there."""

from __future__ import annotations

import hashlib
import random
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.erase.model import Leaves
from teeth_agent.erase.readback import read_zeros, sample
from teeth_agent.erase.stream import CHUNK, Range, each_chunk
from teeth_agent.errors import DeviceError

# Two in each thousandth, as a sampled read-back has.
_PRINTS = 2000
_BLOCK = 4096
# Pieces that are looked at, larger ones first: noise does not become smaller by compression, content does.
_PIECES = (CHUNK, 1 << 16, 1 << 12, 1 << 9)
_NOISE = 0.995

Advance = Callable[[int], None]


class ReadProof(Protocol):
    """What a read-back has shown, whatever it was for."""

    @property
    def holds(self) -> bool: ...
    @property
    def sampled(self) -> bool: ...
    @property
    def zero(self) -> bool:
        """Whether all that was read was zeros."""

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """As readback.Readback, for other promises than zeros. ``value``: the byte that is everywhere.

    ``prints``: how many blocks were known from before; ``same``: where one of them came back.
    """

    expected: Leaves
    sampled: bool
    planned: int
    read: int
    mismatch: int | None
    seed: int | None
    value: int | None = None
    prints: int = 0
    same: tuple[int, ...] = ()

    @property
    def holds(self) -> bool:
        return self.mismatch is None and self.read == self.planned and not self.same

    @property
    def zero(self) -> bool:
        """Never known: only readback.Readback is made of zeros."""
        return False

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "sampled" if self.sampled else "full",
            "expected": self.expected.value,
            "planned": self.planned,
            "bytes": self.read,
            "mismatches": int(self.mismatch is not None) + len(self.same),
            "first_mismatch": self.mismatch if self.mismatch is not None else next(iter(self.same), None),
            "seed": self.seed,
            "value": self.value,
            "known_before": self.prints,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Prints:
    """What some blocks held before, as digests by byte offset. Blocks of one value only are left out: their
    coming back would say nothing. ``read``: how many were looked at."""

    block: int
    read: int
    digests: Mapping[int, bytes]

    def same(self, device: Device) -> tuple[int, ...]:
        """Where a block is as it was. Raises DeviceError(read_failed)."""
        buffer = aligned_buffer(self.block)
        found = []
        for place, digest in self.digests.items():
            device.read_into(place, buffer)
            if _digest(buffer) == digest:
                found.append(place)
        return tuple(found)


def take_prints(device: Device, chooser: random.Random | None = None) -> Prints:
    """Look at secret places of a device that is about to be erased. What cannot be read is passed over."""
    block = max(_BLOCK, device.logical_block)
    blocks = range(device.size // block)
    places = (chooser or random.SystemRandom()).sample(blocks, min(_PRINTS, len(blocks)))
    buffer = aligned_buffer(block)
    digests: dict[int, bytes] = {}
    for place in sorted(index * block for index in places):
        try:
            device.read_into(place, buffer)
        except DeviceError:
            continue
        if not _is_constant(bytes(buffer)):
            digests[place] = _digest(buffer)
    return Prints(block=block, read=len(places), digests=digests)


def read_back(
    device: Device,
    leaves: Leaves,
    advance: Advance,
    *,
    sampled: bool = False,
    prints: Prints | None = None,
    seed: int | None = None,
) -> ReadProof:
    """Read the device, or a sample chosen by ``seed``, against what it was promised to hold.

    Raises DeviceError. ``advance`` is told every chunk's length, from several threads, and may raise to stop.
    """
    if leaves is Leaves.ZEROS:
        return read_zeros(device, advance, sampled=sampled, seed=seed)
    value = _first_byte(device) if leaves is Leaves.CONSTANT else None
    if value == 0:
        return read_zeros(device, advance, sampled=sampled, seed=seed)
    ranges: list[Range] = [(0, device.size)]
    if sampled:
        seed = random.SystemRandom().getrandbits(48) if seed is None else seed
        ranges = sample(device.size, device.logical_block, random.Random(seed))  # noqa: S311
    whole = ranges == [(0, device.size)]
    reader = _Reader(device, advance, _is_noise_or_constant if value is None else _has_value(value))
    each_chunk(ranges, reader.make_worker)
    return Reading(
        expected=leaves,
        sampled=not whole,
        planned=sum(length for _, length in ranges),
        read=reader.read,
        mismatch=reader.mismatch,
        seed=None if whole else seed,
        value=value,
        prints=len(prints.digests) if prints else 0,
        same=prints.same(device) if prints and reader.mismatch is None else (),
    )


class _Reader:
    """What the reading threads share; ``holds`` judges one chunk: where it does not hold, None if it does."""

    def __init__(self, device: Device, advance: Advance, holds: Callable[[memoryview], int | None]) -> None:
        self._device = device
        self._advance = advance
        self._holds = holds
        self._lock = threading.Lock()
        self.read = 0
        self.mismatch: int | None = None

    def make_worker(self) -> Callable[[int, int], bool]:
        buffer = aligned_buffer(CHUNK)

        def check(offset: int, length: int) -> bool:
            self._device.read_into(offset, buffer[:length])
            wrong = self._holds(buffer[:length])
            with self._lock:
                self.read += length
                if wrong is not None:
                    place = offset + wrong
                    self.mismatch = place if self.mismatch is None else min(self.mismatch, place)
            self._advance(length)
            return wrong is None

        return check


def _has_value(value: int) -> Callable[[memoryview], int | None]:
    """The judge of chunks that are to hold one byte value."""
    expected = bytes((value,)) * CHUNK

    def wrong(chunk: memoryview) -> int | None:
        data = bytes(chunk)
        if data == (expected if len(data) == CHUNK else expected[: len(data)]):
            return None
        return len(data) - len(data.lstrip(expected[:1]))

    return wrong


def _is_noise_or_constant(chunk: memoryview) -> int | None:
    """Where a chunk holds something that has order: neither one value nor noise."""
    return _first_order(chunk, 0)


def _first_order(piece: memoryview, level: int) -> int | None:
    data = bytes(piece)
    if _is_constant(data) or _is_noise(data):
        return None
    # What is partly unmapped has zeros among the noise: each part is looked at by itself.
    if level + 1 == len(_PIECES):
        return 0
    step = _PIECES[level + 1]
    for at in range(0, len(data), step):
        wrong = _first_order(piece[at : at + step], level + 1)
        if wrong is not None:
            return at + wrong
    return None


def _is_constant(data: bytes) -> bool:
    # Most of what is not constant shows it at once.
    return data[:64] == data[:1] * len(data[:64]) and data == data[:1] * len(data)


def _is_noise(data: bytes) -> bool:
    return len(zlib.compress(data, 1)) >= len(data) * _NOISE


def _digest(buffer: memoryview) -> bytes:
    return hashlib.blake2b(buffer, digest_size=16).digest()


def _first_byte(device: Device) -> int:
    buffer = aligned_buffer(max(_BLOCK, device.logical_block))
    device.read_into(0, buffer[: device.logical_block])
    return buffer[0]
