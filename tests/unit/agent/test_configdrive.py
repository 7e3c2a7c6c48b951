"""The config drive, made on files and loop devices and read back by mtools and blkid."""

from __future__ import annotations

import json
import logging
import os
import random
import tempfile
from pathlib import Path

import pytest

from fakes import diskimages
from teeth_agent.blockio import open_device
from teeth_agent.errors import AgentError, ToolError
from teeth_agent.image import boot, configdrive, disktable, drivecontent
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


def put(disk, wanted):
    return boot.put_config_drive(disk, wanted, work=Path(tempfile.gettempdir()))


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
    placed = put(str(disk), drive())
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
    first = put(str(disk), drive(user_data="old"))
    second = put(str(disk), drive())
    assert (second.offset, second.length) == (first.offset, first.length)
    check_content(disk, second, 512)
    assert len(table(disk).partitions) == 4


def test_a_partition_that_is_too_small_is_replaced_by_a_larger_one(disk):
    small = put(str(disk), drive())
    content = random.Random(1).randbytes(5 * MIB)
    large = put(str(disk), drive(files=(DriveFile(path="/x", content=content),)))
    assert large.length > small.length
    assert read(disk, large.offset, "openstack/content/0000") == content
    assert [one.number for one in table(disk).partitions] == [1, 2, 3, 4]


def test_one_is_recognised_by_its_file_system_when_the_partition_has_no_name(disk):
    placed = put(str(disk), drive())
    diskimages.run("sgdisk", "--change-name=4:other", str(disk))
    again = put(str(disk), drive())
    assert again.offset == placed.offset
    assert len(table(disk).partitions) == 4


@pytest.mark.skipif(not diskimages.can_loop(), reason="needs root and loop devices")
@pytest.mark.parametrize("sector", [512, 4096])
def test_on_a_loop_device_of_either_sector_size(sector, tmp_path):
    path = diskimages.blank(tmp_path / "disk", 16 * MIB)
    with diskimages.loop_device(path, sector=sector) as name:
        diskimages.run("sgdisk", "--zap-all", "--new=1:0:+8M", name)
        placed = put(name, drive())
        check_content(path, placed, sector)
        assert table(name).named("config-2").number == 2


def test_no_room_and_no_table_are_said(tmp_path):
    path = diskimages.blank(tmp_path / "disk", 16 * MIB, fill=b"\0")
    with pytest.raises(AgentError) as caught:
        put(str(path), drive())
    assert caught.value.code == "partition_table"
    diskimages.run("sgdisk", "--new=1:0:0", str(path))
    with pytest.raises(AgentError) as caught:
        put(str(path), drive())
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
def test_whatever_is_allowed_fits(sector, count, size, tmp_path):
    files = tuple(DriveFile(path=f"/{n}", content=bytes([n % 256]) * size) for n in range(count))
    wanted = drive(files=files)
    size = configdrive.size_for(drivecontent.layout(wanted))
    with configdrive.built(wanted, size=size, sector=sector, work=tmp_path) as content:
        assert bytes(content[510:512]) == b"\x55\xaa"
    assert not any(content)


def test_vendor_data_as_text_and_absent_parts():
    bare = drive(user_data=None, network_data=None, vendor_data="#cloud-config", files=())
    files = drivecontent.layout(bare)
    assert set(files) == {"openstack/latest/meta_data.json", "openstack/latest/vendor_data.json"}
    assert json.loads(files["openstack/latest/vendor_data.json"]) == "#cloud-config"
    assert "files" not in json.loads(files["openstack/latest/meta_data.json"])


def test_the_content_appears_in_no_log_no_error_and_no_file(disk, caplog, monkeypatch, tmp_path):
    work = tmp_path / "tmp"
    work.mkdir()
    monkeypatch.setattr(mtools, "write_file", fail_with_tool(mtools.write_file))
    with caplog.at_level(logging.DEBUG), pytest.raises(ToolError) as caught:
        boot.put_config_drive(str(disk), drive(), work=work)
    assert SECRET not in caplog.text
    assert SECRET not in str(caught.value)
    assert list(work.iterdir()) == []
    assert table(disk).named("config-2") is None


def fail_with_tool(write_file):
    """The real tool, failing for real: the third file goes into a folder that is not there."""
    count = iter(range(10))

    def write(path, name, content):
        write_file(path, f"missing/{name}" if next(count) == 2 else name, content)

    return write


def nocloud(**changes):
    vendor = {"cloud-init": ["#cloud-config\nx: 1\n", "#!/bin/sh\n"]}
    fields = {"layout": "nocloud", "files": (), "vendor_data": vendor, "network_data": {"version": 2}}
    return drive(**{**fields, **changes})


def test_nocloud_has_its_own_names(disk):
    placed = put(str(disk), nocloud())
    assert (
        diskimages.run("blkid", "-p", "-O", str(placed.offset), "-s", "LABEL", "-o", "value", str(disk))
        == b"CIDATA\n"
    )
    meta_data = json.loads(read(disk, placed.offset, "meta-data"))
    assert (meta_data["instance-id"], meta_data["local-hostname"]) == ("u-1", "landed")
    assert SECRET.encode() in read(disk, placed.offset, "user-data")
    vendor = read(disk, placed.offset, "vendor-data").decode()
    head, _, rest = vendor.partition("\n")
    assert head == "#cloud-config-archive"
    assert json.loads(rest) == ["#cloud-config\nx: 1\n", "#!/bin/sh\n"]
    assert json.loads(read(disk, placed.offset, "network-config")) == {"version": 2}


@pytest.mark.parametrize(
    ("vendor", "text"),
    [
        ("#cloud-config\nx: 1\n", b"#cloud-config\nx: 1\n"),
        ({"cloud-init": "#!/bin/sh\n"}, b"#!/bin/sh\n"),
        ({"x": 1}, b'#cloud-config\n{\n "x": 1\n}'),
    ],
)
def test_vendor_data_of_nocloud_is_one_text(vendor, text):
    assert drivecontent.layout(nocloud(vendor_data=vendor))["vendor-data"] == text


def test_a_nocloud_drive_without_user_data_is_one_all_the_same():
    files = drivecontent.layout(nocloud(user_data=None, vendor_data=None, network_data=None))
    assert files["user-data"] == b""
    assert set(files) == {"meta-data", "user-data"}


@pytest.mark.parametrize(("first", "second"), [(drive, nocloud), (nocloud, drive)])
def test_a_drive_of_the_other_layout_does_not_stay(disk, first, second):
    old = put(str(disk), first())
    new = put(str(disk), second(user_data="new"))
    assert new.offset == old.offset
    names = [one.name for one in table(disk).partitions]
    assert names[3:] == [drivecontent.label(second())]
    content = disk.read_bytes()[new.offset : new.offset + new.length]
    assert b"password: " + SECRET.encode() not in content.replace(b'"password": ', b"")


def test_two_drives_of_both_layouts_become_one(disk):
    put(str(disk), drive())
    diskimages.run(
        "sgdisk",
        "--change-name=4:other",
        "--set-alignment=1",
        "--new=5:38912:40959",
        "--change-name=5:cidata",
        str(disk),
    )
    put(str(disk), nocloud())
    assert [one.name for one in table(disk).partitions][3:] == ["CIDATA"]


def test_an_iso9660_drive(disk, tmp_path):
    placed = put(str(disk), drive(filesystem="iso9660"))
    options = ["-p", "-O", str(placed.offset), "-o", "export", str(disk)]
    found = dict(line.split("=", 1) for line in diskimages.run("blkid", *options).decode().splitlines())
    assert (found["TYPE"], found["LABEL"]) == ("iso9660", "config-2")
    image = tmp_path / "drive.iso"
    image.write_bytes(disk.read_bytes()[placed.offset : placed.offset + placed.length])
    target = tmp_path / "out"
    diskimages.run("xorriso", "-osirrox", "on", "-indev", str(image), "-extract", "/", str(target))
    meta = json.loads((target / "openstack/latest/meta_data.json").read_text())
    assert meta["hostname"] == "landed"
    assert (target / "openstack/content/0000").read_bytes() == b"\x00binary\xff"


def test_an_iso9660_drive_leaves_no_file(disk, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    boot.put_config_drive(str(disk), drive(filesystem="iso9660"), work=work)
    assert list(work.iterdir()) == []


@pytest.mark.skipif(not diskimages.can_loop(), reason="needs root and loop devices")
def test_an_iso9660_drive_is_not_put_where_it_cannot_be_mounted(tmp_path):
    path = diskimages.blank(tmp_path / "disk", 16 * MIB)
    with diskimages.loop_device(path, sector=4096) as name:
        diskimages.run("sgdisk", "--zap-all", "--new=1:0:+8M", name)
        before = path.read_bytes()
        with pytest.raises(AgentError) as caught:
            put(name, drive(filesystem="iso9660"))
        assert caught.value.code == "config_drive_sectors"
        assert path.read_bytes() == before
