"""What is read from a tree's archive, and archives that are refused."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from teeth.build.disk import Content
from teeth.build.disk_tree import read_tree
from teeth.errors import TeethError

BOOT = {"boot/vmlinuz-6.1": b"k", "boot/initrd.img-6.1": b"i"}


def archive(folder: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    path = folder / "tree.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(f"./{name}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return path


def test_content_is_counted_in_blocks_and_inodes(tmp_path: Path) -> None:
    files = {**BOOT, "empty": b"", "full": bytes(4096), "more": bytes(4097)}
    facts = read_tree(archive(tmp_path, files, {"short": "x", "long": "y" * 200}))
    assert facts.content == Content(blocks=1 + 1 + 0 + 1 + 2 + 0 + 1, inodes=7)


def test_kernel_and_packages_are_found(tmp_path: Path) -> None:
    status = (
        b"Package: here\nStatus: install ok installed\nVersion: 1:2-3\n\n"
        b"Package: gone\nStatus: deinstall ok config-files\nVersion: 9\n\n"
    )
    facts = read_tree(archive(tmp_path, {**BOOT, "var/lib/dpkg/status": status}))
    assert facts.kernel_version == "6.1"
    assert facts.packages == {"here": "1:2-3"}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "kernels: none"),
        ({"boot/vmlinuz-6.1": b""}, "initramfs: none"),
        ({**BOOT, "boot/vmlinuz-6.2": b"", "boot/initrd.img-6.2": b""}, "kernels: 6.1, 6.2"),
        ({"boot/vmlinuz-6.1": b"", "boot/initrd.img-6.2": b""}, "initramfs: 6.2"),
    ],
)
def test_a_tree_that_could_not_boot_is_refused(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    with pytest.raises(TeethError, match=words):
        read_tree(archive(tmp_path, files))


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, {**BOOT, "large": bytes(100_000)})
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(TeethError, match="cannot be read"):
        read_tree(path)


def test_a_missing_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeethError, match="cannot be read"):
        read_tree(tmp_path / "none.tar")
