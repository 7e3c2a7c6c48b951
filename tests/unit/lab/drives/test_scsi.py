"""SCSI commands as such: what every one answers, and what wrong ones are told (SPC-5, SBC-4)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.drive_rig import BLOCKS, MARK, Rig
from teeth.errors import TeethError, UsageError
from teeth.lab.drives.answer import Command, Reply, Wait
from teeth.lab.drives.firmware import make_image
from teeth.lab.drives.media import FileMedia, MemoryMedia, fill
from teeth.lab.drives.model import Medium, StateStore
from teeth.lab.drives.sense import Key, Sense, Status

INVALID_FIELD = (0x5, 0x24, 0x00)


def test_every_form_of_read_and_write_moves_the_same_blocks() -> None:
    drive = Rig()
    for number, (write, read) in enumerate(
        [("0a{:06x}0100", "08{:06x}0100"), ("2a00{:08x}00000100", "2800{:08x}00000100"),
         ("aa00{:08x}000000010000", "a800{:08x}000000010000"),
         ("8a00{:016x}000000010000", "8800{:016x}000000010000")], 1
    ):  # fmt: skip
        data = bytes((number,)) * 512
        drive.good(write.format(number), data)
        assert drive.good(read.format(number)) == data
        assert drive.media.read(number * 512, 512) == data


@pytest.mark.parametrize("cdb", [
    f"2800{BLOCKS:08x}00000100", f"2800{BLOCKS - 1:08x}00000200", f"2a00{BLOCKS:08x}00000100",
    f"8800{2**63:016x}000000010000", f"2f00{BLOCKS:08x}00000100", f"3500{BLOCKS:08x}00000100",
    f"4100{BLOCKS:08x}00000100",
])  # fmt: skip
def test_addresses_behind_the_end_are_refused(cdb: str) -> None:
    assert Rig().sense(cdb, bytes(1024)) == (0x5, 0x21, 0x00)


def test_a_command_that_there_is_not() -> None:
    drive = Rig()
    assert drive.sense("ff") == (0x5, 0x20, 0x00)
    assert drive.sense("9e1f") == INVALID_FIELD
    reply = drive.run("1201ee00ff")
    assert reply.sense is not None
    assert reply.raw[15:18] == b"\xc0\x00\x02"  # it points at the page code


def test_every_supported_command_is_listed_and_answers() -> None:
    drive = Rig()
    data = drive.good("a30c80000000000010000000")
    rows = [data[at : at + 20] for at in range(4, len(data), 20)]
    assert len(rows) == len(drive.drive.operations)
    for row in rows:
        assert row[5] & 0x02
        cdb = bytes((row[0], row[3] if row[5] & 1 else 0)).ljust(16, b"\0")
        reply = drive.run(cdb)
        assert reply.sense is None or reply.sense.asc != 0x20, cdb.hex()
        drive = Rig()


def test_inquiry_pages_are_all_there_and_their_lengths_are_right() -> None:
    for kind in ("scsi", "sata"):
        drive = Rig(kind)
        listed = drive.good("12010000ff")
        assert listed[4:] == bytes(sorted(listed[4:]))
        for page in listed[4:]:
            data = drive.good(f"1201{page:02x}0400")
            assert data[1] == page
            assert int.from_bytes(data[2:4], "big") == len(data) - 4
        assert (0x89 in listed[4:]) is (kind == "sata")


def test_a_sata_drive_is_called_ata() -> None:
    data = Rig("sata").good("1200000060")
    assert data[8:32] == b"ATA     TEETH LAB DRIVE "


@pytest.mark.parametrize(("medium", "rate"), [(Medium.SSD, 1), (Medium.HDD, 7200)])
def test_rotation(medium: Medium, rate: int) -> None:
    drive = Rig("sata", medium=medium)
    assert int.from_bytes(drive.good("1201b100ff")[4:6], "big") == rate
    assert drive.word(217) == rate


@pytest.mark.parametrize("sector", [512, 4096])
def test_sector_sizes(sector: int) -> None:
    drive = Rig("sata", sector=sector, physical=4096, blocks=1024)
    data = drive.good("9e10000000000000000000000020")
    assert int.from_bytes(data[8:12], "big") == sector
    assert sector << (data[13] & 0x0F) == 4096
    assert len(drive.good("28000000000000000100")) == sector
    assert bool(drive.word(106) & 0x1000) is (sector == 4096)


def test_unmap_and_write_same() -> None:
    drive = Rig()
    drive.good("42000000000000001800", bytes.fromhex("0016 0010 00000000 0000000000000010 00000010 00000000"))
    assert drive.marked(0, 64) == [*range(16), *range(32, 64)]
    drive.good("93080000000000000000000000100000", bytes(512))
    assert drive.marked(0, 64) == list(range(32, 64))
    drive.good("9301 0000000000000020 00000010 0000".replace(" ", ""))  # NDOB: no data out
    assert drive.marked(0, 64) == list(range(48, 64))
    drive.good("41000000003000000100", b"\x55" * 512)
    assert drive.good("28000000003000000100") == b"\x55" * 512
    drive.good(f"4100{BLOCKS - 4:08x}00000000", b"\x66" * 512)  # to the end
    assert drive.media.read((BLOCKS - 1) * 512, 512) == b"\x66" * 512
    assert drive.media.read(BLOCKS * 512, 512) == MARK * 64
    assert drive.sense("93100000000000000000000000010000", bytes(512)) == INVALID_FIELD  # ANCHOR


def test_a_drive_without_unmap() -> None:
    drive = Rig(unmap=False)
    assert drive.sense("42") == (0x5, 0x20, 0x00)
    assert drive.sense("93080000000000000000000000010000", bytes(512)) == INVALID_FIELD
    assert drive.good("9e10000000000000000000000020")[14] == 0


def test_verify_compares() -> None:
    drive = Rig()
    drive.good("2f020000000000000100", MARK * 64)
    assert drive.sense("2f020000000000000100", bytes(512)) == (0xE, 0x1D, 0x00)
    assert drive.sense("2f040000000000000100") == INVALID_FIELD


def test_mode_pages_change_where_they_may() -> None:
    drive = Rig()
    page = drive.good("1a080800ff")[4:]
    assert page[2] & 0x04
    off = bytes(4) + bytes((0x08,)) + page[1:2] + bytes((page[2] & ~0x04,)) + page[3:]
    drive.good("1510000018", off)
    assert not drive.drive.disk.caching
    drive.good("2a000000000000000100", b"through!" * 64)
    drive.power_cycle()
    assert drive.good("28000000000000000100") == b"through!" * 64
    assert drive.drive.disk.caching  # it was not saved
    wrong = bytes(4) + bytes((0x08,)) + page[1:2] + b"\xff" + page[3:]
    assert drive.sense("1510000018", wrong) == (0x5, 0x26, 0x00)
    assert drive.sense("1510000002", b"\0\0") == (0x5, 0x1A, 0x00)


def test_saved_mode_pages_outlive_power(tmp_path: Path) -> None:
    drive = Rig(state=tmp_path / "state.json")
    page = drive.good("1a080a00ff")[4:]
    descriptor = bytes(4) + bytes((0x0A,)) + page[1:2] + bytes((page[2] | 0x04,)) + page[3:]
    drive.good("1511000010", descriptor)
    drive.drive = drive.make()
    assert drive.run("ff").raw[0] == 0x72


def test_mode_change_is_told_to_the_others() -> None:
    drive = Rig()
    drive.good("00", nexus="b")
    page = drive.good("1a080800ff")[4:]
    drive.good("1510000018", bytes(4) + bytes((0x08,)) + page[1:2] + bytes((0,)) + page[3:])
    assert drive.sense("00", nexus="b") == (0x6, 0x2A, 0x01)
    drive.good("00", nexus="b")
    drive.good("00")


def test_unit_attentions_wait_for_a_command_that_may_carry_them() -> None:
    drive = Rig()
    drive.good("00")
    drive.drive.power_cycle()
    drive.good("12000000ff")
    drive.good("a0000000000000000100")
    assert drive.sense("00") == (0x6, 0x29, 0x01)
    drive.good("00")


def test_stop_and_start() -> None:
    drive = Rig()
    drive.good("1b000000")
    assert drive.sense("28000000000000000100") == (0x2, 0x04, 0x02)
    drive.good("12000000ff")
    drive.good("1b00000001")
    drive.good("28000000000000000100")


def test_firmware_in_segments_takes_effect_as_the_mode_says() -> None:
    image = make_image("9.99", size=8192)
    drive = Rig()
    drive.good("3b0e00000000001000".ljust(20, "0"), image[:4096])
    assert drive.sense("3b0e00000800001000".ljust(20, "0"), image[4096:]) == (0x5, 0x2C, 0x00)  # a gap
    drive.good("3b0e00000000001000".ljust(20, "0"), image[:4096])
    drive.good("3b0e00001000001000".ljust(20, "0"), image[4096:])
    assert drive.good("12000000ff")[32:36] == b"1.00"
    drive.power_cycle()
    assert drive.good("12000000ff")[32:36] == b"9.99"
    assert drive.sense("3b0500000000002000".ljust(20, "0"), bytes(8192)) == (0x5, 0x26, 0x00)
    drive.good("3b0500000000002000".ljust(20, "0"), make_image("5.00", size=8192))
    assert drive.good("12000000ff")[32:36] == b"5.00"


def test_reservations_outlive_power_where_they_were_asked_to() -> None:
    for aptpl in (0, 1):
        drive = Rig()
        key = (0xABC).to_bytes(8, "big")
        drive.good("5f000000000000001800", bytes(8) + key + bytes((0, 0, 0, 0, aptpl, 0, 0, 0)))
        drive.good("5f010300000000001800", key + bytes(16))
        assert drive.run("28000000000000000100", nexus="b").status is Status.RESERVATION_CONFLICT
        drive.power_cycle()
        drive.run("03000000ff", nexus="b")
        expected = Status.RESERVATION_CONFLICT if aptpl else Status.GOOD
        assert drive.run("28000000000000000100", nexus="b").status is expected


@given(cdb=st.binary(min_size=1, max_size=16), data=st.binary(max_size=600))
@settings(max_examples=1500, deadline=None)
def test_no_command_makes_the_model_stumble(cdb: bytes, data: bytes) -> None:
    for kind in ("scsi", "sata"):
        drive = _small(kind)
        answer = drive.drive.execute(Command(cdb=cdb.ljust(16, b"\0"), data=data, nexus="x"))
        while isinstance(answer, Wait):
            drive.now = answer.until
            answer = answer.finish()
        assert isinstance(answer, Reply)
        assert answer.status is not Status.CHECK_CONDITION or answer.raw


@given(command=st.integers(0, 255), features=st.integers(0, 65535), count=st.integers(0, 8),
       lba=st.integers(0, 2**48 - 1), out=st.booleans(), reads=st.booleans())  # fmt: skip
@settings(max_examples=1000, deadline=None)
def test_no_ata_command_makes_the_model_stumble(
    command: int, features: int, count: int, lba: int, out: bool, reads: bool
) -> None:
    drive = _small("sata")
    data = bytes(512 * (count or 1)) if out else b""
    reply = drive.ata(command, features=features, count=count, lba=lba, data=data, reads=reads)
    assert isinstance(reply, Reply)


def _small(kind: str) -> Rig:
    return Rig(kind, dirty=False, blocks=256, spares=4, erase_seconds=1.0)


def test_sense_formats() -> None:
    sense = Sense(key=Key.MEDIUM_ERROR, asc=0x11, information=0x1234)
    assert sense.fixed().hex() == "f00003000012340a00000000110000000000"
    assert sense.descriptor().hex() == "72031100" + "0000000c" + "000a8000" + "0000000000001234"
    far = Sense(key=Key.MEDIUM_ERROR, asc=0x11, information=2**40)
    assert not far.fixed()[0] & 0x80  # it does not fit: not valid


def test_media(tmp_path: Path) -> None:
    memory, file = MemoryMedia(1 << 20), FileMedia(tmp_path / "disk", 1 << 20)
    for media in (memory, file):
        media.write(65530, b"across a page")
        assert media.read(65530, 13) == b"across a page"
        assert media.read(0, 16) == bytes(16)
        fill(media, 65530, 13, b"\0")
        fill(media, 100, 10, b"abc")
        assert media.read(99, 12) == b"\0abcabcabca\0"
    assert (tmp_path / "disk").stat().st_blocks * 512 < 1 << 20  # sparse
    with pytest.raises(TeethError, match="cannot be used"):
        FileMedia(tmp_path, 1 << 20)


@pytest.mark.parametrize("text", ["{", "[]", '{"nonsense": 1}', '{"sanitize": {}, "security": {"x": 1}}'])
def test_a_state_that_is_none_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(TeethError, match="cannot be used"):
        StateStore(path).load(Rig().spec)


@pytest.mark.parametrize(
    "wrong",
    [{"serial": ""}, {"serial": "x" * 21}, {"wwn": "5000"}, {"sector": 1024}, {"blocks": 1}, {"hidden": 8192},
     {"physical": 100}, {"crypto_leaves": "x"}, {"hidden_by": "x"}, {"erase_seconds": -1.0},
     {"password": "p" * 33}, {"spares": -1}],
)  # fmt: skip
def test_drives_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="drive rig: "):
        Rig(**wrong)  # type: ignore[arg-type]


def test_compare_and_write_writes_only_what_is_as_expected() -> None:
    drive = Rig()
    old, new = MARK * 128, b"n" * 1024
    command = "8900 0000000000000004 00000002 0000"
    assert drive.sense(command, b"x" + old[1:] + new)[:2] == (0xE, 0x1D)
    assert drive.good("88000000000000000004000000020000") == old
    drive.good(command, old + new)
    assert drive.good("88000000000000000004000000020000") == new
    assert drive.sense(command, old)[:2] == (5, 0x1A)
    assert drive.sense("8900 0000000000001fff 00000002 0000", old + new)[:2] == (5, 0x21)
    assert drive.good("1201b000ff")[5] == 0xFF
    assert drive.lie("read-only").sense(command, new + old)[0] == 7
