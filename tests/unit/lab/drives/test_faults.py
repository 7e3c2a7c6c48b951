"""Each fault, and what power, caches and remapping do to the medium."""

from __future__ import annotations

import math

import pytest

from fakes.drive_rig import MARK, NoAnswerError, Rig, password_data
from teeth.errors import UsageError
from teeth.lab.drives.answer import Wait
from teeth.lab.drives.behaviours import make
from teeth.lab.drives.faults import FAULTS
from teeth.lab.drives.sense import Status

READ, WRITE = "28000000000000000100", "2a000000000000000100"
NEW = b"written." * 64


def test_a_bad_block_is_told_by_its_address_and_a_write_retires_it() -> None:
    drive = Rig().lie("media-error:5,7-9")
    reply = drive.run("28000000000000001000")
    assert reply.sense is not None
    assert (reply.sense.key, reply.sense.asc, reply.sense.information) == (0x3, 0x11, 5)
    assert drive.sense("2f000000000600000200")[0] == 0x3
    drive.good("2a000000000500000100", NEW)
    assert drive.good("28000000000500000100") == NEW
    # The old content is on the retired block, which only device-side erases reach.
    assert drive.media.read(drive.spec.blocks * 512, 512) == MARK * 64
    assert drive.drive.disk.state.remapped == {"5:0": 0}
    assert drive.drive.disk.state.bad == [7, 8, 9]


def test_bad_blocks_of_a_sata_drive() -> None:
    drive = Rig("sata").lie("media-error:5")
    reply = drive.ata(0x25, count=8, reads=True)
    assert reply.sense is not None
    assert reply.sense.ata is not None
    assert (reply.sense.ata.error, reply.sense.ata.lba) == (0x40, 5)
    drive.ata_good(0x45, features=0x55, lba=100, count=2)  # WRITE UNCORRECTABLE EXT
    assert drive.sense("28000000006400000100")[0] == 0x3


def test_without_spare_blocks_writes_fail() -> None:
    drive = Rig(spares=1).lie("media-error:5,6")
    drive.good("2a000000000500000100", NEW)
    assert drive.sense("2a000000000600000100", NEW) == (0x3, 0x0C, 0x00)


def test_a_block_that_cannot_be_written() -> None:
    drive = Rig().lie("write-error:0")
    assert drive.sense(WRITE, NEW) == (0x3, 0x0C, 0x00)
    assert drive.good(READ) == MARK * 64


def test_a_drive_that_hangs_and_one_that_hangs_once() -> None:
    drive = Rig().lie("hang")
    with pytest.raises(NoAnswerError):
        drive.run(READ)
    drive.drive.disk.remove("hang")
    drive.good(READ)
    drive.lie("hang-once")
    with pytest.raises(NoAnswerError):
        drive.run(READ)
    drive.good(READ)


def test_a_slow_drive() -> None:
    drive = Rig().lie("slow:2.5")
    answer = drive.start(READ)
    assert isinstance(answer, Wait)
    assert answer.until == drive.now + 2.5
    drive.good(READ)
    assert drive.now == 1002.5


@pytest.mark.parametrize("cdb", [WRITE, "4802", "04", "42", "93", "41"])
def test_a_read_only_drive(cdb: str) -> None:
    drive = Rig().lie("read-only")
    assert drive.sense(cdb, NEW) == (0x7, 0x27, 0x00)
    assert drive.good("1a003f00ff")[2] & 0x80
    drive.good(READ)
    drive.drive.disk.remove("read-only")
    drive.good(WRITE, NEW)


def test_a_read_only_sata_drive_takes_no_erase() -> None:
    drive = Rig("sata").lie("read-only")
    assert drive.run(_pass_through(0xB4, 0x12, 0x426B4572)).sense is not None
    assert len(drive.marked()) == drive.spec.blocks + drive.spec.spares


def _pass_through(command: int, features: int, lba: int) -> bytes:
    at = lba.to_bytes(6, "little")
    return bytes(
        (0x85, 7, 0x20, 0, features, 0, 0, at[3], at[0], at[4], at[1], at[5], at[2], 0x40, command, 0)
    )


def test_a_drive_that_vanishes_and_comes_back() -> None:
    drive = Rig().lie("vanish")
    assert drive.sense(READ) == (0x2, 0x3A, 0x00)
    drive.drive.disk.remove("vanish")
    drive.good(READ)


def test_busy_and_broken_drives() -> None:
    assert Rig().lie("busy").run(READ).status is Status.BUSY
    drive = Rig().lie("hardware-error")
    assert drive.sense(READ) == (0x4, 0x44, 0x00)
    drive.good("12000000ff")


@pytest.mark.parametrize(("fault", "cdb", "sense"), [
    ("erase-fails", "4802", (0x3, 0x31, 0x03)),
    ("erase-fails:10", "04", (0x3, 0x31, 0x01)),
    ("sanitize-fails:0", "4803", (0x3, 0x31, 0x03)),
])  # fmt: skip
def test_erases_that_fail(fault: str, cdb: str, sense: tuple[int, int, int]) -> None:
    drive = Rig().lie(fault)
    assert drive.sense(cdb) == sense
    assert drive.marked()
    assert drive.sense("00") == sense


def test_a_failed_format_is_mended_by_another() -> None:
    drive = Rig().lie("erase-fails")
    assert drive.sense("04") == (0x3, 0x31, 0x01)
    drive.drive.disk.remove("erase-fails")
    assert drive.sense(READ) == (0x3, 0x31, 0x01)
    drive.good("04")
    drive.good(READ)


def test_the_power_goes_at_the_nth_write() -> None:
    drive = Rig().lie("power-cut-at-write:3")
    for lba in (0, 1):
        drive.good(f"2a08{lba:08x}00000100", NEW)  # FUA
    with pytest.raises(NoAnswerError):
        drive.run("2a080000000200000100", NEW)
    assert drive.sense("00") == (0x6, 0x29, 0x01)
    assert [drive.good(f"2800{lba:08x}00000100") == NEW for lba in range(3)] == [True, True, False]
    assert drive.drive.disk.state.power_cycles == 1


def test_the_power_goes_in_a_sanitize_which_goes_on() -> None:
    drive = Rig().lie("power-cut-at-erase:40")
    drive.good("4882")
    drive.now += 9.0
    drive.drive.settle()
    assert drive.drive.disk.state.power_cycles == 1
    total = drive.spec.blocks + drive.spec.spares
    assert len(drive.marked()) == total - int(total * 0.4)
    drive.now += 6.1
    drive.drive.settle()
    assert drive.marked() == []


def test_the_power_goes_in_a_security_erase_which_does_not_go_on() -> None:
    drive = Rig("sata").lie("power-cut-at-erase:40")
    drive.ata_good(0xF1, data=password_data("p"))
    drive.ata_good(0xF3)
    with pytest.raises(NoAnswerError):
        drive.ata(0xF4, data=password_data("p"))
    drive.run("03000000ff")
    assert drive.word(128) & 0x0006 == 0x0006
    assert drive.marked(0, drive.spec.blocks)


def test_a_power_cut_in_a_format_leaves_it_corrupted() -> None:
    """SBC-4 4.10: MEDIUM FORMAT CORRUPTED until a format ends well."""
    drive = Rig()
    drive.good("0411", bytes.fromhex("00020000"))
    assert drive.sense("00") == (0x2, 0x04, 0x04)
    drive.now += 5.0
    drive.power_cycle()
    assert drive.sense("00") == (0x3, 0x31, 0x00)
    drive.good("04")
    drive.good("00")


def test_smart_says_failing() -> None:
    drive = Rig("sata").lie("smart-failing")
    sense = drive.ata_good(0xB0, features=0xDA, lba=0xC24F00).sense
    assert sense is not None
    assert sense.ata is not None
    assert sense.ata.lba >> 8 == 0x2CF4
    scsi = Rig().lie("smart-failing")
    assert scsi.good("4d002f0000000000ff00")[8:10] == b"\x5d\x10"


def test_another_drives_serial() -> None:
    drive = Rig("sata").lie("duplicate-serial:OTHER")
    assert drive.good("12018000ff")[4:].strip() == b"OTHER"
    data = drive.ata(0xEC, count=1, reads=True).data
    text = bytes(byte for at in range(20, 40, 2) for byte in (data[at + 1], data[at]))
    assert text.strip() == b"OTHER"


def test_flipped_bits() -> None:
    drive = Rig().lie("corrupt-reads")
    assert drive.good(READ) != MARK * 64


def test_an_unflushed_write_is_lost_with_the_power_and_a_flushed_one_is_not() -> None:
    drive = Rig()
    drive.good(WRITE, NEW)
    drive.good("35")
    drive.good("2a000000000100000100", NEW)
    drive.power_cycle()
    assert drive.good(READ) == NEW
    assert drive.good("28000000000100000100") == MARK * 64


def test_without_a_write_cache_nothing_is_lost() -> None:
    drive = Rig(write_cache=False)
    drive.good(WRITE, NEW)
    drive.power_cycle()
    assert drive.good(READ) == NEW
    drive.lie("cache-always-on")
    drive.good("2a000000000100000100", NEW)
    drive.power_cycle()
    assert drive.good("28000000000100000100") == MARK * 64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("media-error", "list of blocks"),
        ("media-error:a", "list of blocks"),
        ("media-error:9-5", "list of blocks"),
        ("media-error:0-99999999", "more than 65536"),
        ("slow:x", "not a number"),
        ("slow:nan", "not a number"),
        ("erase-fails:200", "percent"),
        ("duplicate-serial", "needs the serial"),
        ("nonsense", "no lie or fault"),
    ],
)
def test_wrong_arguments_are_told(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make(text)


def test_no_fault_is_infinitely_slow_by_accident() -> None:
    for kind in FAULTS:
        if kind.name not in ("hang", "hang-once", "media-error", "write-error", "duplicate-serial"):
            drive = Rig().lie(kind.name)
            answer = drive.start("12000000ff")
            assert not isinstance(answer, Wait) or math.isfinite(answer.until)
