"""Device reads and writes, on a file and, where the machine allows it, on a loop device."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess

import pytest

from teeth_agent import blockio
from teeth_agent.blockio import ZonedDevice, aligned_buffer, open_device, zones_of
from teeth_agent.errors import DeviceError

SIZE = 8 << 20


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"\xa5" * SIZE)
    return path


def attach(image, *options):
    if os.geteuid() or not shutil.which("losetup"):
        pytest.skip("needs root and losetup")
    done = subprocess.run(
        ["losetup", *options, "-f", "--show", str(image)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    return done.stdout.strip()


@pytest.fixture(params=["file", "loop"])
def path(request, image):
    if request.param == "file":
        yield str(image)
        return
    device = attach(image)
    yield device
    subprocess.run(["losetup", "-d", device], check=True)


def test_what_is_written_is_read(path):
    content = os.urandom(1 << 20)
    source, target = aligned_buffer(1 << 20), aligned_buffer(1 << 20)
    source[:] = content
    with open_device(path, write=True) as device:
        assert (device.size, device.logical_block) == (SIZE, 512)
        device.write_from(3 << 20, source)
        device.flush()
        device.read_into(3 << 20, target)
        assert target == content
        device.read_into(2 << 20, target)
        assert target == b"\xa5" * (1 << 20)


def test_zeroing_keeps_to_its_range(path):
    with open_device(path, write=True) as device:
        device.zero_range(1 << 20, 2 << 20)
        whole = aligned_buffer(SIZE)
        device.read_into(0, whole)
    assert whole[: 1 << 20] == b"\xa5" * (1 << 20)
    assert whole[1 << 20 : 3 << 20] == bytes(2 << 20)
    assert whole[3 << 20 :] == b"\xa5" * (5 << 20)


def test_reading_past_the_end_fails_and_names_the_place(path):
    with open_device(path, write=False) as device, pytest.raises(DeviceError, match=str(SIZE)) as caught:
        device.read_into(SIZE - 4096, aligned_buffer(8192))
    assert caught.value.code == "read_failed"


def test_writing_past_the_end_fails_before_anything_is_written(path):
    with open_device(path, write=True) as device:
        with pytest.raises(DeviceError) as caught:
            device.write_from(SIZE - 4096, aligned_buffer(8192))
        last = aligned_buffer(4096)
        device.read_into(SIZE - 4096, last)
    assert caught.value.code == "write_failed"
    assert last == b"\xa5" * 4096


def test_partitions_may_be_read_again_where_there_can_be_none(path):
    with open_device(path, write=True) as device:
        device.reread_partitions()


@pytest.mark.parametrize(("held", "patience", "code"), [(2, 10.0, ""), (1, 0.0, "device_busy")])
def test_a_partition_that_is_looked_into_is_waited_for(image, monkeypatch, held, patience, code):
    device, asked = attach(image), []

    def ioctl(descriptor, request, *rest):
        if request != blockio._BLKRRPART:
            return real(descriptor, request, *rest)
        asked.append(request)
        if len(asked) <= held:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return 0

    real = fcntl.ioctl
    monkeypatch.setattr(blockio.fcntl, "ioctl", ioctl)
    monkeypatch.setattr(blockio, "_REREAD_PATIENCE", patience)
    try:
        with open_device(device, write=True) as opened:
            if code:
                with pytest.raises(DeviceError) as caught:
                    opened.reread_partitions()
                assert caught.value.code == code
            else:
                opened.reread_partitions()
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    assert len(asked) == (held if code else held + 1)


def test_a_device_is_written_by_one_at_a_time(image):
    device = attach(image)
    try:
        with open_device(device, write=True):
            with pytest.raises(DeviceError) as caught, open_device(device, write=True):
                pass
            assert caught.value.code == "device_busy"
            with open_device(device, write=False):
                pass
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_a_read_only_device_is_told_from_a_missing_one(image, tmp_path):
    with pytest.raises(DeviceError) as caught, open_device(str(tmp_path / "none"), write=True):
        pass
    assert caught.value.code == "device_missing"
    device = attach(image, "--read-only")
    try:
        with pytest.raises(DeviceError) as caught, open_device(device, write=True):
            pass
        assert caught.value.code == "read_only"
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_a_folder_is_no_device(tmp_path):
    with pytest.raises(DeviceError) as caught, open_device(str(tmp_path), write=False):
        pass
    assert caught.value.code == "open_failed"


def test_files_and_loop_devices_have_no_zones(path):
    with open_device(path, write=False) as device:
        assert isinstance(device, ZonedDevice)
        assert zones_of(device) == ()
