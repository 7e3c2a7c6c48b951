"""The config drive, made on files and loop devices and read back by mtools and blkid."""

from __future__ import annotations

import json
import logging
import os
import random
from pathlib import Path

import pytest

from fakes import diskimages
from teeth_agent.blockio import open_device
from teeth_agent.errors import AgentError, ToolError
from teeth_agent.image import boot, configdrive, disktable
from teeth_agent.image.params import ConfigDrive, DriveFile
from teeth_agent.tools import mtools

MIB = 1 << 20
SECRET = "hunter2-täuschend"


def drive(**changes):
    fields = {
        "meta_data": {"uuid": "u-1", "hostname": "landed", "password": SECRET},
        "user_data": f"#cloud-config\npassword: {SECRET}\n",
        "vendor_data": {"phone_home": "http://x/one-time"},
        "network_data": {"links": []},
        "files": (DriveFile(path="/etc/proof", content=b"\x00binary\xff"),),
    }
    return ConfigDrive(**{**fields, **changes})


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    work = tmp_path_factory.mktemp("image")
    return diskimages.make(work / "image.raw", work).read_bytes()


@pytest.fixture
def disk(image, tmp_path):
    """The image as prepare_image leaves it: on a larger disk, with the backup table at its end."""
    path = tmp_path / "sda"
    path.write_bytes(image)
    os.truncate(path, 40 * MIB)
    diskimages.run("sgdisk", "-e", str(path))
    return path


def read(path, offset, name):
    return diskimages.run("mtype", "-i", f"{path}@@{offset}", f"::{name}")


def label(path, placed):
    said = diskimages.run(
        "blkid", "-p", "-o", "export", "-O", str(placed.offset), "-S", str(placed.length), str(path)
    )
    return dict(line.split("=", 1) for line in said.decode().splitlines())


def table(path):
    with open_device(str(path), write=False) as device:
        return disktable.read(device)


def check_content(path, placed, sector):
    assert json.loads(read(path, placed.offset, "openstack/latest/meta_data.json")) == {
        "uuid": "u-1",
        "hostname": "landed",
        "password": SECRET,
        "files": [{"path": "/etc/proof", "content_path": "/content/0000"}],
    }
    assert read(path, placed.offset, "openstack/latest/user_data").decode() == drive().user_data
    assert json.loads(read(path, placed.offset, "openstack/latest/vendor_data.json")) == drive().vendor_data
    assert json.loads(read(path, placed.offset, "openstack/latest/network_data.json")) == {"links": []}
    assert read(path, placed.offset, "openstack/content/0000") == b"\x00binary\xff"
    found = label(path, placed)
    assert found["LABEL"] == "config-2"
    assert found["TYPE"] == "vfat"
    assert found["BLOCK_SIZE"] == str(sector)


def test_a_partition_is_added_at_the_end_and_nothing_else_is_touched(disk, image):
    before = table(disk)
    placed = boot.put_config_drive(str(disk), drive())
    check_content(disk, placed, 512)
    after = table(disk)
    assert after.partitions[:3] == before.partitions
    added = after.named("config-2")
    assert added.number == 4
    assert after.offset(added) == placed.offset
    assert (placed.offset + placed.length) // MIB == 39
    assert disk.read_bytes()[2 * MIB : 18 * MIB] == image[2 * MIB : 18 * MIB]
    assert "No problems found" in diskimages.run("sgdisk", "-v", str(disk)).decode()


def test_a_second_drive_replaces_the_first_in_its_place(disk):
    first = boot.put_config_drive(str(disk), drive(user_data="old"))
    second = boot.put_config_drive(str(disk), drive())
    assert (second.offset, second.length) == (first.offset, first.length)
    check_content(disk, second, 512)
    assert len(table(disk).partitions) == 4


def test_a_partition_that_is_too_small_is_replaced_by_a_larger_one(disk):
    small = boot.put_config_drive(str(disk), drive())
    content = random.Random(1).randbytes(5 * MIB)
    large = boot.put_config_drive(str(disk), drive(files=(DriveFile(path="/x", content=content),)))
    assert large.length > small.length
    assert read(disk, large.offset, "openstack/content/0000") == content
    assert [one.number for one in table(disk).partitions] == [1, 2, 3, 4]


def test_one_is_recognised_by_its_file_system_when_the_partition_has_no_name(disk):
    placed = boot.put_config_drive(str(disk), drive())
    diskimages.run("sgdisk", "--change-name=4:other", str(disk))
    again = boot.put_config_drive(str(disk), drive())
    assert again.offset == placed.offset
    assert len(table(disk).partitions) == 4


@pytest.mark.skipif(not diskimages.can_loop(), reason="needs root and loop devices")
@pytest.mark.parametrize("sector", [512, 4096])
def test_on_a_loop_device_of_either_sector_size(sector, tmp_path):
    path = diskimages.blank(tmp_path / "disk", 16 * MIB)
    with diskimages.loop_device(path, sector=sector) as name:
        diskimages.run("sgdisk", "--zap-all", "--new=1:0:+8M", name)
        placed = boot.put_config_drive(name, drive())
        check_content(path, placed, sector)
        assert table(name).named("config-2").number == 2


def test_no_room_and_no_table_are_said(tmp_path):
    path = diskimages.blank(tmp_path / "disk", 16 * MIB, fill=b"\0")
    with pytest.raises(AgentError) as caught:
        boot.put_config_drive(str(path), drive())
    assert caught.value.code == "partition_table"
    diskimages.run("sgdisk", "--new=1:0:0", str(path))
    with pytest.raises(AgentError) as caught:
        boot.put_config_drive(str(path), drive())
    assert caught.value.code == "no_room"
    assert len(table(path).partitions) == 1


def test_sizes_follow_the_content_and_are_bounded():
    assert configdrive.size_for({"a": b"x"}) == MIB
    assert configdrive.size_for({str(n): b"x" for n in range(256)}) == 5 * MIB
    with pytest.raises(AgentError) as caught:
        configdrive.size_for({"a": bytes(64 * MIB)})
    assert caught.value.code == "config_drive_too_large"


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize(("count", "size"), [(256, 1), (256, 16 << 10), (1, 3 * MIB), (40, 1 << 20)])
def test_whatever_is_allowed_fits(sector, count, size):
    files = tuple(DriveFile(path=f"/{n}", content=bytes([n % 256]) * size) for n in range(count))
    layout = configdrive.layout(drive(files=files))
    with configdrive.built(layout, size=configdrive.size_for(layout), sector=sector) as content:
        assert bytes(content[510:512]) == b"\x55\xaa"
    assert not any(content)


def test_vendor_data_as_text_and_absent_parts():
    bare = drive(user_data=None, network_data=None, vendor_data="#cloud-config", files=())
    files = configdrive.layout(bare)
    assert set(files) == {"openstack/latest/meta_data.json", "openstack/latest/vendor_data.json"}
    assert json.loads(files["openstack/latest/vendor_data.json"]) == "#cloud-config"
    assert "files" not in json.loads(files["openstack/latest/meta_data.json"])


def test_the_content_appears_in_no_log_no_error_and_no_file(disk, caplog, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    Path(tmp_path / "tmp").mkdir()
    monkeypatch.setattr(mtools, "write_file", fail_with_tool(mtools.write_file))
    with caplog.at_level(logging.DEBUG), pytest.raises(ToolError) as caught:
        boot.put_config_drive(str(disk), drive())
    assert SECRET not in caplog.text
    assert SECRET not in str(caught.value)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert table(disk).named("config-2") is None


def fail_with_tool(write_file):
    """The real tool, failing for real: the third file goes into a folder that is not there."""
    count = iter(range(10))

    def write(path, name, content):
        write_file(path, f"missing/{name}" if next(count) == 2 else name, content)

    return write
