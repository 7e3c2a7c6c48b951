"""The firmware's entry for a disk, with a folder for efivarfs and a real file system in the ESP."""

from __future__ import annotations

import struct

import pytest

from fakes import diskimages
from teeth_agent.blockio import open_device
from teeth_agent.efivars import GLOBAL
from teeth_agent.image import boot, disktable, uefientry
from teeth_image import efiload

MIB = 1 << 20
ORDER = f"BootOrder-{GLOBAL}"


def option(title: str) -> bytes:
    path = b"\x7f\xff\x04\0"
    return struct.pack("<IH", 1, len(path)) + title.encode("utf-16-le") + b"\0\0" + path


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root/sys/firmware/efi/efivars"
    folder.mkdir(parents=True)
    held = {
        f"Boot0000-{GLOBAL}": option("UEFI PXEv4"),
        f"Boot0001-{GLOBAL}": option("teeth"),
        f"Boot0003-{GLOBAL}": option("teeth old-image"),
        f"Boot0004-{GLOBAL}": option("teethers"),
        ORDER: struct.pack("<4H", 0, 3, 4, 1),
    }
    for name, data in held.items():
        (folder / name).write_bytes(struct.pack("<I", 7) + data)
    return tmp_path / "root"


@pytest.fixture
def disk(tmp_path):
    return diskimages.make(tmp_path / "sda", tmp_path, size=24 * MIB)


def variables(root):
    folder = root / "sys/firmware/efi/efivars"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def add(disk, *paths):
    where = f"{disk}@@{diskimages.ESP_START}"
    for folder in sorted({path.rpartition("/")[0] for path in paths}):
        diskimages.run("mmd", "-i", where, f"::{folder}")
    for path in paths:
        diskimages.run("mcopy", "-i", where, "-", f"::{path}", input=b"MZ")


def test_ours_go_and_one_is_put_first(disk, root):
    add(disk, "EFI/teeth/grubx64.efi")
    found = boot.check_boot(str(disk), root=root)
    assert found.bootable
    assert found.reason.endswith("; Boot0001 of the firmware starts EFI/teeth/grubx64.efi")
    after = variables(root)
    assert f"Boot0003-{GLOBAL}" not in after
    assert after[f"Boot0004-{GLOBAL}"][4:] == option("teethers")
    assert struct.unpack("<I3H", after[ORDER]) == (7, 1, 0, 4)
    check_option(after[f"Boot0001-{GLOBAL}"], disk)
    assert boot.check_boot(str(disk), root=root).reason == found.reason
    assert variables(root) == after


def check_option(data, disk):
    """By the specification's offsets."""
    with open_device(str(disk), write=False) as device:
        esp = disktable.read(device).partitions[1]
    attributes, active, length = struct.unpack_from("<IIH", data)
    assert (attributes, active) == (7, 1)
    title, rest = data[10 : 10 + 12], data[22:]
    assert title == "teeth\0".encode("utf-16-le")
    assert len(rest) == length
    head = struct.unpack_from("<BBHIQQ", rest)
    assert head == (4, 1, 42, 2, esp.first, esp.last - esp.first + 1)
    assert rest[24:40] == esp.unique.bytes_le
    assert rest[40:42] == b"\2\2"
    name = "\\EFI\\teeth\\grubx64.efi\0".encode("utf-16-le")
    assert rest[42:] == struct.pack("<BBH", 4, 4, 4 + len(name)) + name + b"\x7f\xff\x04\0"


@pytest.mark.parametrize(
    ("paths", "loader"),
    [
        ((), "EFI/BOOT/BOOTX64.EFI"),
        (("EFI/debian/grubx64.efi",), "EFI/debian/grubx64.efi"),
        (("EFI/debian/grubx64.efi", "EFI/debian/shimx64.efi"), "EFI/debian/shimx64.efi"),
        (("EFI/debian/grubx64.efi", "EFI/teeth/grubx64.efi"), "EFI/teeth/grubx64.efi"),
    ],
)
def test_the_systems_own_loader_is_started(disk, root, paths, loader):
    add(disk, *paths)
    assert uefientry.put(str(disk), machine="x86_64", folder=root / "sys/firmware/efi/efivars").path == loader


def test_firmware_that_takes_no_variable_is_a_reason_and_no_failure(disk, root):
    order = root / "sys/firmware/efi/efivars" / ORDER
    order.unlink()
    order.mkdir()
    found = boot.check_boot(str(disk), root=root)
    assert found.bootable
    assert (
        "has EFI/BOOT/BOOTX64.EFI; the firmware has no entry for it: EFI variable BootOrder" in found.reason
    )


def test_a_machine_without_any_entry_gets_the_first(disk, root):
    for path in (root / "sys/firmware/efi/efivars").iterdir():
        path.unlink()
    assert (
        uefientry.put(str(disk), machine="x86_64", folder=root / "sys/firmware/efi/efivars").name
        == "Boot0000"
    )
    assert variables(root)[ORDER] == struct.pack("<IH", 7, 0)


def test_what_is_no_load_option_has_some_title():
    assert efiload.title_of(b"") == ""
    assert efiload.title_of(b"\1\0\0\0\4\0\0") == ""
    assert efiload.read_order(b"\1\0\2\0\3") == [1, 2]
