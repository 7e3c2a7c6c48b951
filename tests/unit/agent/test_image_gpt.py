"""Reading GUID partition tables that sgdisk wrote, whole and damaged; planning a partition at the end."""

from __future__ import annotations

import pytest

from fakes import diskimages
from teeth_image import gpt
from teeth_image.errors import ImageError

MIB = 1 << 20


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    path = diskimages.blank(tmp_path_factory.mktemp("gpt") / "disk", 16 * MIB, fill=b"\0")
    diskimages.run("sgdisk", "--new=1:1M:+1M", "--new=4:2M:4M", "--change-name=4:config-2", str(path))
    return path.read_bytes()[: 64 << 10]


def test_what_sgdisk_wrote(head):
    table = gpt.parse(head, 512)
    assert [(one.number, one.first) for one in table.partitions] == [(1, 2048), (4, 4096)]
    assert table.named("config-2").number == 4
    assert table.named("other") is None
    assert table.offset(table.partitions[0]) == MIB
    assert gpt.block_size_of(head) == 512


@pytest.mark.parametrize(
    "place", [512, 512 + 16, 512 + 24, 512 + 72, 512 + 80, 512 + 84, 1024, 1024 + 3 * 128]
)
def test_damage_anywhere_is_refused(head, place):
    damaged = bytearray(head)
    damaged[place] ^= 0x55
    with pytest.raises(ImageError) as caught:
        gpt.parse(bytes(damaged), 512)
    assert caught.value.code == "partition_table"


@pytest.mark.parametrize("size", [0, 512, 600, 1000])
def test_no_table_at_all(size):
    with pytest.raises(ImageError):
        gpt.parse(bytes(size), 512)


def table(block, last_usable, *partitions):
    made = [
        gpt.Partition(number=number, kind=gpt.EFI_SYSTEM, first=first, last=last, name="")
        for number, first, last in partitions
    ]
    return gpt.Table(block=block, first_usable=34, last_usable=last_usable, entries=4, partitions=tuple(made))


@pytest.mark.parametrize(
    ("block", "last_usable", "partitions", "length", "expected"),
    [
        (512, 40959, [(1, 2048, 8191)], MIB, (2, 38912, 40959)),
        (512, 40926, [(1, 2048, 8191)], MIB, (2, 36864, 38911)),
        (512, 40926, [(2, 2048, 38911)], MIB, "no_room"),
        (512, 40959, [(2, 2048, 38911)], MIB, (1, 38912, 40959)),
        (512, 40959, [(1, 2048, 38912)], MIB, "no_room"),
        (4096, 5119, [(1, 256, 1023)], 2 * MIB, (2, 4608, 5119)),
        (512, 40959, [(n, 2048 * n, 2048 * n) for n in (1, 2, 3, 4)], MIB, "no_room"),
        (512, 1000, [], MIB, "no_room"),
    ],
)
def test_a_new_partition_goes_to_the_end(block, last_usable, partitions, length, expected):
    if expected == "no_room":
        with pytest.raises(ImageError) as caught:
            gpt.plan_at_end(table(block, last_usable, *partitions), length)
        assert caught.value.code == "no_room"
        return
    new = gpt.plan_at_end(table(block, last_usable, *partitions), length)
    assert (new.number, new.first, new.last) == expected


def test_an_active_partition():
    head = bytearray(512)
    head[510:] = b"\x55\xaa"
    assert not gpt.active_mbr_partition(bytes(head))
    head[446 + 16] = 0x80
    assert gpt.active_mbr_partition(bytes(head))
