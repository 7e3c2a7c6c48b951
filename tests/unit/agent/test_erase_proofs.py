"""Canaries, read-back and the kernel's log, each alone."""

from __future__ import annotations

import errno
import itertools
import random
import threading
from types import SimpleNamespace

import pytest

from fakes.disks import Bench, MemoryDisk, medium, nvme_medium
from teeth_agent.drives.ata_areas import Areas
from teeth_agent.erase.canary import choose_places, plant
from teeth_agent.erase.hidden import State, judge_ata, judge_nvme
from teeth_agent.erase.kernellog import KernelLog, about, open_kernel_log, parse_message
from teeth_agent.erase.model import group_units
from teeth_agent.erase.readback import read_zeros, sample
from teeth_agent.erase.stream import chunks, each_chunk
from teeth_agent.errors import DeviceError


@pytest.mark.parametrize("size", [512, 4096, 5120, 8192, 1 << 16, (1 << 20) + 512, 1 << 40])
def test_canaries_stand_apart_and_hold_both_ends(size):
    block = 4096
    places = choose_places(size, block, random.Random(1))
    assert places[0] == 0
    if size >= 2 * block:
        assert places[-1] == size - block
        assert all(b - a >= block for a, b in itertools.pairwise(places))
    if size > 1 << 20:
        assert len(places) == 70


def test_canaries_are_elsewhere_each_time():
    assert len({choose_places(1 << 40, 4096, random.SystemRandom()) for _ in range(5)}) == 5


@pytest.mark.parametrize("size", [512, 4096, 5120, 12288, 1 << 20])
def test_canaries_survive_until_they_are_erased(size):
    disk = MemoryDisk("sda", size=size)
    canaries = plant(disk)
    assert canaries.survivors(disk) == canaries.places
    disk.content[:] = bytes(size)
    assert canaries.survivors(disk) == ()
    assert canaries.missing(disk) == canaries.places


def test_a_single_byte_anywhere_is_found():
    for place in (0, 4095, (1 << 20) - 1, 1 << 20, (3 << 20) + 77, (4 << 20) + 511):
        disk = MemoryDisk("sda", size=(4 << 20) + 512)
        disk.content[:] = bytes(disk.size)
        disk.content[place] = 1
        found = read_zeros(disk, lambda length: None)
        assert found.mismatch == place
        assert not found.holds


def test_all_of_a_zero_disk_is_read_once():
    disk = MemoryDisk("sda", size=(4 << 20) + 512)
    disk.content[:] = bytes(disk.size)
    told = []
    found = read_zeros(disk, told.append)
    assert found.holds
    assert sum(told) == found.read == disk.size


@pytest.mark.parametrize("size", [64 << 20, (10 << 30) + 512, 4 << 40])
def test_a_sample_is_two_of_each_thousandth_and_a_tenth_of_all(size):
    ranges = sample(size, 512, random.Random(7))
    total = sum(length for _, length in ranges)
    assert total >= 0.1 * (size - size // 1000)
    assert all(start >= 0 and start + length <= size for start, length in ranges)
    assert all(start % 512 == 0 and length % 512 == 0 for start, length in ranges)
    assert ranges[:2] == [(0, 512), (size - 512, 512)]
    inner = sorted(ranges[2:])
    assert len(inner) >= 2000
    assert all(a + length <= b for (a, length), (b, _) in itertools.pairwise(inner))
    assert ranges == sample(size, 512, random.Random(7))
    assert ranges != sample(size, 512, random.Random(8))


def test_small_devices_are_not_sampled():
    assert sample(1 << 20, 512, random.Random(7)) == [(0, 1 << 20)]


def test_chunks_cover_ranges_in_order():
    assert list(chunks([(0, 5), (10, 2)], chunk=2)) == [(0, 2), (2, 2), (4, 1), (10, 2)]


def test_the_first_failure_ends_a_walk_and_is_raised():
    seen = []

    def make_worker():
        def worker(offset, length):
            seen.append(offset)
            if offset == 3 << 20:
                raise ValueError("here")
            return True

        return worker

    with pytest.raises(ValueError, match="here"):
        each_chunk([(0, 1 << 40)], make_worker)
    assert len(seen) < 1 << 20


def test_a_thread_that_cannot_start_leaves_none_behind(monkeypatch):
    start, running = threading.Thread.start, []

    def limited(thread):
        if len(running) == 2:
            raise RuntimeError("can't start new thread")
        running.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="start new thread"):
        each_chunk([(0, 1 << 50)], lambda: lambda offset, length: True)
    assert len(running) == 2
    assert not any(thread.is_alive() for thread in running)


(SDA,) = group_units(
    (
        medium(
            "sda",
            transport="sata",
            sysfs_path="/devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda",
        ),
    )
)
(NVME,) = group_units((nvme_medium("nvme1"),))


@pytest.mark.parametrize(
    ("unit", "message", "concerns"),
    [
        (SDA, "I/O error, dev sda, sector 1 op 0x0:(READ)", True),
        (SDA, "Buffer I/O error on dev sda1, logical block 0, async page read", True),
        (SDA, "I/O error, dev sdaa, sector 1", False),
        (SDA, "I/O error, dev sdb, sector 1", False),
        (SDA, "ata3.00: failed command: READ DMA EXT", True),
        (SDA, "ata3: hard resetting link", True),
        (SDA, "ata30: hard resetting link", False),
        (SDA, "sd 2:0:0:0: [sda] tag#0 FAILED Result: hostbyte=DID_OK", True),
        (SDA, "sd 12:0:0:0: timing out command", False),
        (NVME, "nvme nvme1: I/O tag 5 (1005) opcode 0x1 QID 1 timeout, aborting", True),
        (NVME, "nvme nvme10: controller is down; will reset", False),
        (NVME, "nvme1n1: I/O Cmd(0x2) @ LBA 0, 8 blocks, I/O Error (sct 0x2 / sc 0x81)", True),
        (NVME, "I/O error, dev nvme1c0n1p2, sector 0", True),
        (NVME, "I/O error, dev nvme11n1, sector 0", False),
        (NVME, "nvme 0000:00:06.0: Removing after probe failure status: -19", True),
    ],
)
def test_the_kernel_s_names_for_a_unit(unit, message, concerns):
    assert list(about(unit, [message])) == ([message] if concerns else [])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            b"3,812,5098,-;I/O error, dev sda, sector 0\n SUBSYSTEM=block\n DEVICE=b8:0\n",
            "I/O error, dev sda, sector 0",
        ),
        (b"12,813,5099,-;a program says: I/O error, dev sda", None),
        (b"rubbish", None),
        (b";", None),
    ],
)
def test_kernel_records(record, message):
    assert parse_message(record) == message


@pytest.mark.parametrize(
    "message",
    [
        b"sd 2:0:0:0: [sda] Synchronizing SCSI cache",
        b"sd 2:0:0:0: [sda] 16384 512-byte logical blocks",
        b" sda: sda1 sda2",
    ],
)
def test_ordinary_messages_are_no_trouble(message):
    bench = Bench([], [])
    bench.records = [b"6,1,1,-;" + message]
    assert bench.kernel_log().window(SDA).holds


def test_the_real_kernel_log_starts_now():
    with open_kernel_log() as log:
        assert isinstance(log, KernelLog)
        log.drain()


def test_without_a_kernel_log_nothing_is_proven(tmp_path):
    with open_kernel_log(str(tmp_path / "none")) as log:
        assert not log.window(SDA).holds


def test_a_window_begins_where_it_is_told_to():
    records = [b"3,1,1,-;sda: I/O error", b"3,2,2,-;sda: I/O error again"]

    def read():
        if not records:
            raise BlockingIOError(errno.EAGAIN, "")
        return records.pop(0)

    log = KernelLog(read)
    since = log.mark()
    assert len(log.window(SDA).lines) == 2
    assert log.window(SDA, since).holds
    records.append(b"3,3,3,-;sda: medium error")
    assert log.window(SDA, since).lines == ("sda: medium error",)


def controller(**changes):
    return SimpleNamespace(**{"unvmcap": 0, **changes})


def test_hidden_areas_of_nvme():
    assert judge_nvme((1,), controller(), (1,)).state is State.NONE
    assert judge_nvme((1,), controller(), (1, 2)).state is State.FOUND
    rest = judge_nvme((1,), controller(unvmcap=4), (1,))
    assert rest.state is State.FOUND
    assert rest.after_sanitize().holds
    assert not judge_nvme((1,), controller(unvmcap=4), (1, 2)).after_sanitize().holds


@pytest.mark.parametrize(
    ("native", "overlay", "state", "sanitized"),
    [
        (100, 100, State.NONE, State.NONE),
        (120, 120, State.FOUND, State.FOUND),
        (100, 120, State.FOUND, State.FOUND),
        (None, 120, State.UNKNOWN, State.UNKNOWN),
        (100, None, State.UNKNOWN, State.NONE),  # an overlay that is frozen
        (90, 100, State.UNKNOWN, State.UNKNOWN),
    ],
)
def test_hidden_areas_of_ata(native, overlay, state, sanitized):
    found = judge_ata(Areas(accessible=100, native=native, overlay=overlay))
    assert (found.state, found.after_sanitize().state) == (state, sanitized)


def test_a_size_that_folds_is_seen_by_its_canaries():
    class Folds(MemoryDisk):
        def store(self, offset, data):
            super().store(offset % (self.size // 2), data)

        def read_into(self, offset, buffer):
            super().read_into(offset % (self.size // 2), buffer)

    with pytest.raises(DeviceError, match="does not keep"):
        plant(Folds("sda"))
