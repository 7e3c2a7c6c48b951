"""What a file is by its first bytes: never by its name, and never by what somebody says of it.

A disk image that says it is raw and begins like a qcow2 file is the classic way to make a tool open other
files: what was declared and what was found must be the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from teeth_image.errors import ImageError

# What is looked at; enough for everything that tells itself apart from the front.
HEAD = 64 << 10

_COMPRESSIONS = (
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x5d\x00\x00", "lzma"),
    (b"LZIP", "lzip"),
)
_SKIPPABLE = 0x184D2A50
# (offset, bytes, name): files that hold a disk, an archive or something else altogether.
_FORMATS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"conectix", "vhd"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"QED\0", "qed"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!\x1a\x07", "rar"),
    (0, b"\x7fELF", "elf"),
    (0, b"070701", "cpio"),
    (0, b"070702", "cpio"),
    (0, b"\xed\xab\xee\xdb", "rpm"),
    (0, b"!<arch>\n", "ar"),
    (0, b"%PDF-", "pdf"),
    (257, b"ustar", "tar"),
)
_ISO = (0x8001, b"CD001")
_TEXTS = ((b"<!doctype html", "html"), (b"<html", "html"), (b"<?xml", "xml"))
# File systems that fill a device from its front; the words are for people.
_CONTENTS = (
    (1080, b"\x53\xef", "an ext file system"),
    (0, b"XFSB", "an XFS file system"),
    (0, b"hsqs", "a SquashFS file system"),
    (0x400, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
    (0x218, b"LVM2 001", "an LVM volume"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """``compression`` is "none" or a name; only without one there is a ``format``, else it is "".

    ``what``: in words what made a raw image known, "" if nothing did.
    """

    format: str
    compression: str
    what: str = ""

    def __str__(self) -> str:
        return self.format or self.compression


def sniff(head: bytes) -> Found:
    """``head``: the first HEAD bytes of the file, or all of it."""
    for magic, name in _COMPRESSIONS:
        if head.startswith(magic) and _really(name, head):
            return Found(format="", compression=name)
    if int.from_bytes(head[:4], "little") & 0xFFFFFFF0 == _SKIPPABLE:
        return Found(format="", compression="zstd")
    for offset, magic, name in _FORMATS:
        if head.startswith(magic, offset):
            return Found(format=name, compression="none")
    begin = head[:64].lstrip().lower()
    for magic, name in _TEXTS:
        if begin.startswith(magic):
            return Found(format=name, compression="none")
    if _old_tar(head):
        return Found(format="tar", compression="none")
    return _raw(head)


def check_fetched(head: bytes, *, format: str, compression: str) -> Found:
    """What is fetched begins as it was declared. Raises ImageError(image_format) naming both.

    What is behind a compression is for ``check_raw``.
    """
    found = sniff(head)
    if found.compression != compression:
        declared = (
            f"{format} compressed by {compression}" if compression != "none" else f"{format}, not compressed"
        )
        raise _mismatch(declared, found)
    if compression == "none":
        _check_format(found, format)
    return found


def check_raw(head: bytes, *, format: str) -> Found:
    """What comes out of the decompression begins as it was declared. Raises ImageError(image_format)."""
    found = sniff(head)
    if found.compression != "none":
        raise _mismatch(f"{format} below its compression", found)
    _check_format(found, format)
    return found


def _check_format(found: Found, format: str) -> None:
    if found.format != format:
        raise _mismatch(format, found)


def _mismatch(declared: str, found: Found) -> ImageError:
    said = found.what or str(found)
    return ImageError(f"the image was declared as {declared}, found was {said}", code="image_format")


def _really(name: str, head: bytes) -> bool:
    """For magic numbers that are too short to be one by themselves."""
    if name == "bzip2":
        return head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")
    if name == "lzma":  # 13 bytes: properties, dictionary size, length (unknown or below 2^40)
        return len(head) > 13 and (head[5:13] == b"\xff" * 8 or head[10:13] == b"\0\0\0") and head[13] == 0
    return True


def _old_tar(head: bytes) -> bool:
    """A header of before POSIX has no magic number, but a sum over all of its bytes."""
    block = head[:512]
    if len(block) < 512 or block[0] == 0 or block[510:512] == b"\x55\xaa":
        return False
    digits = block[148:156].strip(b" \0")
    if not digits or not digits.isdigit() or any(digit > 0x37 for digit in digits):
        return False
    return int(digits, 8) == sum(block[:148]) + 8 * 0x20 + sum(block[156:])


def _raw(head: bytes) -> Found:
    table = next((block for block in (512, 4096) if head.startswith(b"EFI PART", block)), None)
    if table is not None:
        what = f"a disk with a GPT for blocks of {table} bytes"
    elif head[510:512] == b"\x55\xaa":
        what = "a disk with a boot sector"
    elif head.startswith(_ISO[1], _ISO[0]):
        # With a boot sector before it (a hybrid image) it is a disk as well.
        return Found(format="iso", compression="none", what="an ISO 9660 image that no disk starts from")
    else:
        what = next((words for offset, magic, words in _CONTENTS if head.startswith(magic, offset)), "")
    return Found(format="raw", compression="none", what=what)
