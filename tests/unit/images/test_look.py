"""What is found in images of other layouts: a loader's own partition, MBR, links, processors."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from fakes import diskimages, storedimages
from fakes.diskimages import ESP_SIZE, ESP_START, MIB, run
from teeth.images import architecture
from teeth.images.errors import BadImage
from teeth.images.look import look_at
from teeth.images.trees import ExtTree, FatTree, TarTree, text

ENTRY = b"title Small\nlinux /vmlinuz\ninitrd /initrd\noptions root=/dev/sda3\n"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return storedimages.disk(tmp_path_factory.mktemp("good"))


def with_esp(disk: Path, content: dict[str, bytes]) -> Path:
    """Further files in the disk's EFI system partition."""
    esp = disk.with_suffix(".esp")
    esp.write_bytes(disk.read_bytes()[ESP_START : ESP_START + ESP_SIZE])
    for folder in ("loader", "loader/entries", "EFI/Linux"):
        run("mmd", "-i", str(esp), f"::{folder}")
    for name, data in content.items():
        run("mcopy", "-i", str(esp), "-", f"::{name}", input=data)
    with disk.open("r+b") as image:
        image.seek(ESP_START)
        image.write(esp.read_bytes())
    return disk


def without_grub(good: Path, tmp_path: Path) -> Path:
    return storedimages.changed(good, tmp_path, **{"boot__grub__grub.cfg": None})


def test_an_entry_and_its_kernel_beside_the_loader(good: Path, tmp_path: Path) -> None:
    files = {"loader/entries/small.conf": ENTRY, "VMLINUZ": diskimages.kernel(), "initrd": b"initrd"}
    disk = with_esp(without_grub(good, tmp_path), files)
    found = look_at(disk, kind=None, architecture=None)
    assert (found.problems, found.kernel, found.architecture) == ([], "/vmlinuz", "x86_64")
    tree = FatTree(disk, ESP_START)
    assert tree.names("/loader/entries") == ["small.conf"]
    assert (text(tree, "/loader/entries/small.conf") or "").encode() == ENTRY
    assert tree.size("/vmlinuz") == len(diskimages.kernel())
    assert (tree.size("/none"), tree.head("/none", 9), tree.names("/none")) == (None, b"", [])


def test_a_unified_kernel_is_started_by_the_firmware(good: Path, tmp_path: Path) -> None:
    disk = with_esp(without_grub(good, tmp_path), {"EFI/Linux/small.efi": b"MZ"})
    found = look_at(disk, kind=None, architecture=None)
    assert (found.problems, found.kernel) == ([], "")
    assert "unified kernel" in found.notes[0]


def mbr(path: Path, *, active: bool, beyond: bool = False) -> Path:
    """One ext4 partition behind an MBR with something that is no boot code."""
    image = storedimages.file_system(path.parent).read_bytes()
    sector = bytearray(512)
    sector[:16] = b"\xeb\x63" + b"boot code here"
    count = len(image) // 512 + (1 if beyond else 0)
    sector[446:462] = struct.pack("<B3xB3xII", 0x80 if active else 0, 0x83, 2048, count)
    sector[510:512] = b"\x55\xaa"
    path.write_bytes(bytes(sector) + bytes(MIB - 512) + image)
    return path


def test_an_mbr_disk(tmp_path: Path) -> None:
    found = look_at(mbr(tmp_path / "mbr.raw", active=True), kind="disk", architecture="x86_64")
    assert (found.problems, found.boot) == ([], ("bios",))


def test_an_mbr_disk_that_would_not_start(tmp_path: Path) -> None:
    found = look_at(mbr(tmp_path / "mbr.raw", active=False), kind=None, architecture=None)
    assert "no active partition" in found.problems[0]


def test_an_mbr_partition_beyond_the_disk(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="partition 1 ends at byte"):
        look_at(mbr(tmp_path / "mbr.raw", active=True, beyond=True), kind=None, architecture=None)


def test_links_stay_inside_and_loops_end(tmp_path: Path) -> None:
    content = {"etc/passwd": b"the image's own", "a/file": b"found"}
    folder = diskimages.tree(tmp_path / "tree", content)
    links = {
        "up": "../../../../etc/passwd",
        "absolute": "/etc/passwd",
        "long": "/" + "./" * 100 + "a/file",  # does not fit into the inode
        "loop": "loop2",
        "loop2": "loop",
        "a/back": "..",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    image = tmp_path / "fs"
    run("mke2fs", "-q", "-t", "ext4", "-d", str(folder), str(image), "4M")
    archive = storedimages.tar(tmp_path, content, links)
    for tree in (ExtTree(image, 0), TarTree(archive)):
        assert tree.head("/up", 99) == tree.head("/absolute", 99) == b"the image's own"
        assert tree.head("/long", 99) == tree.head("/a/back/a/./file", 99) == b"found"
        assert (tree.size("/loop"), tree.size("/a"), tree.size("/a/file/x")) == (None, None, None)
        assert "file" in tree.names("/a/back/a")


def test_processors() -> None:
    assert architecture.of_program(storedimages.program()) == "x86_64"
    assert architecture.of_program(storedimages.program(183)) == "aarch64"
    assert architecture.of_program(storedimages.program(9999)) == "ELF machine 9999"
    assert architecture.of_program(b"#!/bin/sh\n" * 5) is None
    assert architecture.of_kernel(diskimages.kernel()) == "x86_64"
    assert architecture.of_kernel(diskimages.kernel(flags=0)) == "i386"
    assert architecture.of_kernel(storedimages.arm_kernel()) == "aarch64"
    assert architecture.of_kernel(b"\x1f\x8b\x08" + bytes(99)) is None
    pe = bytearray(b"MZ" + bytes(200))
    pe[60:64], pe[100:106] = (100).to_bytes(4, "little"), b"PE\0\0\x64\xaa"
    assert architecture.of_kernel(bytes(pe)) == "aarch64"
    for nothing in (b"", b"MZ", b"text" * 300):
        with pytest.raises(ValueError, match="not a Linux kernel"):
            architecture.of_kernel(nothing)
