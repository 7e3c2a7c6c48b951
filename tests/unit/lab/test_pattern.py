"""The mark on dirty disks and the search for what is left of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from teeth.errors import TeethError, UsageError
from teeth.lab.pattern import MAGIC, RECORD, create_dirty_disk, create_disk, scan_disk

MIB = 1 << 20


def test_every_record_of_a_dirty_disk_says_where_it_belongs(tmp_path: Path) -> None:
    disk = tmp_path / "d.raw"
    create_dirty_disk(disk, 2 * MIB + 4096, "SER-1")
    data = disk.read_bytes()
    assert len(data) == 2 * MIB + 4096
    for offset in (0, 64, MIB - 64, MIB, 2 * MIB + 4032):
        record = data[offset : offset + RECORD]
        assert record.startswith(MAGIC + b"SER-1 ")
        span = int.from_bytes(record[52:56], "big")
        assert span * MIB + int(record[56:64], 16) * RECORD == offset


def test_a_dirty_disk_survives_whole(tmp_path: Path) -> None:
    disk = tmp_path / "d.raw"
    create_dirty_disk(disk, 9 * MIB, "S")
    scan = scan_disk(disk)
    assert (scan.size, scan.stored, scan.surviving, scan.first) == (9 * MIB, 9 * MIB, 9 * MIB, 0)
    assert not scan.clean


def test_holes_and_zeroes_are_clean(tmp_path: Path) -> None:
    disk = tmp_path / "d.raw"
    create_disk(disk, 64 * MIB)
    with disk.open("r+b") as stream:
        stream.seek(8 * MIB)
        stream.write(bytes(2 * MIB))
    scan = scan_disk(disk)
    assert scan.clean
    assert scan.size == 64 * MIB
    assert 2 * MIB <= scan.stored < 64 * MIB


# Unaligned, over the edge between two reads, at the very end, behind a hole.
@pytest.mark.parametrize("offset", [0, 1, 4 * MIB - 1, 4 * MIB - 15, 8 * MIB - 8, 12 * MIB - len(MAGIC)])
@pytest.mark.parametrize("full", [True, False])
def test_one_survivor_is_found_anywhere(tmp_path: Path, offset: int, full: bool) -> None:
    disk = tmp_path / "d.raw"
    create_disk(disk, 12 * MIB)
    with disk.open("r+b") as stream:
        if full:
            stream.write(bytes(12 * MIB))
        stream.seek(offset)
        stream.write(MAGIC)
    scan = scan_disk(disk)
    assert (scan.surviving, scan.first) == (RECORD, offset)


def test_a_partly_overwritten_disk_is_not_clean(tmp_path: Path) -> None:
    disk = tmp_path / "d.raw"
    create_dirty_disk(disk, 8 * MIB, "S")
    with disk.open("r+b") as stream:
        stream.write(os.urandom(8 * MIB - 512))
    scan = scan_disk(disk)
    assert (scan.surviving, scan.first) == (512, 8 * MIB - 512)


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    disk = tmp_path / "d.raw"
    disk.write_bytes(MAGIC * 10)
    create_disk(disk, 4096)
    assert scan_disk(disk).clean


def test_an_odd_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a multiple of 64"):
        create_dirty_disk(tmp_path / "d.raw", 100, "S")


def test_no_room_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "d.raw"
    with pytest.raises(TeethError, match="no room for a full disk"):
        create_dirty_disk(disk, 1 << 43, "S")
    assert not disk.exists()
