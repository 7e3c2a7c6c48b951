"""Overwriting with zeros and reading back in one go: the device reads while it still writes.

Two passes, one after the other, take the sum of both times. Flash and networks read and write at once, so
there the read-back runs behind the writing, and the whole takes little longer than the slower of the two.

A read-back is proof only if it reads the medium. O_DIRECT passes our own caches, nothing passes the drive's.
So every byte is read back

* after a flush that began when it had been written: it is not merely waiting in a volatile write cache; and
* after at least ``distance`` bytes of other traffic: what a drive's memory still holds of it (clean copies
  survive a flush) has been displaced, as far as a cache smaller than that can hold.

The last bytes get their distance from the reads of those before them: reading stays ``distance`` behind until
the writing is done, and then has that much to read first. A device less than twice as large is written whole
before any of it is read. Without a power cycle in between, no way of reading back unmasks a drive that lies
about flushes and keeps more than that in its memory.

Spinning drives would seek between the two places: they are written whole, then read whole. So are zoned
drives, which take one writer to a zone.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from teeth_agent.blockio import Device, aligned_buffer, zones_of
from teeth_agent.erase.readback import Comparer, Readback, read_zeros
from teeth_agent.erase.stream import CHUNK, IN_FLIGHT, Advance, Range, Tally, write_zeros
from teeth_agent.errors import DeviceError
from teeth_agent.inflight import run_threads

# Drives have up to 1 GiB of memory, of which flash drives use most for their maps.
DISTANCE = 1 << 30
# A flush empties the drive's queue, so not one for every chunk; well below the distance, so that the reading
# seldom waits for one.
_FLUSH_EVERY = 256 << 20
# One slow request must not let the others run far ahead: its bytes would then be read back too soon.
_AHEAD = 4 * IN_FLIGHT * CHUNK
# What may still be on its way on both sides when the distance is taken.
_SLACK = _AHEAD + IN_FLIGHT * CHUNK


@dataclass(frozen=True, slots=True, kw_only=True)
class Overwritten:
    """``written`` bytes, all flushed; ``distance`` is 0 where reading began after all writing."""

    written: int
    readback: Readback
    distance: int


def overwrite(device: Device, advance: Advance, *, seeks: bool, distance: int = DISTANCE) -> Overwritten:
    """Write zeros over the whole device and read all of it back. Raises DeviceError.

    ``seeks``: moving between two places costs this device time. ``advance`` is told every byte twice, when it
    was written and when it was read, a few MiB at a time, from several threads, and may raise to stop. A
    mismatch or a read error ends the reading, never the writing: what can be overwritten is.
    """
    if seeks or device.size < 2 * distance or zones_of(device):
        written = write_zeros(device, advance)
        return Overwritten(written=written, readback=read_zeros(device, advance), distance=0)
    run = _Overlapped(device, advance, distance)
    return Overwritten(written=device.size, readback=run.run(), distance=distance)


class _Overlapped:
    """What the writing and the reading threads share. Offsets grow: "up to" means all bytes below."""

    def __init__(self, device: Device, advance: Advance, distance: int) -> None:
        self._device = device
        self._size = device.size
        self._tally = Tally(advance)
        self._distance = distance
        self._flush_every = max(CHUNK, min(_FLUSH_EVERY, distance // 2))
        self._zeros = aligned_buffer(CHUNK)  # only ever read from, so all threads share it
        self._compared = Comparer(device)
        self._changed = threading.Condition()
        self._stopped = False
        self._write_next = 0
        self._being_written: set[int] = set()
        self._flushing = False
        self._flushed = 0  # up to here everything is on the medium, by the drive's word
        self._read_next = 0
        self._read_failure: DeviceError | None = None

    def run(self) -> Readback:
        run_threads([self._write_all] * IN_FLIGHT + [self._read_all] * IN_FLIGHT, self._stop)
        if self._read_failure is not None:
            raise self._read_failure
        self._tally.rest()
        return self._compared.readback([(0, self._size)], seed=None)

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _write_all(self) -> None:
        while (piece := self._take_write()) is not None:
            offset, length = piece
            self._device.write_from(offset, self._zeros[:length])
            self._tally.add(length)
            self._wrote(offset)
            while (mark := self._due_flush()) is not None:
                self._device.flush()
                self._has_flushed(mark)

    def _take_write(self) -> Range | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._write_next - self._written() < _AHEAD)
            offset, length = self._write_next, min(CHUNK, self._size - self._write_next)
            if self._stopped or length == 0:
                return None
            self._being_written.add(offset)
            self._write_next += length
            return offset, length

    def _wrote(self, offset: int) -> None:
        with self._changed:
            self._being_written.discard(offset)
            self._changed.notify_all()

    def _written(self) -> int:
        """Up to where nothing is still on its way to the drive."""
        return min(self._being_written, default=self._write_next)

    def _due_flush(self) -> int | None:
        """Up to where the caller must flush now; None if it need not, or another does, who will ask again."""
        with self._changed:
            written = self._written()
            enough = written - self._flushed >= self._flush_every or written == self._size > self._flushed
            if self._flushing or self._stopped or not enough:
                return None
            self._flushing = True
            return written

    def _has_flushed(self, mark: int) -> None:
        with self._changed:
            self._flushed, self._flushing = mark, False
            self._changed.notify_all()

    def _read_all(self) -> None:
        check = self._compared.make_worker()
        while (piece := self._take_read()) is not None:
            try:
                is_zero = check(*piece)
            except DeviceError as error:
                self._end_reading(error)
                return
            if not is_zero:
                self._end_reading(None)
                return
            self._tally.add(piece[1])

    def _take_read(self) -> Range | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._may_read())
            offset, length = self._read_next, min(CHUNK, self._size - self._read_next)
            if self._stopped or length == 0:
                return None
            self._read_next += length
            return offset, length

    def _may_read(self) -> bool:
        """Whether the next chunk is flushed and far enough behind, or there is none."""
        end = min(self._read_next + CHUNK, self._size)
        written = self._written()
        far = written == self._size or end + self._distance + _SLACK <= written
        return self._read_next == self._size or (end <= self._flushed and far)

    def _end_reading(self, failure: DeviceError | None) -> None:
        with self._changed:
            self._read_failure = self._read_failure or failure
            self._read_next = self._size
            self._changed.notify_all()
