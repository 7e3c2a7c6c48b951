"""Lent buffers and windows of a device."""

from __future__ import annotations

import threading

import pytest

from fakes.disks import MemoryDisk
from teeth_agent.blockio import aligned_buffer
from teeth_agent.errors import Cancelled, DeviceError
from teeth_agent.image.pieces import ROOM, BufferPool, Window


def test_a_buffer_is_lent_again_once_any_part_of_it_came_back():
    pool = BufferPool(2)
    first, second = pool.take(), pool.take()
    assert len(first) == len(second) == ROOM
    got = []
    waiting = threading.Thread(target=lambda: got.append(pool.take()))
    waiting.start()
    pool.give_back(first[4096:8192])
    waiting.join(10)
    assert got[0].obj is first.obj


def test_who_waits_for_a_buffer_is_told_to_stop():
    pool = BufferPool(1)
    pool.take()
    raised = []

    def wait():
        try:
            pool.take()
        except Cancelled as error:
            raised.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    pool.stop()
    waiting.join(10)
    assert raised
    with pytest.raises(Cancelled):
        pool.take()


def test_a_window_reaches_its_own_bytes_and_no_others():
    disk = MemoryDisk("sda", 1 << 20)
    before = bytes(disk.content)
    window = Window(disk, 4096, 8192)
    buffer = aligned_buffer(4096)
    buffer[:] = b"\xab" * 4096
    window.write_from(4096, buffer)
    window.zero_range(0, 4096)
    expected = before[:4096] + bytes(4096) + b"\xab" * 4096 + before[12288:]
    assert bytes(disk.content) == expected
    window.read_into(4096, buffer)
    assert bytes(buffer) == b"\xab" * 4096
    for offset in (-4096, 8192, 6144):
        with pytest.raises(DeviceError) as caught:
            window.write_from(offset, buffer)
        assert caught.value.code == "write_failed"
        with pytest.raises(DeviceError):
            window.read_into(offset, buffer)
        with pytest.raises(DeviceError):
            window.zero_range(offset, 4096)
    assert bytes(disk.content) == expected


@pytest.mark.parametrize(("offset", "length"), [(100, 4096), (0, 100), (4096, 1 << 20), (-512, 512)])
def test_a_window_that_is_no_part_of_the_device_is_refused(offset, length):
    with pytest.raises(ValueError, match="a window"):
        Window(MemoryDisk("sda", 1 << 20), offset, length)
