"""Zoned drives: what the kernel tells of them, and that they are written as they must be."""

from __future__ import annotations

import errno
import itertools
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.zoned_disk import ZonedDisk
from teeth_agent.erase.canary import choose_in_zones, plant
from teeth_agent.erase.overwrite import overwrite
from teeth_agent.erase.readback import common, read_zeros
from teeth_agent.erase.stream import chunks, spans, write_zeros
from teeth_agent.errors import Cancelled, DeviceError
from teeth_agent.zoned import Zone, ZoneKind, parse_report, read_zones, reset_zones

MIB = 1 << 20


def zone(start, length=4, capacity=None, kind=ZoneKind.SEQUENTIAL, condition=14):
    """In MiB."""
    return Zone(
        start=start * MIB,
        length=length * MIB,
        capacity=(length if capacity is None else capacity) * MIB,
        kind=kind,
        condition=condition,
    )


HOST_MANAGED = (
    zone(0, kind=ZoneKind.CONVENTIONAL, condition=0),
    zone(4, kind=ZoneKind.CONVENTIONAL, condition=0),
    *(zone(start, capacity=3) for start in range(8, 40, 4)),
    zone(40, length=2),
)
HOST_AWARE = tuple(zone(start, kind=ZoneKind.PREFERRED) for start in range(0, 16, 4))
ALL_IN_ORDER = tuple(zone(start) for start in range(0, 16, 4))


@pytest.mark.parametrize("zones", [HOST_MANAGED, HOST_AWARE, ALL_IN_ORDER])
@pytest.mark.parametrize("seeks", [True, False])
def test_a_zoned_disk_is_written_whole_in_order_and_read_back(zones, seeks):
    disk, told = ZonedDisk(zones), []
    done = overwrite(disk, told.append, seeks=seeks, distance=MIB)
    able = sum(zone.capacity for zone in zones)
    assert done.written == done.readback.read == done.readback.planned == able
    assert done.readback.holds
    assert sum(told) == 2 * able
    for one in zones:
        assert disk.content[one.start : one.start + one.capacity] == bytes(one.capacity)
    assert sorted(disk.resets) == [one.start for one in zones if one.in_order]


@pytest.mark.parametrize(("condition", "word"), [(0xD, "read-only"), (0xF, "offline")])
@pytest.mark.parametrize("kind", [ZoneKind.SEQUENTIAL, ZoneKind.CONVENTIONAL])
def test_a_zone_that_cannot_be_written_fails_the_disk_after_all_others_are(condition, word, kind):
    bad = zone(8, kind=kind, condition=condition)
    disk = ZonedDisk((zone(0), zone(4), bad, zone(12)))
    with pytest.raises(DeviceError, match=f"zone at byte {bad.start} is {word}") as caught:
        overwrite(disk, lambda length: None, seeks=False)
    assert caught.value.code == "zone_unwritable"
    assert disk.content.count(0) == 12 * MIB


def test_a_byte_left_in_a_zone_is_found_at_its_place():
    place = HOST_MANAGED[5].start + MIB + 33

    class Stale(ZonedDisk):
        def store(self, offset, data):
            super().store(offset, data)
            self.content[place] = 1

    assert overwrite(Stale(HOST_MANAGED), lambda length: None, seeks=False).readback.mismatch == place


def test_a_failed_write_and_a_stop_end_it():
    class Broken(ZonedDisk):
        def reset_zones(self, offset, length):
            if offset >= 20 * MIB:
                raise DeviceError("no", code="write_failed")
            super().reset_zones(offset, length)

    def stop(length):
        raise Cancelled("stop")

    with pytest.raises(DeviceError):
        write_zeros(Broken(HOST_MANAGED), lambda length: None)
    with pytest.raises(Cancelled):
        write_zeros(ZonedDisk(HOST_MANAGED), stop)


@pytest.mark.parametrize("zones", [HOST_MANAGED, HOST_AWARE, ALL_IN_ORDER, HOST_MANAGED[-1:]])
def test_canaries_land_in_zones_and_are_gone_afterwards(zones):
    disk = ZonedDisk([*zones] if zones[0].start == 0 else [zone(0), zone(4)])
    canaries = plant(disk)
    assert canaries.survivors(disk) == canaries.places
    assert len(canaries.places) == len(disk.layout)
    write_zeros(disk, lambda length: None)
    assert canaries.survivors(disk) == ()


def test_canaries_of_many_zones_are_in_the_first_the_last_and_64_others():
    many = [zone(4 * index) for index in range(1000)]
    places = choose_in_zones(many, 4096, random.Random(1))
    assert len(places) == 66
    assert (places[0], places[-1]) == (0, many[-1].start)
    assert places != choose_in_zones(many, 4096, random.Random(2))


def test_a_sample_leaves_out_what_has_no_medium():
    disk = ZonedDisk([zone(start, capacity=3) for start in range(0, 64, 4)])
    write_zeros(disk, lambda length: None)
    found = read_zeros(disk, lambda length: None, sampled=True, seed=5)
    assert found.holds
    assert 0.06 * disk.size < found.planned < 0.12 * disk.size


RANGES = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), max_size=20)
ZONES = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 40)).filter(lambda pair: pair[1] <= pair[0]), max_size=12
)


def layout(pairs):
    starts = itertools.accumulate((length for length, _ in pairs), initial=0)
    return [Zone(start=start, length=length, capacity=able) for start, (length, able) in zip(starts, pairs)]  # noqa: B905 - one more


def covered(ranges):
    return [place for start, length in ranges for place in range(start, start + length)]


@given(ZONES)
def test_spans_are_what_can_be_written_and_none_touch(pairs):
    zones = layout(pairs)
    found = spans(zones, sum(length for length, _ in pairs))
    if zones:
        assert covered(found) == covered((zone.start, zone.capacity) for zone in zones)
        assert all(a + length < b for (a, length), (b, _) in itertools.pairwise(found))


@given(RANGES, ZONES)
def test_common_is_what_is_in_both(chosen, pairs):
    present = [one for one in spans(layout(pairs), 0) if one[1]]
    inside = set(covered(present))
    assert covered(common(chosen, present)) == [place for place in covered(chosen) if place in inside]


@given(RANGES, st.integers(1, 70))
def test_chunks_are_the_ranges_in_order(ranges, chunk):
    found = list(chunks(ranges, chunk))
    assert covered(found) == covered(ranges)
    assert all(0 < length <= chunk for _, length in found)


# --- the kernel's words


def record(start, length, kind, condition, capacity):
    """struct blk_zone, <linux/blkzoned.h>: 64 bytes."""
    return struct.pack("=QQQBBBB4sQ24s", start, length, start, kind, condition, 0, 0, b"", capacity, b"")


class Kernel:
    """What the ioctls of one zoned device answer."""

    def __init__(self, records, flags=1):
        self.records, self.flags = records, flags
        self.count = len(records)
        self.resets = []

    def ioctl(self, descriptor, request, argument):
        if request == 0x80041285:  # BLKGETNRZONES
            return struct.pack("I", self.count)
        if request == 0x40101283:  # BLKRESETZONE
            self.resets.append(struct.unpack("QQ", argument))
            return argument
        assert request == 0xC0101282  # BLKREPORTZONE
        sector, asked, _ = struct.unpack_from("=QII", argument)
        found = [one for one in self.records if struct.unpack_from("Q", one)[0] >= sector][:asked]
        argument[:] = (struct.pack("=QII", sector, len(found), self.flags) + b"".join(found)).ljust(
            len(argument), b"\0"
        )
        return 0


@pytest.fixture
def kernel(monkeypatch):
    def install(kernel):
        monkeypatch.setattr("teeth_agent.zoned.fcntl.ioctl", kernel.ioctl)
        return kernel

    return install


def test_zones_are_read_in_several_answers(kernel):
    kernel(Kernel([record(index * 8, 8, 1 if index < 3 else 2, 1, 8) for index in range(700)]))
    zones = read_zones(3, "/dev/sdz", 700 * 4096)
    assert len(zones) == 700
    assert [one.kind for one in zones[:4]] == [ZoneKind.CONVENTIONAL] * 3 + [ZoneKind.SEQUENTIAL]
    assert zones[-1] == Zone(start=699 * 4096, length=4096, capacity=4096, condition=1)


def test_the_capacity_counts_only_where_the_kernel_gives_it():
    one = record(0, 8, 2, 1, 6)
    assert [z.capacity for z in parse_report(struct.pack("=QII", 0, 1, 1) + one)] == [6 * 512]
    assert [z.capacity for z in parse_report(struct.pack("=QII", 0, 1, 0) + one)] == [8 * 512]


@pytest.mark.parametrize(
    "records",
    [
        [],
        [record(8, 8, 2, 1, 8)],
        [record(0, 8, 2, 1, 8)],
        [record(0, 0, 2, 1, 0), record(8, 8, 2, 1, 8)],
        [record(0, 8, 2, 1, 9), record(8, 8, 2, 1, 8)],
        [record(0, 8, 9, 1, 8), record(8, 8, 2, 1, 8)],
    ],
)
def test_zones_that_make_no_sense_are_not_believed(kernel, records):
    fake = kernel(Kernel(records))
    fake.count = 2
    with pytest.raises(DeviceError) as caught:
        read_zones(3, "/dev/sdz", 8192)
    assert caught.value.code == "zones_unreadable"


def test_more_zones_than_any_drive_has_are_not_read(kernel):
    kernel(Kernel([])).count = 1 << 31
    with pytest.raises(DeviceError, match="claims"):
        read_zones(3, "/dev/sdz", 8192)


@pytest.mark.parametrize(("error", "zones"), [(errno.ENOTTY, ()), (errno.EINVAL, ()), (errno.EIO, None)])
def test_a_kernel_without_zoned_devices_has_no_zones(monkeypatch, error, zones):
    def ioctl(*arguments):
        raise OSError(error, "no")

    monkeypatch.setattr("teeth_agent.zoned.fcntl.ioctl", ioctl)
    if zones is None:
        with pytest.raises(DeviceError):
            read_zones(3, "/dev/sdz", 8192)
    else:
        assert read_zones(3, "/dev/sdz", 8192) == zones


def test_a_reset_is_given_in_sectors(kernel):
    fake = kernel(Kernel([]))
    reset_zones(3, "/dev/sdz", 4 * MIB, 2 * MIB)
    assert fake.resets == [(8192, 4096)]
