"""Writing onto honest, lying and failing disks: nothing boots before all of it was read back."""

from __future__ import annotations

import random

import pytest

from fakes.disks import FailsHalfway, MemoryDisk
from teeth_agent.errors import AgentError, DeviceError
from teeth_agent.image.ahead import Ahead
from teeth_agent.image.decompress import stream_pieces
from teeth_agent.image.pieces import BufferPool
from teeth_agent.image.write import DiskWriter, Expected

CHUNK = 1 << 20
RNG = random.Random(5)
# Head, data, zeros, data, and a tail that is no whole block.
IMAGE = (
    b"\x11" * 510
    + b"\x55\xaa"
    + RNG.randbytes(CHUNK - 512)
    + RNG.randbytes(CHUNK)
    + bytes(2 * CHUNK)
    + RNG.randbytes(CHUNK // 2 + 512)
)


class Watched(MemoryDisk):
    """Keeps every write's offset; optionally known to read zero; 4096 byte blocks if asked."""

    def __init__(self, size, *, zero=False, logical_block=512):
        super().__init__("sda", size)
        self.logical_block = logical_block
        self.writes = []
        self.zeroed = []
        if zero:
            self.content[:] = bytes(size)

    def write_from(self, offset, buffer):
        assert offset % self.logical_block == 0
        assert len(buffer) % self.logical_block == 0
        self.writes.append(offset)
        super().write_from(offset, buffer)

    def zero_range(self, offset, length):
        assert offset % self.logical_block == 0
        assert length % self.logical_block == 0
        self.zeroed.append((offset, length))
        super().zero_range(offset, length)


def put(disk, image=IMAGE, *, reads_zero=False, seeks=False, tick=lambda written: None, pieces=None, **known):
    writer = DiskWriter(disk, reads_zero=reads_zero, seeks=seeks, expected=Expected(**known), tick=tick)
    pool = BufferPool()
    with Ahead([image]) as ahead:
        given = stream_pieces("none", ahead, pool) if pieces is None else pieces(pool)
        written = writer.write(given, pool, ahead.interrupt)
    writer.finish()
    return written


@pytest.mark.parametrize("logical_block", [512, 4096])
@pytest.mark.parametrize("size", [len(IMAGE), len(IMAGE) + 4096, 8 * CHUNK, 8 * CHUNK + 512 * 8])
def test_the_image_is_on_the_disk_and_nothing_bootable_before_the_last_write(size, logical_block):
    size = -(-size // logical_block) * logical_block
    disk = Watched(size, logical_block=logical_block)
    written = put(disk)
    assert disk.content[: len(IMAGE)] == IMAGE
    assert disk.writes[-1] == 0
    assert disk.writes.count(0) == 1
    assert written.raw_bytes == len(IMAGE)
    assert written.zero_bytes >= CHUNK  # the other zero chunk may be held back
    assert written.skipped_bytes == 0


def test_zeros_are_skipped_only_where_the_disk_is_known_to_read_zero():
    disk = Watched(8 * CHUNK, zero=True)
    written = put(disk, reads_zero=True)
    assert disk.content[: len(IMAGE)] == IMAGE
    assert written.skipped_bytes == written.zero_bytes == 2 * CHUNK
    assert disk.zeroed == [(0, CHUNK), (7 * CHUNK, CHUNK)]  # the ends, always
    assert written.written_bytes + written.skipped_bytes == len(IMAGE)


def test_what_was_believed_zero_and_is_not_is_found():
    disk = Watched(8 * CHUNK, zero=True)
    disk.content[2 * CHUNK + 5] = 1
    with pytest.raises(DeviceError) as caught:
        put(disk, reads_zero=True)
    assert caught.value.code == "verify_failed"
    assert str(2 * CHUNK) in str(caught.value)
    assert 0 not in disk.writes


def test_both_ends_are_zero_until_the_body_is_verified():
    disk = Watched(8 * CHUNK)
    seen = []

    def tick(written):
        seen.append((bytes(disk.content[:512]), bytes(disk.content[-512:])))

    put(disk, tick=tick)
    assert set(seen) == {(bytes(512), bytes(512))}


def test_an_image_as_large_as_the_disk_keeps_its_end_back_too():
    image = RNG.randbytes(3 * CHUNK) + b"backup table".ljust(512, b"!")
    disk = Watched(len(image))
    ends = []
    put(disk, image, tick=lambda written: ends.append(bytes(disk.content[-512:])))
    assert set(ends) == {bytes(512)}
    assert disk.content == image
    assert disk.writes[-1] == 0


@pytest.mark.parametrize("image", [b"x" * 512, b"x" * 1000, bytes(CHUNK), b"y" * CHUNK, b"y" * 2 * CHUNK])
def test_small_images(image):
    disk = Watched(4 * CHUNK)
    assert put(disk, image).raw_bytes == len(image)
    assert disk.content[: len(image)] == image


def test_a_bit_that_does_not_stay_is_found_with_its_place():
    class Forgets(Watched):
        def store(self, offset, data):
            super().store(offset, data)
            if offset == CHUNK and any(data):
                self.content[CHUNK + 77] ^= 1

    disk = Forgets(8 * CHUNK)
    with pytest.raises(DeviceError) as caught:
        put(disk)
    assert caught.value.code == "verify_failed"
    assert f"byte {CHUNK} " in str(caught.value)
    assert disk.content[:CHUNK] == bytes(CHUNK)


def test_a_disk_that_wraps_around_is_found():
    class Wraps(Watched):
        """A forged stick: twice the addresses that it has memory."""

        def store(self, offset, data):
            super().store(offset % (2 * CHUNK), data)

        def read_into(self, offset, buffer):
            super().read_into(offset % (2 * CHUNK), buffer)

    with pytest.raises(DeviceError) as caught:
        put(Wraps(8 * CHUNK))
    assert caught.value.code == "verify_failed"


def test_a_write_error_leaves_no_boot_sector():
    disk = FailsHalfway("sda", 4 * CHUNK)
    with pytest.raises(DeviceError) as caught:
        put(disk, RNG.randbytes(4 * CHUNK))
    assert caught.value.code == "write_failed"
    assert disk.content[:CHUNK] == bytes(CHUNK)


def test_an_image_that_turns_out_too_large_stops_at_the_end_of_the_disk():
    disk = Watched(2 * CHUNK)
    with pytest.raises(AgentError) as caught:
        put(disk)
    assert caught.value.code == "disk_too_small"
    assert disk.content[:512] == bytes(512)


def test_what_the_head_is_refused_for_is_found_before_it_is_written():
    def check(head):
        assert bytes(head[:512]) == IMAGE[:512]
        raise AgentError("no", code="sector_size")

    disk = Watched(8 * CHUNK)
    with pytest.raises(AgentError) as caught:
        put(disk, check_head=check)
    assert caught.value.code == "sector_size"
    assert disk.content[:CHUNK] == bytes(CHUNK)


def test_a_head_shorter_than_a_mib_is_looked_at_too():
    seen = []
    put(Watched(4 * CHUNK), b"head".ljust(1024, b"!"), check_head=lambda head: seen.append(bytes(head[:4])))
    assert seen == [b"head"]
