"""Moving a whole device's bytes: many requests in flight, and a stop at the first trouble."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from teeth_agent.blockio import Device, ZonedDevice, aligned_buffer, zones_of
from teeth_agent.errors import DeviceError
from teeth_agent.inflight import run_threads, taking_turns
from teeth_agent.zoned import Zone

# 1 MiB is past the point where larger requests are faster; four in flight keep a device's queue filled while
# Python prepares the next one. A drive then costs 4 MiB of buffers, so that many at once fit a small ramdisk.
CHUNK = 1 << 20
IN_FLIGHT = 4
# Telling the progress of a chunk costs more than all else that Python does for it.
_TELL = 8 << 20

Range = tuple[int, int]  # offset, length, in bytes
Advance = Callable[[int], None]


def chunks(ranges: Iterable[Range], chunk: int = CHUNK) -> Iterator[Range]:
    """Cut ranges into pieces of at most ``chunk`` bytes, in order."""
    for start, length in ranges:
        for offset in range(start, start + length, chunk):
            yield offset, min(chunk, start + length - offset)


def each_chunk(
    ranges: Iterable[Range],
    make_worker: Callable[[], Callable[[int, int], bool]],
    workers: int = IN_FLIGHT,
    chunk: int = CHUNK,
) -> None:
    """Call ``worker(offset, length)`` for every chunk, from several threads.

    ``make_worker`` is called once in each thread, for what the thread needs of its own. A worker that returns
    False ends the walk; the first exception of any of them ends it too, and is raised here once all stopped.
    """
    stop = threading.Event()

    def make() -> Callable[[Range], bool]:
        worker = make_worker()
        return lambda piece: worker(*piece)

    run_threads([taking_turns(chunks(ranges, chunk), make, stop)] * workers, stop.set)


class Tally:
    """Sums chunks up and tells ``advance`` a few MiB at a time, from whichever thread fills the sum."""

    def __init__(self, advance: Advance, every: int = _TELL) -> None:
        self._advance = advance
        self._every = every
        self._lock = threading.Lock()
        self._untold = 0

    def add(self, length: int) -> None:
        """May raise what ``advance`` raises to stop."""
        with self._lock:
            self._untold += length
            if self._untold < self._every:
                return
            told, self._untold = self._untold, 0
        self._advance(told)

    def rest(self) -> None:
        """Tell what is left."""
        with self._lock:
            told, self._untold = self._untold, 0
        if told:
            self._advance(told)


def spans(zones: Sequence[Zone], size: int) -> list[Range]:
    """The ranges of a device that have a medium behind them, neighbours joined; all of it without zones."""
    if not zones:
        return [(0, size)]
    joined: list[Range] = []
    for zone in zones:
        if joined and sum(joined[-1]) == zone.start:
            joined[-1] = (joined[-1][0], joined[-1][1] + zone.capacity)
        elif zone.capacity:
            joined.append((zone.start, zone.capacity))
    return joined


def write_zeros(device: Device, advance: Advance) -> int:
    """Write zeros over the whole device and flush it; the bytes written. Raises DeviceError.

    ``advance`` is told what was written, a few MiB at a time, from several threads, and may raise to stop.
    Zones that must be written in order are reset and written one by each thread; a device with a zone
    that cannot be written raises DeviceError(zone_unwritable) when everything else has been.
    """
    zones = zones_of(device)
    in_order = [zone for zone in zones if zone.in_order]
    free = [zone for zone in zones if not zone.in_order and not zone.trouble]
    tally = Tally(advance)
    written = _write_anywhere(device, spans(free, device.size) if free or not zones else [], tally)
    if in_order:
        assert isinstance(device, ZonedDevice)
        written += _write_in_order(device, [zone for zone in in_order if not zone.trouble], tally)
    tally.rest()
    device.flush()
    for zone in zones:
        if zone.trouble:
            raise DeviceError(
                f"{device.path}: the zone at byte {zone.start} is {zone.trouble}", code="zone_unwritable"
            )
    return written


def _write_anywhere(device: Device, ranges: list[Range], tally: Tally) -> int:
    zeros = aligned_buffer(CHUNK)  # only ever read from, so all threads share it

    def write(offset: int, length: int) -> bool:
        device.write_from(offset, zeros[:length])
        tally.add(length)
        return True

    each_chunk(ranges, lambda: write)
    return sum(length for _, length in ranges)


def _write_in_order(device: ZonedDevice, zones: list[Zone], tally: Tally) -> int:
    """One thread to a zone: the drive refuses what does not begin where its write pointer is."""
    zeros = aligned_buffer(CHUNK)
    lock = threading.Lock()
    stop = threading.Event()
    pending = iter(zones)

    def work() -> None:
        while not stop.is_set():
            with lock:
                zone = next(pending, None)
            if zone is None:
                return
            device.reset_zones(zone.start, zone.length)
            for offset, length in chunks([(zone.start, zone.capacity)]):
                if stop.is_set():
                    return
                device.write_from(offset, zeros[:length])
                tally.add(length)

    run_threads([work] * IN_FLIGHT, stop.set)
    return sum(zone.capacity for zone in zones)
