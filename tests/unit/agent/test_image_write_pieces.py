"""Pieces in any order onto a disk: covered, proven, and stopped at the first trouble."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.disks import MemoryDisk
from teeth_agent.errors import AgentError, Cancelled, DeviceError
from teeth_agent.image import readback
from teeth_agent.image.pieces import ALIGN, PIECE, BufferPool, Packed, Piece, Window
from teeth_agent.image.rawproof import RawChunks, check_by_rereading
from teeth_agent.image.write import DiskWriter, Expected
from teeth_agent.image.zeroruns import GRAIN, runs

MIB = 1 << 20


def given_pieces(image, cuts, pool, *, order=None, pack=()):
    """The image in pieces that end at ``cuts``; zeros as such, every one in ``pack`` packed."""
    bounds = sorted({0, len(image), *(cut for cut in cuts if cut < len(image))})
    spans = list(enumerate(itertools.pairwise(bounds)))
    for number, (start, end) in spans if order is None else order(spans):
        content = image[start:end]
        if not any(content):
            yield Piece(offset=start, length=end - start, data=None)
            continue
        buffer = pool.take()
        buffer[: len(content)] = content
        if number in pack:
            yield packed_piece(start, end - start, buffer)
        else:
            yield Piece(offset=start, length=end - start, data=buffer[: end - start])


def packed_piece(offset, length, buffer):
    def unpack(out):
        assert len(out) == length
        out[:] = buffer[:length]

    return Packed(offset=offset, length=length, unpack=unpack, packed=buffer)


def put(disk, image, *, cuts=(), reads_zero=False, seeks=False, tick=None, order=None, pack=(), **known):
    expected = Expected(**{"raw_size": len(image), **known})
    tick = tick or (lambda _written: None)
    writer = DiskWriter(disk, reads_zero=reads_zero, seeks=seeks, expected=expected, tick=tick)
    pool = BufferPool()
    steps = range(PIECE, len(image), PIECE)
    pieces = given_pieces(image, [*cuts, *steps], pool, order=order, pack=pack)
    written = writer.write(pieces, pool, lambda: None)
    writer.finish()
    return written


def zero_disk(size, **changes):
    disk = MemoryDisk("sda", size)
    disk.content[:] = bytes(size)
    for name, value in changes.items():
        setattr(disk, name, value)
    return disk


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 12 * MIB // ALIGN - 1), max_size=8, unique=True),
    st.lists(st.booleans(), min_size=12, max_size=12),
    st.sampled_from([0, 1, 511, ALIGN]),
    st.sampled_from([12 * MIB + 2 * ALIGN, 13 * MIB, 20 * MIB]),
    st.sampled_from([512, 4096]),
    st.booleans(),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_whatever_the_pieces_are_the_image_is_on_the_disk(
    cuts, zeros, tail, size, block, reads_zero, seeks, rng
):
    source = random.Random(len(cuts))
    image = b"".join(bytes(MIB) if zero else source.randbytes(MIB) for zero in zeros) + b"t" * tail
    disk = zero_disk(size) if reads_zero else MemoryDisk("sda", size)
    disk.logical_block = block

    def shuffled(spans):
        rng.shuffle(spans)
        return spans

    written = put(
        disk,
        image,
        cuts=[cut * ALIGN for cut in cuts],
        reads_zero=reads_zero,
        seeks=seeks,
        order=shuffled,
        pack={number for number in range(20) if rng.random() < 0.5},
    )
    assert bytes(disk.content[: len(image)]) == image
    assert written.raw_bytes == len(image)
    padded = -(-len(image) // block) * block
    assert written.written_bytes + written.skipped_bytes == padded
    # All but what was held back.
    assert written.read_back == min(padded, size - MIB) - MIB


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0, 0, 1]), min_size=1, max_size=20), st.integers(0, GRAIN - 1), st.booleans()
)
def test_runs_cover_a_buffer_and_call_zero_what_is_zero(grains, cut, all_worth):
    content = b"".join(bytes([value]) * GRAIN for value in grains)
    content = content[: len(content) - cut]
    worth = GRAIN if all_worth else 3 * GRAIN
    found = list(runs(memoryview(bytearray(content)), worth))
    assert [start for start, _, _ in found] == [0, *(end for _, end, _ in found[:-1])]
    assert found[-1][1] == len(content)
    for start, end, zero in found:
        assert not zero or not any(content[start:end])
        assert not zero or end - start >= worth or end - start == len(content)
    assert all(one[2] != two[2] for one, two in itertools.pairwise(found))


def test_a_disk_that_wraps_around_is_found_even_when_the_first_windows_were_good(monkeypatch):
    """Half of the memory that it says: what comes late lands where something was proven before."""
    monkeypatch.setattr(readback, "WINDOW", MIB)

    class Wraps(MemoryDisk):
        half = 16 * MIB
        read = 0
        changed = threading.Condition()

        def store(self, offset, data):
            if offset >= self.half and any(data):
                with self.changed:
                    assert self.changed.wait_for(lambda: self.read >= self.half - MIB, timeout=30)
            super().store(offset % self.half, data)

        def read_into(self, offset, buffer):
            super().read_into(offset % self.half, buffer)
            with self.changed:
                self.read += len(buffer)
                self.changed.notify_all()

    with pytest.raises(DeviceError) as caught:
        put(Wraps("sda", 32 * MIB), random.Random(1).randbytes(24 * MIB))
    assert caught.value.code == "verify_failed"


def test_skipped_zeros_are_looked_at_in_samples_and_at_their_ends():
    image = b"x" * (2 * MIB) + bytes(190 * MIB) + b"y" * MIB
    seen = []

    class Watches(MemoryDisk):
        def read_into(self, offset, buffer):
            seen.append((offset, len(buffer)))
            super().read_into(offset, buffer)

    size = 200 * MIB
    disk = Watches("sda", 8)
    disk.size, disk.content = size, bytearray(size)
    written = put(disk, image, reads_zero=True)
    zeros = [(offset, length) for offset, length in seen if 2 * MIB <= offset < 192 * MIB]
    assert (2 * MIB, GRAIN) in zeros
    assert (192 * MIB - GRAIN, GRAIN) in zeros
    assert {(offset - 2 * MIB) // (64 * MIB) for offset, _ in zeros} == {0, 1, 2}
    assert sum(length for _, length in zeros) < MIB
    assert written.read_back == len(image) - MIB  # the first MiB is held back


@pytest.mark.parametrize("place", [2 * MIB + 5, 192 * MIB - 1])
def test_the_ends_of_skipped_zeros_are_always_looked_at(place):
    disk = MemoryDisk("sda", 8)
    disk.size, disk.content = 200 * MIB, bytearray(200 * MIB)
    disk.content[place] = 1
    with pytest.raises(DeviceError) as caught:
        put(disk, b"x" * (2 * MIB) + bytes(190 * MIB) + b"y" * MIB, reads_zero=True)
    assert caught.value.code == "verify_failed"


@pytest.mark.parametrize(("size", "code"), [(9 * MIB, "image_size"), (11 * MIB, "image_truncated")])
def test_another_size_than_expected_is_refused(size, code):
    disk = MemoryDisk("sda", 16 * MIB)
    with pytest.raises(AgentError) as caught:
        put(disk, b"x" * (10 * MIB), raw_size=size)
    assert caught.value.code == code
    assert disk.content[:MIB] == bytes(MIB)


def failing(error, after):
    class Fails(MemoryDisk):
        count = 0

        def write_from(self, offset, buffer):
            with self.guard:
                self.count += 1
                late = self.count > after
            if late:
                raise error
            super().write_from(offset, buffer)

    return Fails("sda", 64 * MIB)


@pytest.mark.parametrize("why", ["No space left on device", "Input/output error", "No such device"])
def test_a_disk_that_fails_or_goes_away_ends_all_threads_with_its_own_error(why):
    disk = failing(DeviceError(f"/dev/sda: write failed: {why}", code="write_failed"), after=3)
    before = threading.active_count()
    with pytest.raises(DeviceError, match=why) as caught:
        put(disk, random.Random(2).randbytes(40 * MIB))
    assert caught.value.code == "write_failed"
    assert disk.content[:MIB] == disk.content[-MIB:] == bytes(MIB)
    assert threading.active_count() == before


def test_a_flush_that_fails_is_a_failed_write():
    class Forgets(MemoryDisk):
        flushes = 0

        def flush(self):
            self.flushes += 1
            if self.flushes > 1:
                raise DeviceError("flush failed", code="write_failed")

    with pytest.raises(DeviceError, match="flush failed"):
        put(Forgets("sda", 8 * MIB), b"x" * (4 * MIB))


def test_who_waits_for_its_turn_to_hash_is_woken_when_another_fails():
    image = random.Random(3).randbytes(40 * MIB)

    def refuse(written):
        if written.raw_bytes >= 8 * MIB:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        put(MemoryDisk("sda", 64 * MIB), image, tick=refuse, raw_digest="sha256:" + "0" * 64)


@pytest.mark.parametrize("zero_start", [False, True])
def test_a_raw_digest_is_of_the_image_in_its_order(zero_start):
    image = bytes(8 * MIB) * zero_start + random.Random(4).randbytes(17 * MIB) + bytes(5 * MIB) + b"end"
    digest = "sha512:" + hashlib.sha512(image).hexdigest()
    put(MemoryDisk("sda", 40 * MIB), image, raw_digest=digest)
    with pytest.raises(AgentError) as caught:
        put(MemoryDisk("sda", 40 * MIB), image[:-1] + b"!", raw_digest=digest)
    assert caught.value.code == "digest_mismatch"


def test_a_raw_digest_can_be_had_from_the_disk_and_what_is_held_back():
    image = random.Random(5).randbytes(9 * MIB + 700)
    disk = MemoryDisk("sda", 9 * MIB + 1024)
    writer = DiskWriter(disk, reads_zero=False, seeks=False, expected=Expected(), tick=lambda _written: None)
    pool = BufferPool()
    written = writer.write(given_pieces(image, [4 * MIB, 8 * MIB], pool), pool, lambda: None)
    digest = "sha256:" + hashlib.sha256(image).hexdigest()
    check_by_rereading(disk, writer.ends, written.raw_bytes, digest, lambda _length: None)
    assert disk.content[:MIB] == bytes(MIB)
    with pytest.raises(AgentError):
        check_by_rereading(disk, writer.ends, written.raw_bytes - 1, digest, lambda _length: None)


def chunks_of(image, size, *, wrong=None):
    parts = [image[start : start + size] for start in range(0, len(image), size)]
    digests = [hashlib.sha256(part).hexdigest() if any(part) else "" for part in parts]
    if wrong is not None:
        digests[wrong] = hashlib.sha256(b"something else").hexdigest()
    return RawChunks(size=size, raw_size=len(image), digests=digests)


RAW = random.Random(6).randbytes(9 * MIB) + bytes(7 * MIB) + random.Random(7).randbytes(2 * MIB + 300)


@pytest.mark.parametrize("size", [PIECE, MIB, 64 << 10])
@pytest.mark.parametrize("reads_zero", [False, True])
def test_all_of_an_image_is_proven_by_its_manifest(size, reads_zero):
    disk = zero_disk(24 * MIB) if reads_zero else MemoryDisk("sda", 24 * MIB)
    written = put(disk, RAW, reads_zero=reads_zero, raw_chunks=chunks_of(RAW, size))
    assert written.by_manifest == written.raw_bytes == len(RAW)
    assert bytes(disk.content[: len(RAW)]) == RAW


@pytest.mark.parametrize("wrong", [0, 1, 3, 4])
def test_a_chunk_that_is_not_the_manifests_is_the_images_fault(wrong):
    disk = MemoryDisk("sda", 24 * MIB)
    with pytest.raises(AgentError) as caught:
        put(disk, RAW, raw_chunks=chunks_of(RAW, PIECE, wrong=wrong))
    assert caught.value.code == "digest_mismatch"
    assert not isinstance(caught.value, DeviceError)
    assert disk.content[:MIB] == bytes(MIB)


def test_a_chunk_that_does_not_stay_is_the_disks_fault():
    class Forgets(MemoryDisk):
        def store(self, offset, data):
            super().store(offset, data)
            if any(data) and offset <= 5 * MIB < offset + len(data):
                self.content[5 * MIB] ^= 1

    with pytest.raises(DeviceError) as caught:
        put(Forgets("sda", 24 * MIB), RAW, raw_chunks=chunks_of(RAW, PIECE))
    assert caught.value.code == "verify_failed"


def test_an_image_in_a_window_leaves_the_rest_of_the_disk_alone():
    disk = MemoryDisk("sda", 32 * MIB)
    before = bytes(disk.content)
    image = random.Random(8).randbytes(6 * MIB)
    put(Window(disk, 4 * MIB, 10 * MIB), image)
    assert bytes(disk.content[: 4 * MIB]) == before[: 4 * MIB]
    assert bytes(disk.content[4 * MIB : 10 * MIB]) == image
    assert bytes(disk.content[14 * MIB :]) == before[14 * MIB :]
