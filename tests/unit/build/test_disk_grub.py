"""grub's two sectors that are written by hand, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from teeth.build.disk_grub import bios_embed, find_grub
from teeth.errors import TeethError
from teeth_image.errors import ImageError
from teeth_image.grub import boot_sector, place_core


BOOT = b"\xee" * 510 + b"\x55\xaa"


def core(sectors: int, *, length: int | None = None, segment: int = 0x820) -> bytes:
    first = bytearray(b"\x11" * 512)
    struct.pack_into("<QHH", first, 500, 1, sectors - 1 if length is None else length, segment)
    return bytes(first) + b"\x22" * (512 * (sectors - 1) - 100)


def test_the_disks_own_tables_survive_the_boot_sector() -> None:
    before = bytes(range(256)) * 2
    sector = boot_sector(BOOT, before, core_at=4242)
    assert sector[0x1B8:0x1FE] == before[0x1B8:0x1FE]
    assert sector[0x03:0x5A] == before[0x03:0x5A]
    assert struct.unpack_from("<Q", sector, 0x5C) == (4242,)
    assert sector[0x66:0x68] == b"\x90\x90"
    assert sector[0x68:0x1B8] == b"\xee" * (0x1B8 - 0x68)


def test_the_core_is_told_where_its_rest_lies() -> None:
    placed = place_core(core(9), core_at=2048, room=9)
    assert struct.unpack_from("<QHH", placed, 500) == (2049, 8, 0x820)
    assert placed[512:] == core(9)[512:]


@pytest.mark.parametrize("bad", [core(9, length=3), core(9, segment=0x1000)])
def test_a_core_of_another_format_is_refused(bad: bytes) -> None:
    with pytest.raises(ImageError, match="grub's core describes"):
        place_core(bad, core_at=2048, room=9)


def test_a_core_that_does_not_fit_leaves_the_disk_alone(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(20 * 512))
    with pytest.raises(TeethError, match="has 9 sectors, its partition 8"):
        bios_embed(disk, 4, 8, (BOOT, core(9)))
    assert disk.read_bytes() == bytes(20 * 512)


def test_missing_grub_modules_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(TeethError, match=r"boot\.img is missing .*make setup"):
        find_grub(tmp_path)
