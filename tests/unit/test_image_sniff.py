"""Files known by their first bytes, made by the tools that make them."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zipfile

import pytest

from fakes import diskimages
from fakes.diskimages import run
from teeth_image.errors import ImageError
from teeth_image.sniff import HEAD, check_fetched, check_raw, sniff

MIB = 1 << 20


def from_qemu(path, kind):
    run("qemu-img", "create", "-q", "-f", kind, str(path), "4M")


def filesystem(path, *argv):
    diskimages.blank(path, 32 * MIB, fill=b"\0")
    run(*argv, str(path))


def disk(path, block=512):
    data = bytearray(MIB)
    data[510:512] = b"\x55\xaa"
    data[block : block + 8] = b"EFI PART"
    path.write_bytes(data)


def archive(path, form):
    with tarfile.open(path, "w", format=form) as tar:
        tar.add(__file__, "etc/file")


def zipped(path):
    with zipfile.ZipFile(path, "w") as made:
        made.write(__file__)


def old_tar(path):
    """A header without the magic number that POSIX put in, its sum made right."""
    archive(path, tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    data[257:265] = bytes(8)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)


TEXT = b"the same text again and again " * 9999
FILES = {
    "qcow2": (lambda path: from_qemu(path, "qcow2"), "qcow2"),
    "vmdk": (lambda path: from_qemu(path, "vmdk"), "vmdk"),
    "vhd": (lambda path: from_qemu(path, "vpc"), "vhd"),
    "vhdx": (lambda path: from_qemu(path, "vhdx"), "vhdx"),
    "vdi": (lambda path: from_qemu(path, "vdi"), "vdi"),
    "qed": (lambda path: from_qemu(path, "qed"), "qed"),
    "parallels": (lambda path: from_qemu(path, "parallels"), "parallels"),
    "a vmdk descriptor": (lambda path: path.write_bytes(b"# Disk DescriptorFile\nversion=1\n"), "vmdk"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(TEXT)), "gzip"),
    "xz": (lambda path: path.write_bytes(lzma.compress(TEXT)), "xz"),
    "lzma": (lambda path: path.write_bytes(lzma.compress(TEXT, lzma.FORMAT_ALONE)), "lzma"),
    "zstd": (lambda path: path.write_bytes(run("zstd", "-c", input=TEXT)), "zstd"),
    "zstd, a skippable frame first": (
        lambda path: path.write_bytes(b"\x5e\x2a\x4d\x18\x04\0\0\0abcd"),
        "zstd",
    ),
    "bzip2": (lambda path: path.write_bytes(run("bzip2", "-c", input=TEXT)), "bzip2"),
    "bzip2 of nothing": (lambda path: path.write_bytes(run("bzip2", "-c", input=b"")), "bzip2"),
    "lz4": (lambda path: path.write_bytes(run("lz4", "-c", input=TEXT)), "lz4"),
    "zip": (zipped, "zip"),
    "tar": (lambda path: archive(path, tarfile.USTAR_FORMAT), "tar"),
    "GNU tar": (lambda path: archive(path, tarfile.GNU_FORMAT), "tar"),
    "pax tar": (lambda path: archive(path, tarfile.PAX_FORMAT), "tar"),
    "old tar": (old_tar, "tar"),
    "cpio": (lambda path: path.write_bytes(run("cpio", "-o", "-Hnewc", input=b"/etc/hostname")), "cpio"),
    "a program": (lambda path: path.write_bytes(b"\x7fELF" + bytes(999)), "elf"),
    "an error page": (lambda path: path.write_bytes(b"\n<!DOCTYPE html>\n<title>404"), "html"),
    "ext4": (lambda path: filesystem(path, "mke2fs", "-q", "-text4"), "raw"),
    "FAT": (lambda path: filesystem(path, "mkfs.vfat"), "raw"),
    "a disk": (disk, "raw"),
    "a disk of large blocks": (lambda path: disk(path, 4096), "raw"),
    "zeros": (lambda path: path.write_bytes(bytes(MIB)), "raw"),
    "nothing": (lambda path: path.write_bytes(b""), "raw"),
    "noise": (lambda path: path.write_bytes(bytes(range(7, 256)) * 9), "raw"),
}
COMPRESSIONS = ("gzip", "xz", "zstd", "bzip2", "lz4", "lzma")


@pytest.mark.parametrize(("make", "name"), FILES.values(), ids=FILES.keys())
def test_files(tmp_path, make, name):
    path = tmp_path / "file"
    make(path)
    head = path.read_bytes()[:HEAD]
    found = sniff(head)
    if name in COMPRESSIONS:
        assert (found.format, found.compression) == ("", name)
    else:
        assert (found.format, found.compression) == (name, "none")
    assert str(found) == name
    # It passes as what it is and as nothing else.
    declared = ("raw", name) if name in COMPRESSIONS else (name, "none")
    check_fetched(head, format=declared[0], compression=declared[1])
    for form, compression in (
        ("raw", "none"),
        ("qcow2", "none"),
        ("tar", "none"),
        ("raw", "zstd"),
        ("raw", "gzip"),
    ):
        if (form, compression) != declared:
            with pytest.raises(ImageError) as caught:
                check_fetched(head, format=form, compression=compression)
            assert caught.value.code == "image_format"


def test_both_names_are_said(tmp_path):
    path = tmp_path / "file"
    from_qemu(path, "qcow2")
    head = path.read_bytes()
    with pytest.raises(ImageError, match="declared as raw, found was qcow2"):
        check_fetched(head, format="raw", compression="none")
    with pytest.raises(ImageError, match="declared as raw, found was qcow2"):
        check_raw(head, format="raw")
    with pytest.raises(ImageError, match="declared as raw compressed by zstd, found was qcow2"):
        check_fetched(head, format="raw", compression="zstd")
    with pytest.raises(ImageError, match="declared as raw below its compression, found was gzip"):
        check_raw(gzip.compress(TEXT), format="raw")
    disk(path)
    with pytest.raises(ImageError, match="declared as qcow2, found was a disk with a GPT for blocks of 512"):
        check_raw(path.read_bytes(), format="qcow2")


def test_an_iso_image_is_a_disk_only_with_a_boot_sector(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("x")
    path = tmp_path / "iso"
    run("xorrisofs", "-quiet", "-o", str(path), str(tmp_path / "tree"))
    head = path.read_bytes()[:HEAD]
    assert sniff(head).format == "iso"
    with pytest.raises(ImageError, match="no disk starts from"):
        check_raw(head, format="raw")
    assert sniff(head[:510] + b"\x55\xaa" + head[512:]).format == "raw"


def test_a_qcow2_file_with_a_boot_sector_is_a_qcow2_file(tmp_path):
    path = tmp_path / "file"
    from_qemu(path, "qcow2")
    head = bytearray(path.read_bytes()[:HEAD])
    head[510:512] = b"\x55\xaa"
    head[4096:4104] = b"EFI PART"
    assert sniff(bytes(head)).format == "qcow2"


def test_what_was_found_in_a_raw_image(tmp_path):
    path = tmp_path / "file"
    filesystem(path, "mke2fs", "-q", "-text4")
    assert check_raw(path.read_bytes()[:HEAD], format="raw").what == "an ext file system"
