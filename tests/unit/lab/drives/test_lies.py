"""Each lie: the drive says that all went well, and the medium shows what is true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fakes.drive_rig import BLOCKS, MARK, NoAnswerError, Rig, password_data
from teeth.errors import UsageError
from teeth.lab.drives.behaviours import BEHAVIOURS, explain, make
from teeth.lab.drives.faults import FAULTS
from teeth.lab.drives.lies import LIES
from teeth.lab.drives.nvmelies import NVME_LIES

BLOCK_KEY = 0x426B4572
TOTAL = BLOCKS + 64
MEGABYTE = 2048


def block(drive: Rig) -> None:
    if drive.spec.name == "rig" and drive._kind == "sata":
        drive.ata_good(0xB4, features=0x12, lba=BLOCK_KEY)
        drive.now += 10.0
        reply = drive.ata_good(0xB4).sense
        assert reply is not None
        assert reply.ata is not None
        assert reply.ata.count & 0x8000
    else:
        drive.good("4802")
        drive.good("00")


def crypto(drive: Rig) -> None:
    drive.good("4803")


def security(drive: Rig, *, enhanced: bool = False) -> None:
    drive.ata_good(0xF1, data=password_data("p"))
    drive.ata_good(0xF3)
    drive.ata_good(0xF4, data=password_data("p", enhanced=enhanced))


def enhanced(drive: Rig) -> None:
    security(drive, enhanced=True)


def format_unit(drive: Rig) -> None:
    drive.good("04")


def trim(drive: Rig) -> None:
    drive.good("42000000000000001800", bytes.fromhex("0016 0010 00000000 0000000000000000 00002000 00000000"))


def zero_write(drive: Rig) -> None:
    for lba in range(0, BLOCKS, 256):
        drive.good(f"2a00{lba:08x}00010000", bytes(256 * 512))


# lie, kind, what is done, how many blocks are left that should not be
TABLE: list[tuple[str, str, Callable[[Rig], None], int, dict[str, Any]]] = [
    ("accepts-and-keeps", "scsi", block, TOTAL, {}),
    ("accepts-and-keeps", "scsi", format_unit, TOTAL, {}),
    ("accepts-and-keeps", "sata", security, TOTAL, {}),
    ("sanitize-keeps", "scsi", crypto, TOTAL, {}),
    ("sanitize-keeps", "sata", block, TOTAL, {}),
    ("crypto-keeps-key", "scsi", crypto, TOTAL, {}),
    ("security-erase-keeps", "sata", enhanced, TOTAL, {}),
    ("format-keeps", "scsi", format_unit, TOTAL, {}),
    ("enhanced-is-normal", "sata", enhanced, 500 + 64, {"hidden": 500}),
    ("erases-half", "scsi", block, BLOCKS // 2 + 64, {}),
    ("skips-last-block", "sata", enhanced, 1, {}),
    ("skips-first-megabyte", "scsi", block, MEGABYTE, {}),
    ("skips-middle", "scsi", block, 128, {}),
    ("leaves-remapped", "scsi", block, 64, {}),
    ("leaves-hidden", "sata", block, 500, {"hidden": 500}),
    ("zeroes-from-cache", "scsi", block, TOTAL, {}),
    ("clears-after-power-cycle", "scsi", block, TOTAL, {}),
    ("success-while-failing", "scsi", block, TOTAL // 2, {}),
    ("success-while-failing", "sata", enhanced, TOTAL // 2, {}),
    ("keeps-password", "sata", security, 64, {}),
    ("capacity-half", "scsi", format_unit, BLOCKS // 2 + 64, {}),
    ("shrinks-when-erased", "scsi", format_unit, MEGABYTE + 64, {}),
    ("drops-writes", "scsi", zero_write, TOTAL, {}),
    ("drops-zero-writes", "scsi", zero_write, TOTAL, {}),
    ("trim-keeps", "scsi", trim, TOTAL, {}),
    ("reads-zero", "scsi", block, TOTAL, {}),
]


@pytest.mark.parametrize(
    ("lie", "kind", "act", "left", "spec"), TABLE, ids=lambda part: getattr(part, "__name__", None)
)
def test_success_is_said_and_bytes_are_left(
    lie: str, kind: str, act: Callable[[Rig], None], left: int, spec: dict[str, Any]
) -> None:
    drive = Rig(kind, **spec).lie(lie)
    act(drive)
    assert len(drive.marked()) == left
    honest = Rig(kind, **spec)
    act(honest)
    assert len(honest.marked()) < left or lie == "keeps-password"


def test_every_lie_is_shown_by_some_test() -> None:
    special = {
        "never-ends", "progress-stuck", "progress-backwards", "claims-sanitize", "hides-sanitize",
        "loses-password-state", "hides-freeze", "capacity-double", "flush-is-nothing",
    }  # fmt: skip
    assert {lie.name for lie in LIES if lie not in NVME_LIES} == {row[0] for row in TABLE} | special
    assert len(LIES) >= 20


def test_every_behaviour_has_a_name_of_its_own_and_a_line() -> None:
    assert len(BEHAVIOURS) == len(LIES) + len(FAULTS)
    for name, kind in BEHAVIOURS.items():
        assert name
        assert 20 < len(explain(kind)) < 130, name
        assert explain(kind).endswith("."), name


def test_what_there_is_not_is_said_with_what_was_meant() -> None:
    with pytest.raises(UsageError, match="did you mean skips-last-block"):
        make("skip-last-block")


def test_zeros_from_the_cache_turn_back_when_power_goes() -> None:
    drive = Rig().lie("zeroes-from-cache")
    block(drive)
    assert drive.good("28000000000000000100") == bytes(512)
    drive.good("2a000000000500000100", b"fresh..." * 64)
    assert drive.good("28000000000500000100") == b"fresh..." * 64
    drive.power_cycle()
    assert drive.good("28000000000000000100") == MARK * 64


def test_what_clears_after_a_power_cycle_is_not_clear_before() -> None:
    drive = Rig().lie("clears-after-power-cycle")
    block(drive)
    assert drive.good("28000000000000000100") == MARK * 64
    drive.power_cycle()
    assert drive.marked() == []


def test_reads_give_zeros_for_ever() -> None:
    drive = Rig().lie("reads-zero")
    block(drive)
    drive.power_cycle()
    assert drive.good("28000000000000000100") == bytes(512)


def test_trimmed_blocks_come_back_with_the_power() -> None:
    drive = Rig().lie("trim-keeps")
    trim(drive)
    assert drive.good("28000000000000000100") == bytes(512)
    drive.power_cycle()
    assert drive.good("28000000000000000100") == MARK * 64


def test_one_that_never_ends() -> None:
    drive = Rig().lie("never-ends")
    drive.good("4882")
    drive.now += 604800.0
    data = drive.good("03000000ff")
    assert int.from_bytes(data[16:18], "big") == 655
    with pytest.raises(NoAnswerError):
        Rig().lie("never-ends").run("4802")


def test_stuck_progress_hides_an_erase_that_ends() -> None:
    drive = Rig().lie("progress-stuck")
    drive.good("4882")
    drive.now += 9.9
    assert int.from_bytes(drive.good("03000000ff")[16:18], "big") == 655
    drive.now += 0.2
    drive.good("00")
    assert drive.marked() == []


def test_progress_that_runs_backwards() -> None:
    drive = Rig().lie("progress-backwards")
    drive.good("4882")
    seen = []
    for _ in range(3):
        drive.now += 3.0
        seen.append(int.from_bytes(drive.good("03000000ff")[16:18], "big"))
    assert seen == sorted(seen, reverse=True)


def test_sanitize_that_is_claimed_and_aborted() -> None:
    drive = Rig("sata").lie("claims-sanitize")
    assert drive.word(59) & 0xF000 == 0xF000
    assert drive.ata_error(0xB4, features=0x12, lba=BLOCK_KEY) == 0x04
    drive.ata_good(0xB4)
    scsi = Rig().lie("claims-sanitize")
    assert scsi.good("a30c0348000200000040")[1] & 0x07 == 0x03
    assert scsi.sense("4802") == (0x5, 0x20, 0x00)


def test_sanitize_that_is_there_and_not_said() -> None:
    drive = Rig("sata").lie("hides-sanitize")
    assert drive.word(59) & 0xF000 == 0
    drive.ata_good(0xB4, features=0x12, lba=BLOCK_KEY)
    scsi = Rig().lie("hides-sanitize")
    assert scsi.good("a30c0248000200000040")[1] & 0x07 == 0x01
    every = scsi.good("a30c00000000000010000000")
    assert 0x48 not in [every[at] for at in range(4, len(every), 8)]
    assert len(every) == 4 + int.from_bytes(every[:4], "big")


def test_a_password_that_identify_does_not_know() -> None:
    drive = Rig("sata").lie("loses-password-state")
    drive.ata_good(0xF1, data=password_data("p"))
    assert drive.word(128) & 0x0006 == 0
    assert not drive.word(85) & 0x0002
    drive.power_cycle()
    assert drive.word(128) & 0x0006 == 0
    assert drive.sense("28000000000000000100") == (0x7, 0x74, 0x79)


def test_a_password_that_stays() -> None:
    drive = Rig("sata").lie("keeps-password")
    security(drive)
    assert drive.word(128) & 0x0002
    drive.power_cycle()
    assert drive.word(128) & 0x0004


def test_a_freeze_that_identify_does_not_know() -> None:
    drive = Rig("sata").lie("hides-freeze")
    drive.ata_good(0xF5)
    assert not drive.word(128) & 0x0008
    assert drive.ata_error(0xF1, data=password_data("p")) == 0x04


def test_a_drive_that_says_twice_its_size() -> None:
    drive = Rig().lie("capacity-double")
    assert int.from_bytes(drive.good("25")[:4], "big") == 2 * BLOCKS - 1
    drive.good(f"2a00{BLOCKS + 5:08x}00000100", b"wrapped." * 64)
    assert drive.good("28000000000500000100") == b"wrapped." * 64


def test_a_drive_that_shrinks() -> None:
    drive = Rig().lie("shrinks-when-erased")
    assert int.from_bytes(drive.good("25")[:4], "big") == BLOCKS - 1
    format_unit(drive)
    assert int.from_bytes(drive.good("25")[:4], "big") == BLOCKS - 1 - MEGABYTE


def test_a_flush_that_is_none() -> None:
    for lie, kept in (("", True), ("flush-is-nothing", False)):
        drive = Rig()
        if lie:
            drive.lie(lie)
        drive.good("2a000000000000000100", b"written." * 64)
        drive.good("35")
        drive.power_cycle()
        assert (drive.good("28000000000000000100") == b"written." * 64) is kept
