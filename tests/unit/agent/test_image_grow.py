"""The last partition grown to the disk's end on files and loop devices, and read by sgdisk and e2fsck."""

from __future__ import annotations

import os
import subprocess
import uuid

import pytest

from fakes import diskimages
from fakes.diskimages import can_loop, run
from teeth_agent.blockio import open_device
from teeth_agent.errors import AgentError, DeviceError
from teeth_agent.image import configdrive, disktable
from teeth_agent.image.grow import ROOM, Grown, grow
from teeth_image import gpt, gptgrow

MIB = 1 << 20
DISK = 200 * MIB
LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
needs_loop = pytest.mark.skipif(not can_loop(), reason="needs root and loop devices")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    work = tmp_path_factory.mktemp("image")
    return diskimages.make(work / "image.raw", work).read_bytes()


@pytest.fixture
def disk(image, tmp_path):
    path = tmp_path / "sda"
    path.write_bytes(image)
    os.truncate(path, DISK)
    return path


def grown(path, mode="filesystem"):
    with open_device(str(path), write=True) as device:
        return grow(device, mode)


def table(path):
    with open_device(str(path), write=False) as device:
        return disktable.read(device)


def sound(path):
    assert b"No problems found" in run("sgdisk", "--verify", str(path))


def filesystem_bytes(path, offset):
    said = run("dumpe2fs", "-h", f"{path}?offset={offset}").decode()
    fields = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    return int(fields["Block count"]) * int(fields["Block size"])


@needs_loop
def test_partition_and_file_system(disk):
    before = table(disk).partitions[-1]
    assert grown(disk) == Grown(what="filesystem")
    found = table(disk)
    last = found.partitions[-1]
    assert (last.number, last.first, last.kind) == (3, before.first, LINUX)
    sound(disk)
    assert found.length(last) == filesystem_bytes(disk, found.offset(last))
    assert (
        subprocess.run(
            ["e2fsck", "-fn", f"{disk}?offset={found.offset(last)}"], capture_output=True
        ).returncode
        == 0
    )
    assert run("debugfs", "-R", "cat /etc/hostname", f"{disk}?offset={found.offset(last)}") == b"small\n"


def test_the_largest_config_drive_fits_behind(disk):
    assert grown(disk, "partition") == Grown(what="partition")
    found = table(disk)
    assert gpt.plan_at_end(found, ROOM).first == found.partitions[-1].last + 1
    assert ROOM == configdrive._LARGEST


def test_everything_but_the_end_stays_as_it_was(disk):
    """A name that tools would not give back, attributes, the GUIDs, and every other byte of the disk."""
    run("sgdisk", "-e", "--change-name=3:wörld: x", "--attributes=3:=:8000000000000005", str(disk))
    before = bytearray(disk.read_bytes())
    grown(disk, "partition")
    after = disk.read_bytes()
    changed = {index for index in range(0, DISK, 4) if before[index : index + 4] != after[index : index + 4]}
    entry = 1024 + 2 * 128 + 40
    backup = DISK - 512
    assert changed <= {
        512 + 16, 512 + 88, entry, entry + 4,
        backup + 16, backup + 88, DISK - 33 * 512 + entry - 1024, DISK - 33 * 512 + entry - 1020,
    }  # fmt: skip
    sound(disk)


def test_nothing_is_done_unless_asked(disk):
    before = disk.read_bytes()
    assert grown(disk, "none") == Grown(what="none")
    assert disk.read_bytes() == before


@needs_loop
def test_a_second_time_there_is_no_room(disk):
    grown(disk)
    before = disk.read_bytes()
    assert grown(disk, "partition") == Grown(
        what="none", reason="behind the last partition (number 3) there is no room but for a config drive"
    )
    assert disk.read_bytes() == before
    assert grown(disk) == Grown(what="none", reason="the ext4 file system of partition 3 fills it already")


@needs_loop
def test_a_file_system_grows_into_a_partition_that_reaches_to_the_end(disk):
    assert grown(disk, "partition").what == "partition"
    assert grown(disk) == Grown(what="filesystem")
    found = table(disk)
    assert found.length(found.partitions[-1]) == filesystem_bytes(disk, diskimages.ROOT_START)


@pytest.mark.parametrize(
    ("code", "what"),
    [("ef00", "an EFI system partition"), ("ef02", "a BIOS boot partition"), ("8200", "swap")],
)
def test_partitions_that_never_grow(disk, code, what):
    run("sgdisk", f"--typecode=3:{code}", str(disk))
    done = grown(disk)
    assert done == Grown(
        what="none", reason=f"the last partition (number 3, {what}) holds no data that could grow"
    )


def test_a_config_drive_never_grows(disk):
    run("sgdisk", "--change-name=3:config-2", str(disk))
    assert grown(disk).reason == "the last partition (number 3) is a config drive"


def test_the_last_partition_is_the_one_that_lies_last(disk):
    run("sgdisk", "-e", "--new=9:40M:50M", "--typecode=9:8300", "--new=5:20M:30M", str(disk))
    assert grown(disk, "partition").what == "partition"
    assert {one.number for one in table(disk).partitions if one.last > 110 * 2048} == {9}


def test_no_table(tmp_path):
    path = diskimages.blank(tmp_path / "disk", 8 * MIB, fill=b"\0")
    assert grown(path).reason == "the disk has no GUID partition table"


def test_no_partitions(tmp_path):
    path = diskimages.blank(tmp_path / "disk", 8 * MIB, fill=b"\0")
    run("sgdisk", "--clear", str(path))
    assert grown(path).reason == "the disk has no partitions"


def test_other_contents_keep_their_size(disk):
    with disk.open("r+b") as file:
        file.seek(diskimages.ROOT_START)
        file.write(bytes(diskimages.ROOT_SIZE))
    assert grown(disk) == Grown(what="partition", reason="partition 3 holds no file system")
    sound(disk)


@needs_loop
def test_a_damaged_file_system_is_left_alone(disk):
    with disk.open("r+b") as file:
        file.seek(diskimages.ROOT_START + 1024 + 1024 * 30)
        file.write(os.urandom(4 * MIB))
    done = grown(disk)
    assert done.what == "partition"
    assert done.reason == "the ext4 file system of partition 3 is damaged and was not grown"
    assert filesystem_bytes(disk, diskimages.ROOT_START) == diskimages.ROOT_SIZE


@needs_loop
def test_growing_that_fails_is_an_error(disk, monkeypatch):
    """resize2fs gives up in the middle: the disk is not called whole."""
    tools = disk.parent / "tools"
    tools.mkdir()
    (tools / "resize2fs").write_text("#!/bin/sh\necho 'resize2fs: No space left' >&2\nexit 1\n")
    (tools / "resize2fs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    with pytest.raises(AgentError, match="partition 3") as caught:
        grown(disk)
    assert caught.value.code == "grow_failed"


@needs_loop
def test_blocks_of_4096_bytes(tmp_path):
    path = tmp_path / "sda"
    path.touch()
    os.truncate(path, DISK)
    with diskimages.loop_device(path, sector=4096) as node:
        run("sgdisk", "--new=1:1M:+1M", "--typecode=1:ef00", "--new=2:2M:20M", node)
        with open_device(node, write=False) as device:
            two = disktable.read(device).partitions[1]
        run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-E", f"offset={two.first * 4096}", node, "18M")
        assert grown(node) == Grown(what="filesystem")
        with open_device(node, write=False) as device:
            found = disktable.read(device)
            last = found.partitions[1]
            assert found.block == 4096
            assert gpt.plan_at_end(found, ROOM).first == last.last + 1
        assert b"No problems found" in run("sgdisk", "--verify", node)
        assert filesystem_bytes(node, found.offset(last)) == found.length(last)


def test_a_disk_that_lies_about_a_write(disk):
    class Lying:
        def __init__(self, device):
            self._device = device

        def __getattr__(self, name):
            return getattr(self._device, name)

        def write_from(self, offset, buffer):
            if offset != 512:
                self._device.write_from(offset, buffer)

    with open_device(str(disk), write=True) as device, pytest.raises(DeviceError) as caught:
        grow(Lying(device), "partition")
    assert caught.value.code == "verify_failed"


def made(block, last_usable, *partitions):
    return gpt.Table(
        block=block,
        first_usable=34,
        last_usable=last_usable,
        entries=128,
        partitions=tuple(
            gpt.Partition(number=number, kind=LINUX, first=first, last=last, name="")
            for number, first, last in partitions
        ),
    )


@pytest.mark.parametrize("block", [512, 4096])
@pytest.mark.parametrize("spare", [0, 1, 33, 255])
def test_what_is_planned_leaves_exactly_the_room(block, spare):
    found = made(block, 10_000 * (MIB // block) - 1 - spare, (1, 2048, 4095))
    last = gptgrow.last_block(found, room=ROOM)
    after = made(block, found.last_usable, (1, 2048, last))
    assert gpt.plan_at_end(after, ROOM).first == last + 1
    assert (last + 1) % (MIB // block) == 0
