"""Canaries: random blocks at secret places that an erase must have taken away."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from teeth_agent.blockio import Device, ZonedDevice, aligned_buffer, zones_of
from teeth_agent.errors import DeviceError
from teeth_agent.zoned import Zone

COUNT = 64
BLOCK = 4096
# At a half, a quarter, an eighth and a sixteenth of the device too: a drive that has less than it says writes
# what is behind its end to its beginning, and then one of these and the first block are the same.
_FOLDS = (2, 4, 8, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canaries:
    """What was written where: ``places`` are byte offsets, ``contents`` one random block for each."""

    block: int
    places: tuple[int, ...]
    contents: tuple[bytes, ...]

    def survivors(self, device: Device) -> tuple[int, ...]:
        """The places where a canary can still be read. Raises DeviceError(read_failed)."""
        buffer = aligned_buffer(self.block)
        alive = []
        for place, content in zip(self.places, self.contents, strict=True):
            device.read_into(place, buffer)
            if buffer == content:
                alive.append(place)
        return tuple(alive)

    def missing(self, device: Device) -> tuple[int, ...]:
        """The places where a canary cannot be read."""
        alive = set(self.survivors(device))
        return tuple(place for place in self.places if place not in alive)


def choose_places(size: int, block: int, chooser: random.Random, count: int = COUNT) -> tuple[int, ...]:
    """The first and the last block, those where a forged size would fold, and ``count`` others between them;
    fewer if the device is small.

    None overlap. The last one ends where the device ends, so it need not be a multiple of ``block``.
    """
    if size < 2 * block:
        return (0,)
    last = size - block
    between = range(1, last // block)  # whole blocks that end before the last one begins
    folds = {size // fold // block for fold in _FOLDS if size // fold // block in between}
    free = len(between) - len(folds)
    # More are drawn than needed, as some may be folds.
    drawn = chooser.sample(between, min(count + len(folds), len(between)))
    chosen = [index for index in drawn if index not in folds][: min(count, free)]
    return (0, *sorted(index * block for index in (*chosen, *folds)), last)


def choose_in_zones(
    zones: Sequence[Zone], block: int, chooser: random.Random, count: int = COUNT
) -> tuple[int, ...]:
    """One place in each of ``count`` zones and in the first and the last; fewer if there are fewer zones that
    can be written. A zone to be written in order takes one only at its start."""
    able = [zone for zone in zones if zone.capacity >= block and not zone.trouble]
    inner = chooser.sample(able[1:-1], min(count, max(len(able) - 2, 0)))
    chosen = sorted({zone.start: zone for zone in (*able[:1], *inner, *able[-1:])}.items())
    return tuple(
        start if zone.in_order else start + chooser.randrange(zone.capacity // block) * block
        for start, zone in chosen
    )


def places_on(device: Device, block: int, chooser: random.Random) -> tuple[int, ...]:
    """Where this device takes canaries."""
    zones = zones_of(device)
    if zones:
        return choose_in_zones(zones, block, chooser)
    return choose_places(device.size, block, chooser)


def plant(device: Device, chooser: random.Random | None = None) -> Canaries:
    """Write canaries and see that they landed. Zones to be written in order are reset for it, and lose all.

    Raises DeviceError(canary_not_landed) when what is read back is not what was written, else
    read_failed or write_failed.
    """
    block = block_of(device)
    return _plant(device, places_on(device, block, chooser or random.SystemRandom()), block)


def block_of(device: Device) -> int:
    """How many bytes a canary has on this device."""
    block = max(BLOCK, device.logical_block)
    return device.logical_block if device.size < 2 * block else block


def _plant(device: Device, places: tuple[int, ...], block: int) -> Canaries:
    contents = tuple(os.urandom(block) for _ in places)
    _write(device, places, contents, block)
    canaries = Canaries(block=block, places=places, contents=contents)
    lost = canaries.missing(device)
    if lost:
        raise DeviceError(
            f"{device.path} does not keep what is written: {len(lost)} of {len(places)} blocks,"
            f" the first at byte {lost[0]}",
            code="canary_not_landed",
        )
    return canaries


def _write(device: Device, places: Sequence[int], contents: Sequence[bytes], block: int) -> None:
    _reset_zones(device, frozenset(places))
    buffer = aligned_buffer(block)
    for place, content in zip(places, contents, strict=True):
        buffer[:] = content
        device.write_from(place, buffer)
    device.flush()


def _reset_zones(device: Device, places: frozenset[int]) -> None:
    """Move the write pointers of zones to be written in order back to the places, which are their starts."""
    if isinstance(device, ZonedDevice):
        for zone in device.zones():
            if zone.in_order and zone.start in places:
                device.reset_zones(zone.start, zone.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondLook:
    """What the erased device gave after it had been written to again: ``returned`` are byte offsets where it
    gave something else than before, or an old canary."""

    written: int
    neighbours: int
    returned: tuple[int, ...]

    @property
    def holds(self) -> bool:
        return self.written > 0 and not self.returned

    def to_json(self) -> dict[str, Any]:
        return {
            "written": self.written,
            "neighbours": self.neighbours,
            "returned": [*self.returned[:8]],
        }


def look_again(device: Device, old: Canaries, chooser: random.Random | None = None) -> SecondLook:
    """Write to an erased device, and see whether what was there before comes back with it.

    A drive can give zeros for everything without having erased anything, for as long as nobody writes. So new
    canaries are written at new secret places; then their neighbours must read as they did before that, and
    no old canary may be there. The new ones are overwritten with zeros. Raises DeviceError as ``plant`` does.
    """
    places = places_on(device, old.block, chooser or random.SystemRandom())
    before = _read(device, _beside(places, old.block), old.block)
    new = _plant(device, places, old.block)
    returned = [place for place, was in before.items() if _read(device, [place], old.block)[place] != was]
    returned += old.survivors(device)
    _wipe(device, new)
    return SecondLook(written=len(new.places), neighbours=len(before), returned=tuple(sorted(returned)))


def _beside(places: Sequence[int], block: int) -> list[int]:
    """The block after each of the places that has a free one there."""
    taken, last = set(places), max(places)
    return [place + block for place in places if place + block not in taken and place + 2 * block <= last]


def _read(device: Device, places: Sequence[int], block: int) -> dict[int, bytes]:
    buffer = aligned_buffer(block)
    found = {}
    for place in places:
        device.read_into(place, buffer)
        found[place] = bytes(buffer)
    return found


def _wipe(device: Device, canaries: Canaries) -> None:
    zeros = tuple(bytes(canaries.block) for _ in canaries.places)
    _write(device, canaries.places, zeros, canaries.block)
    wiped = Canaries(block=canaries.block, places=canaries.places, contents=zeros)
    kept = wiped.missing(device)
    if kept:
        raise DeviceError(
            f"{device.path} does not take zeros: something else is at byte {kept[0]}", code="zeros_not_landed"
        )
