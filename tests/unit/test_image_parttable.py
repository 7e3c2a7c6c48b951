"""Partition tables that are let onto a disk and those that are not: sgdisk's own, and damaged ones."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.diskimages import blank, run
from teeth_image import gpt, parttable
from teeth_image.errors import ImageError

MIB = 1 << 20
SIZE = 16 * MIB
BLOCKS = SIZE // 512


@pytest.fixture(scope="module")
def guid(tmp_path_factory):
    path = blank(tmp_path_factory.mktemp("gpt") / "disk", SIZE, fill=b"\0")
    run("sgdisk", "--new=1:2048:4095", "--new=2:4096:8191", "--new=7:20480:0", str(path))
    return path.read_bytes()[: gpt.HEAD]


@pytest.fixture(scope="module")
def dos():
    """Three partitions, of which one is active and one extended."""
    head = bytearray(gpt.HEAD)
    head[510:512] = b"\x55\xaa"
    for number, entry in enumerate(
        ((0x80, 0x83, 2048, 2048), (0, 5, 4096, 4096), (0, 0x83, 8192, BLOCKS - 8192))
    ):
        struct.pack_into("<B3xB3xII", head, 446 + 16 * number, *entry)
    return bytes(head)


def check(head, *, block=512, image_size=SIZE, disk_size=1 << 40):
    return parttable.check(head[: gpt.HEAD], block=block, image_size=image_size, disk_size=disk_size)


def refused(image, **sizes):
    with pytest.raises(ImageError) as caught:
        check(image, **sizes)
    assert caught.value.code == "partition_table"
    return str(caught.value)


def sealed(image, *changes, block=512):
    """``(offset, format, value)`` put in, and both checksums made right again."""
    changed = bytearray(image)
    for offset, form, value in changes:
        struct.pack_into(form, changed, offset, value)
    start, count, width = struct.unpack_from("<QII", changed, block + 72)
    entries = changed[start * block : start * block + count * width]
    struct.pack_into("<I", changed, block + 88, zlib.crc32(entries))
    struct.pack_into("<I", changed, block + 16, 0)
    struct.pack_into("<I", changed, block + 16, zlib.crc32(changed[block : block + 92]))
    return bytes(changed)


def first_of(number):
    return 1024 + 128 * (number - 1) + 32


def last_of(number):
    return first_of(number) + 8


def test_good_tables(guid, dos):
    assert check(guid) == "gpt"
    assert check(sealed(guid)) == "gpt"
    assert check(dos) == "mbr"
    assert check(bytes(MIB)) == "none"
    assert check(b"", image_size=0) == "none"


def test_a_table_for_blocks_of_4096_bytes(guid):
    table = bytearray(1 << 20)
    table[4096:4188] = guid[512:604]
    table[8192 : 8192 + 128] = guid[1024:1152]
    table[:512] = guid[:512]
    for offset, form, value in (
        (4096 + 32, "<Q", 4095), (4096 + 40, "<Q", 6), (4096 + 48, "<Q", 4090),
        (8192 + 32, "<Q", 256), (8192 + 40, "<Q", 4090), (446 + 12, "<I", 4095),
    ):  # fmt: skip
        struct.pack_into(form, table, offset, value)
    image = sealed(table, block=4096)
    assert check(image, block=4096, image_size=4096 * 4096) == "gpt"
    assert "outside" in refused(
        sealed(image, (8192 + 40, "<Q", 4091), block=4096), block=4096, image_size=4096 * 4096
    )


def test_a_file_system_without_a_table(tmp_path):
    path = blank(tmp_path / "fat", 4 * MIB, fill=b"\0")
    run("mkfs.vfat", str(path))
    assert path.read_bytes()[510:512] == b"\x55\xaa"
    assert check(path.read_bytes()) == "none"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([(last_of(7), "<Q", 1 << 40)], "partition 7 at blocks 20480 to 1099511627776, outside of"),
        ([(last_of(7), "<Q", BLOCKS - 1)], "partition 7 at blocks 20480 to 32767, outside of 34 to"),
        ([(first_of(1), "<Q", 10)], "partition 1 at blocks 10 to 4095, outside of"),
        ([(first_of(2), "<Q", 4095)], "partition 2 in the place of partition 1"),
        ([(first_of(2), "<Q", 2048), (last_of(2), "<Q", 4095)], "in the place of"),
        ([(first_of(7), "<Q", 5000), (last_of(7), "<Q", 6000)], "partition 7 in the place of partition 2"),
        ([(last_of(1), "<Q", 100)], "partition 1 ends before it begins"),
        ([(512 + 32, "<Q", BLOCKS)], "backup at block 32768, beyond the image"),
        ([(512 + 48, "<Q", BLOCKS)], "gives blocks 34 to 32768"),
        ([(512 + 40, "<Q", 33)], "gives blocks 33 to"),
        ([(512 + 24, "<Q", 2)], "a header that is for another place"),
        ([(512 + 72, "<Q", 1)], "a header that is for another place"),
        ([(512 + 72, "<Q", 1 << 60)], "entries in an unusual place"),
        ([(446 + 4, "<B", 0x83)], "no protective MBR"),
        ([(446 + 8, "<I", 2)], "no protective MBR"),
        ([(446 + 12, "<I", BLOCKS)], "protective MBR for 32769 blocks"),
        ([(446 + 12, "<I", 0)], "protective MBR for 1 blocks"),
        ([(462 + 4, "<B", 0xEE), (462 + 8, "<I", 1), (462 + 12, "<I", 9)], "no protective MBR"),
        ([(462 + 4, "<B", 0x83), (462 + 8, "<I", 3000), (462 + 12, "<I", 9)], "partition 2 is none of"),
        ([(510, "<H", 0)], "no protective MBR"),
    ],
)
def test_tables_that_are_sealed_and_wrong(guid, changes, words):
    """The checksums are right: whoever made them meant it."""
    # sealed() itself reads where the entries are, so a place out of reach is put in last.
    assert words in refused(sealed(guid, *changes) if changes[0][0] != 512 + 72 else moved(guid, changes[0]))


def moved(image, change):
    changed = bytearray(image)
    struct.pack_into(change[1], changed, change[0], change[2])
    struct.pack_into("<I", changed, 512 + 16, 0)
    struct.pack_into("<I", changed, 512 + 16, zlib.crc32(changed[512:604]))
    return bytes(changed)


@pytest.mark.parametrize(
    ("count", "width"), [(0xFFFFFFFF, 128), (257, 128), (128, 1 << 31), (128, 64), (2, 1 << 16)]
)
def test_absurd_entries(guid, count, width):
    changed = bytearray(guid)
    struct.pack_into("<II", changed, 512 + 80, count, width)
    assert "entries in an unusual place" in refused(moved(bytes(changed), (0, "<B", 0)))


@pytest.mark.parametrize("place", [512 + 9, 512 + 60, 1024 + 40, 1024 + 60])
def test_wrong_checksums(guid, place):
    changed = bytearray(guid)
    changed[place] ^= 1
    assert "checksum" in refused(bytes(changed)) or "length" in refused(bytes(changed))


def test_an_image_that_was_cut(guid, dos):
    assert "beyond the image's 20480 blocks" in refused(guid, image_size=10 * MIB)
    assert "partition 3 at blocks 8192 to 32767, outside of 1 to 20479" in refused(dos, image_size=10 * MIB)


def test_a_disk_that_is_smaller_than_the_image(guid):
    assert "beyond the image's" in refused(guid, disk_size=SIZE - MIB)


def test_a_hybrid_table_with_the_same_partitions(guid):
    changes = [(462 + 4, "<B", 0x83), (462 + 8, "<I", 2048), (462 + 12, "<I", 2048)]
    assert check(sealed(guid, *changes)) == "gpt"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([(446 + 12, "<I", 0)], "ends before it begins"),
        ([(446 + 12, "<I", 0xFFFFFFFF)], "outside of 1 to"),
        ([(446 + 8, "<I", 0)], "outside of 1 to"),
        ([(462 + 8, "<I", 2048)], "in the place of"),
        ([(446 + 4, "<B", 0xEE)], "no GUID partition table that it protects"),
    ],
)
def test_wrong_mbr_tables(dos, changes, words):
    changed = bytearray(dos)
    for offset, form, value in changes:
        struct.pack_into(form, changed, offset, value)
    assert words in refused(bytes(changed))


@given(st.lists(st.tuples(st.integers(0, 1400), st.integers(0, 255)), max_size=6), st.booleans())
@settings(max_examples=300, deadline=None)
def test_damage_is_refused_or_leaves_a_table_that_is_inside(guid, damage, reseal):
    changed = bytearray(guid)
    for place, value in damage:
        changed[place] = value
    if reseal and struct.unpack_from("<QII", changed, 512 + 72) == (2, 128, 128):
        changed = sealed(changed)
    problem = ""
    try:
        kind = check(bytes(changed))
    except ImageError as error:
        problem = error.code
    if problem:
        assert problem == "partition_table"
    elif kind == "gpt":
        found = gpt.parse(bytes(changed[: gpt.HEAD]), 512).partitions
        assert all(34 <= one.first <= one.last < BLOCKS for one in found)
