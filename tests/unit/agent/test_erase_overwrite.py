"""Overwriting and reading back in one go: what is written, when it may be read, and how it ends."""

from __future__ import annotations

import threading

import pytest

from fakes.disks import MemoryDisk
from teeth_agent.erase.overwrite import DISTANCE, overwrite
from teeth_agent.erase.stream import CHUNK, IN_FLIGHT, write_zeros
from teeth_agent.errors import Cancelled, DeviceError

MIB = 1 << 20
SIZE = 96 * MIB
NEAR = 24 * MIB


class Watched(MemoryDisk):
    """Counts all traffic, and notes for each chunk what there had been of it when it was written and read."""

    def __init__(self, size=SIZE):
        super().__init__("sda", size)
        self.traffic = 0
        self.landed = {}
        self.flushed = set()
        self.too_soon = []
        self.nearest = size
        self.reads_while_writing = 0
        self.was_read = threading.Event()

    def write_from(self, offset, buffer):
        super().write_from(offset, buffer)
        with self.guard:
            self.traffic += len(buffer)
            self.landed[offset] = self.traffic

    def flush(self):
        with self.guard:
            before = set(self.landed)
        super().flush()
        with self.guard:
            self.flushed |= before

    def read_into(self, offset, buffer):
        self.was_read.set()
        with self.guard:
            if offset not in self.flushed:
                self.too_soon.append(offset)
            else:
                self.nearest = min(self.nearest, self.traffic - self.landed[offset])
            self.reads_while_writing += len(self.landed) * CHUNK < self.size
        super().read_into(offset, buffer)
        with self.guard:
            self.traffic += len(buffer)


def test_everything_is_zero_and_read_back_and_told():
    disk, told = Watched(SIZE + 512), []
    done = overwrite(disk, told.append, seeks=False, distance=NEAR)
    assert disk.content == bytes(disk.size)
    assert done.readback.holds
    assert done.readback.read == done.written == disk.size
    assert sum(told) == 2 * disk.size
    assert done.distance == NEAR


def test_reading_runs_behind_writing_after_a_flush_and_at_its_distance():
    class Patient(Watched):
        """Its last chunk is written when something has been read."""

        def write_from(self, offset, buffer):
            if offset == SIZE - MIB:
                assert self.was_read.wait(20)
            super().write_from(offset, buffer)

    disk = Patient()
    overwrite(disk, lambda length: None, seeks=False, distance=NEAR)
    assert disk.reads_while_writing
    assert disk.too_soon == []
    assert disk.nearest >= NEAR


def test_nothing_is_read_before_its_distance_is_reached():
    class Gated(Watched):
        """Stops in front of its 36th MiB to see whether anybody reads: none has 24 MiB behind it and room."""

        def write_from(self, offset, buffer):
            if offset == 36 * MIB:
                assert not self.was_read.wait(0.5)
            super().write_from(offset, buffer)

    disk = Gated()
    assert overwrite(disk, lambda length: None, seeks=False, distance=NEAR).readback.holds
    assert disk.was_read.is_set()


def test_nothing_is_read_while_its_flush_is_under_way():
    class SlowFlush(Watched):
        """The first flush ends when everything is written."""

        def __init__(self):
            super().__init__()
            self.all_written = threading.Event()
            self.flushes = 0

        def write_from(self, offset, buffer):
            super().write_from(offset, buffer)
            if len(self.landed) * MIB == SIZE:
                self.all_written.set()

        def flush(self):
            self.flushes += 1
            if self.flushes == 1:
                assert self.all_written.wait(20)
                assert not self.was_read.wait(0.2)
            super().flush()

    disk = SlowFlush()
    assert overwrite(disk, lambda length: None, seeks=False, distance=NEAR).readback.holds
    assert disk.too_soon == []


def test_one_slow_write_does_not_let_its_bytes_be_read_too_soon():
    slow = 10 * MIB

    class Slow(Watched):
        """One chunk waits until the others cannot get on without it."""

        def __init__(self):
            super().__init__()
            self.stuck = threading.Semaphore(0)

        def write_from(self, offset, buffer):
            if offset == slow:
                while self.stuck.acquire(timeout=0.2):
                    pass
            super().write_from(offset, buffer)
            self.stuck.release()

    disk = Slow()
    done = overwrite(disk, lambda length: None, seeks=False, distance=NEAR)
    assert done.readback.holds
    assert disk.too_soon == []
    assert disk.nearest >= NEAR


@pytest.mark.parametrize("seeks", [True, False])
def test_drives_that_seek_and_small_ones_are_written_whole_before_they_are_read(seeks):
    disk = Watched()
    done = overwrite(disk, lambda length: None, seeks=seeks, distance=NEAR if seeks else DISTANCE)
    assert disk.reads_while_writing == 0
    assert done.readback.holds
    assert done.distance == 0


@pytest.mark.parametrize("place", [0, 5 * MIB + 77, SIZE - 1])
@pytest.mark.parametrize("seeks", [True, False])
def test_a_byte_that_stays_is_found_and_all_else_is_overwritten(place, seeks):
    class Stale(Watched):
        def store(self, offset, data):
            super().store(offset, data)
            self.content[place] = 1

    disk = Stale()
    done = overwrite(disk, lambda length: None, seeks=seeks, distance=NEAR)
    assert done.readback.mismatch == place
    assert not done.readback.holds
    assert disk.content.count(0) == SIZE - 1


def test_a_read_error_does_not_keep_the_rest_from_being_overwritten():
    class Unreadable(Watched):
        def read_into(self, offset, buffer):
            if offset == 3 * MIB:
                raise DeviceError("no", code="read_failed")
            super().read_into(offset, buffer)

    disk = Unreadable()
    with pytest.raises(DeviceError) as caught:
        overwrite(disk, lambda length: None, seeks=False, distance=NEAR)
    assert caught.value.code == "read_failed"
    assert disk.content == bytes(SIZE)


@pytest.mark.parametrize("at", [0, 50 * MIB, SIZE - MIB])
@pytest.mark.parametrize("what", ["write", "flush"])
def test_a_write_that_fails_ends_it(at, what):
    class Broken(Watched):
        def write_from(self, offset, buffer):
            if what == "write" and offset == at:
                raise DeviceError("no", code="write_failed")
            super().write_from(offset, buffer)

        def flush(self):
            if what == "flush" and at in self.landed:
                raise DeviceError("no", code="write_failed")
            super().flush()

    before = threading.active_count()
    with pytest.raises(DeviceError) as caught:
        overwrite(Broken(), lambda length: None, seeks=False, distance=NEAR)
    assert caught.value.code == "write_failed"
    assert threading.active_count() == before


@pytest.mark.parametrize("after", [8, 60, 100, 150])
def test_it_stops_where_it_is_told_to(after):
    """In the writing, in both, and in the reading alone."""
    told = []

    def advance(length):
        told.append(length)
        if sum(told) >= after * MIB:
            raise Cancelled("stop")

    disk, before = Watched(), threading.active_count()
    with pytest.raises(Cancelled):
        overwrite(disk, advance, seeks=False, distance=NEAR)
    assert threading.active_count() == before
    assert disk.traffic < 2 * SIZE


def test_a_device_that_ends_early_is_not_called_written():
    class Short(Watched):
        def write_from(self, offset, buffer):
            if offset + len(buffer) > SIZE - MIB:
                raise DeviceError("takes no bytes", code="write_failed")
            super().write_from(offset, buffer)

    for seeks in (True, False):
        with pytest.raises(DeviceError):
            overwrite(Short(), lambda length: None, seeks=seeks, distance=NEAR)


@pytest.mark.parametrize("size", [0, 512, 4096, MIB - 512, MIB, MIB + 4096, 9 * MIB + 512])
def test_odd_sizes_are_written_to_their_last_block(size):
    disk, told = MemoryDisk("sda", size), []
    assert write_zeros(disk, told.append) == size
    assert disk.content == bytes(size)
    assert disk.written == size
    assert sum(told) == size


def test_what_a_disk_costs_in_memory_does_not_grow_with_it():
    """Buffers of its own: one to read for each request in flight, and zeros to write and compare with."""

    class Empty:
        path, logical_block, size = "/dev/sda", 512, 8 << 30

        def __init__(self):
            self.buffers, self.guard = {}, threading.Lock()

        def note(self, buffer):
            with self.guard:
                self.buffers[id(buffer.obj)] = len(buffer.obj)

        def write_from(self, offset, buffer):
            self.note(buffer)

        read_into = write_from

        def flush(self):
            pass

    disk = Empty()
    done = overwrite(disk, lambda length: None, seeks=False)
    assert done.distance == DISTANCE
    assert done.readback.holds
    assert sum(disk.buffers.values()) <= (IN_FLIGHT + 1) * CHUNK


@pytest.mark.parametrize("block", [512, 4096])
@pytest.mark.parametrize("blocks", [1, 3, 255, 257, 64 * 256 + 1])
def test_every_request_is_of_whole_blocks(block, blocks):
    class Strict(Watched):
        logical_block = block

        def write_from(self, offset, buffer):
            assert offset % block == 0
            assert len(buffer) % block == 0
            super().write_from(offset, buffer)

        def read_into(self, offset, buffer):
            assert offset % block == 0
            assert len(buffer) % block == 0
            super().read_into(offset, buffer)

    disk = Strict(block * blocks)
    done = overwrite(disk, lambda length: None, seeks=False, distance=NEAR)
    assert done.readback.holds
    assert disk.content == bytes(block * blocks)
    assert disk.nearest >= (NEAR if done.distance else 0)
