"""Sanitize, by SCSI (SBC-4 4.11, 5.30) and by ATA (ACS-4 4.15, 7.36)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fakes.drive_rig import Rig, codes
from teeth.lab.drives.answer import Wait
from teeth.lab.drives.atasanitize import SanState
from teeth.lab.drives.sense import Status

IN_PROGRESS = (0x2, 0x04, 0x1B)
FAILED = (0x3, 0x31, 0x03)
INVALID_FIELD = (0x5, 0x24, 0x00)
BLOCK, CRYPTO, OVERWRITE = "82", "83", "81"
CRYPTO_KEY, BLOCK_KEY, FREEZE_KEY, ANTI_KEY = 0x43727970, 0x426B4572, 0x46724C6B, 0x416E7469
OVERWRITE_PARAMETERS = bytes.fromhex("01000001 00")


def scsi(action: str, data: bytes = b"") -> str:
    return (
        f"48{action}0000000000{len(data):02x}00"
        if action[1:] != "1"
        else f"48{action}00000000{len(data):04x}00"
    )


def test_progress_is_shown_by_request_sense_and_test_unit_ready() -> None:
    drive = Rig()
    drive.good(scsi(BLOCK))
    for elapsed, progress in ((0.0, 0), (2.5, 16384), (2.5, 32768), (4.9, 64880)):
        drive.now += elapsed
        data = drive.good("03000000ff")
        assert (data[2] & 0x0F, data[12], data[13]) == IN_PROGRESS
        assert data[15] & 0x80
        assert int.from_bytes(data[16:18], "big") == pytest.approx(progress, abs=2)
        assert drive.sense("00") == IN_PROGRESS
    drive.now += 0.2
    drive.good("00")
    assert drive.good("03000000ff")[2] & 0x0F == 0
    assert drive.marked() == []


def test_descriptor_sense_shows_progress_too() -> None:
    drive = Rig()
    drive.good(scsi(BLOCK))
    drive.now += 5.0
    data = drive.good("03010000ff")
    assert data[0] == 0x72
    assert data[8:10] == b"\x02\x06"
    assert int.from_bytes(data[13:15], "big") == 32768


ALLOWED = ["12000000ff", "03000000ff", "a0000000000000000100", "1a003f00ff", "4d00400000000000ff00",
           "a30c00000000000010000000"]  # fmt: skip
REFUSED = ["00", "28000000000000000100", "2a000000000000000100", "25", "1b000000", "35", "04", "42",
           "5f000000000000001800", "1d20", "3b04"]  # fmt: skip


@pytest.mark.parametrize("cdb", ALLOWED)
def test_what_is_answered_while_it_runs(cdb: str) -> None:
    """SBC-4 4.11.2 a."""
    drive = Rig()
    drive.good(scsi(BLOCK))
    assert drive.run(cdb).status is Status.GOOD


@pytest.mark.parametrize("cdb", [cdb for cdb in REFUSED if cdb[:2] != "5f"])
def test_what_is_refused_while_it_runs(cdb: str) -> None:
    drive = Rig()
    drive.good(scsi(BLOCK))
    assert drive.sense(cdb) == IN_PROGRESS


def test_a_second_one_is_refused_while_it_runs() -> None:
    drive = Rig()
    drive.good(scsi(BLOCK))
    assert drive.sense(scsi(CRYPTO)) == IN_PROGRESS


def test_without_immed_the_command_takes_its_time() -> None:
    drive = Rig()
    answer = drive.start("4802")
    assert isinstance(answer, Wait)
    assert answer.until == drive.now + 10.0
    assert answer.shares  # others are answered meanwhile
    assert drive.sense("00") == IN_PROGRESS
    assert drive.run("4803").sense is not None
    drive = Rig()
    drive.good("4802")
    assert drive.now == 1010.0
    assert drive.marked() == []


def test_overwrite_leaves_its_pattern_in_every_block() -> None:
    drive = Rig()
    data = bytes.fromhex("01000003 abcdef")
    drive.good("48010000000000000700", data)
    block = drive.media.read(5 * 512, 512)
    assert block == (b"\xab\xcd\xef" * 171)[:512]  # it begins anew in each block
    assert drive.media.read(0, 512) == drive.media.read((drive.spec.blocks + 1) * 512, 512)


@pytest.mark.parametrize(("head", "left"), [("81", 0x0F), ("82", 0xF0), ("02", 0x0F)])
def test_inverted_overwrites(head: str, left: int) -> None:
    drive = Rig()
    drive.good("48010000000000000500", bytes.fromhex(head) + bytes.fromhex("00 0001 0f"))
    assert set(drive.media.read(0, 512)) == {left}
    assert drive.now == 1000.0 + 10.0 * (int(head, 16) & 0x1F)


@pytest.mark.parametrize(
    ("cdb", "data", "sense"),
    [
        ("48010000000000000400", "01000001", INVALID_FIELD),  # SBC-4: more than 4 bytes
        ("48010000000000000000", "", INVALID_FIELD),
        ("48010000000000000500", "0000000100", (0x5, 0x26, 0x00)),  # no pass
        ("48010000000000000500", "0100000000", (0x5, 0x26, 0x00)),  # no pattern
        ("48010000000000000500", "0100ffff00", (0x5, 0x26, 0x00)),
        ("48010000000000000500", "010000", (0x5, 0x1A, 0x00)),
        ("48020000000000000500", "0100000100", INVALID_FIELD),  # block erase has no parameters
        ("48420000000000000000", "", INVALID_FIELD),  # ZNR: not a zoned drive
        ("48020100000000000000", "", INVALID_FIELD),
        ("481f", "", INVALID_FIELD),  # nothing failed
        ("4804", "", INVALID_FIELD),
    ],
)
def test_wrong_requests_erase_nothing(cdb: str, data: str, sense: tuple[int, int, int]) -> None:
    drive = Rig()
    assert drive.sense(cdb, bytes.fromhex(data)) == sense
    assert len(drive.marked()) == drive.spec.blocks + drive.spec.spares


def test_after_crypto_erase_blocks_read_as_noise_that_is_new_each_time() -> None:
    drive = Rig()
    drive.good("4803")
    first = drive.media.read(0, 512)
    assert first != bytes(512)
    assert drive.marked() == []
    drive.good("4803")
    assert drive.media.read(0, 512) != first


def test_a_failed_one_fences_the_drive_until_another_goes_well() -> None:
    drive = Rig().lie("sanitize-fails:50")
    assert drive.sense("4802") == FAILED
    assert drive.sense("00") == FAILED
    assert drive.sense("28000000000000000100") == FAILED
    data = drive.good("03000000ff")
    assert (data[2] & 0x0F, data[12], data[13]) == FAILED
    assert drive.sense("489f") == INVALID_FIELD  # AUSE was 0: no way out
    assert drive.sense("48a2") == INVALID_FIELD
    drive.power_cycle()
    assert drive.sense("00") == FAILED
    drive.drive.disk.remove("sanitize-fails")
    drive.good("4802")
    drive.good("00")
    assert drive.marked() == []


def test_with_ause_failure_mode_can_be_left() -> None:
    drive = Rig().lie("sanitize-fails:50")
    assert drive.sense("4822") == FAILED
    drive.good("489f")
    drive.good("00")
    assert drive.marked()


@pytest.mark.parametrize("kind", ["scsi", "sata"])
def test_a_power_cut_does_not_end_it(kind: str, tmp_path: Path) -> None:
    """SBC-4 4.11.2, ACS-4 4.15.5: it goes on at power-on, in another process too."""
    drive = Rig(kind, state=tmp_path / "state.json")
    if kind == "sata":
        drive.ata_good(0xB4, features=0x12, lba=BLOCK_KEY)
    else:
        drive.good(scsi(BLOCK))
    drive.now += 4.0
    drive.drive.power_off()
    total = drive.spec.blocks + drive.spec.spares
    assert len(drive.marked()) == total - int(total * 0.4)
    drive.now += 1000.0
    assert drive.drive.disk.state.sanitize.state == "running"
    drive.drive = drive.make()  # the next process begins as after power-on
    drive.drive.settle()
    assert len(drive.marked()) == total - int(total * 0.4)
    drive.now += 6.1
    drive.drive.settle()
    assert drive.drive.disk.state.sanitize.state == "done"
    assert drive.marked() == []


def test_a_logical_unit_reset_does_not_end_it() -> None:
    drive = Rig()
    drive.good(scsi(BLOCK))
    drive.drive.reset()
    drive.sense("00")  # the unit attention
    assert drive.sense("00") == IN_PROGRESS


# --- ATA


def state(drive: Rig) -> SanState:
    drive.drive.settle()
    return drive.sata.ata.sanitizing.state


def status(drive: Rig) -> tuple[int, int]:
    """(COUNT, LBA 15:0) of SANITIZE STATUS EXT."""
    sense = drive.ata_good(0xB4).sense
    assert sense is not None
    assert sense.ata is not None
    return sense.ata.count, sense.ata.lba & 0xFFFF


def test_identify_says_what_there_is() -> None:
    assert Rig("sata").word(59) & 0xF000 == 0xF000
    assert Rig("sata", sanitizes=frozenset()).word(59) == 0


@pytest.mark.parametrize(
    ("features", "key"), [(0x11, CRYPTO_KEY), (0x12, BLOCK_KEY), (0x14, 0x4F57 << 32 | 0xA5A5A5A5)]
)
def test_the_ata_commands_erase_all(features: int, key: int) -> None:
    drive = Rig("sata", hidden=100)
    assert status(drive) == (0, 0xFFFF)
    drive.ata_good(0xB4, features=features, lba=key, count=1 if features == 0x14 else 0)
    assert state(drive) is SanState.RUNNING
    drive.now += 5.0
    assert status(drive) == (0x4000, 32768)
    drive.now += 5.0
    assert status(drive) == (0x8000, 0xFFFF)
    assert state(drive) is SanState.DONE
    assert drive.marked() == []
    if features == 0x14:
        assert drive.media.read(0, 512) == b"\xa5" * 512


def test_overwrite_without_a_count_is_sixteen_passes() -> None:
    drive = Rig("sata")
    drive.ata_good(0xB4, features=0x14, lba=0x4F57 << 32)
    drive.now += 159.0
    assert status(drive)[0] == 0x4000
    drive.now += 1.0
    assert status(drive)[0] == 0x8000


@pytest.mark.parametrize(
    ("features", "key", "reason"),
    [(0x12, 0, 0), (0x11, BLOCK_KEY, 0), (0x14, 0x4F58 << 32, 0), (0x20, 0, 0), (0x77, BLOCK_KEY, 2)],
)
def test_a_wrong_key_or_feature_erases_nothing(features: int, key: int, reason: int) -> None:
    drive = Rig("sata")
    reply = drive.ata(0xB4, features=features, lba=key)
    assert reply.sense is not None
    assert reply.sense.ata is not None
    assert (reply.sense.ata.error, reply.sense.ata.lba) == (0x04, reason)
    assert state(drive) is SanState.IDLE
    assert len(drive.marked()) == drive.spec.blocks + drive.spec.spares


def test_the_freeze_lock_holds_until_power_goes() -> None:
    drive = Rig("sata")
    drive.ata_good(0xB4, features=0x20, lba=FREEZE_KEY)
    assert state(drive) is SanState.FROZEN
    assert status(drive)[0] == 0x2000
    reply = drive.ata(0xB4, features=0x12, lba=BLOCK_KEY)
    assert reply.sense is not None
    assert reply.sense.ata is not None
    assert reply.sense.ata.lba == 3
    drive.power_cycle()
    drive.ata_good(0xB4, features=0x12, lba=BLOCK_KEY)


def test_the_antifreeze_lock_keeps_others_from_freezing() -> None:
    drive = Rig("sata")
    drive.ata_good(0xB4, features=0x40, lba=ANTI_KEY)
    assert state(drive) is SanState.ANTIFROZEN
    assert drive.ata_error(0xB4, features=0x20, lba=FREEZE_KEY) == 0x04
    assert status(drive)[0] == 0x1000
    drive.ata_good(0xB4, features=0x12, lba=BLOCK_KEY)


def test_security_freeze_does_not_freeze_sanitize() -> None:
    drive = Rig("sata", frozen=True)
    drive.ata_good(0xB4, features=0x12, lba=BLOCK_KEY)


@pytest.mark.parametrize(
    ("command", "well"), [(0xEC, True), (0xE5, True), (0x25, False), (0xE7, False), (0xF5, False)]
)
def test_which_ata_commands_run_beside_it(command: int, well: bool) -> None:
    """ACS-4 table 15."""
    drive = Rig("sata")
    drive.ata_good(0xB4, features=0x12, lba=BLOCK_KEY)
    reads: dict[str, Any] = {"count": 1, "reads": True} if command in (0xEC, 0x25) else {}
    if well:
        drive.ata_good(command, **reads)
    else:
        assert drive.ata_error(command, **reads) == 0x04


@pytest.mark.parametrize("allowed", [False, True])
def test_a_failed_ata_sanitize(allowed: bool) -> None:
    drive = Rig("sata").lie("sanitize-fails:50")
    drive.ata_good(0xB4, features=0x12, lba=BLOCK_KEY, count=0x10 if allowed else 0)
    drive.now += 10.0
    assert state(drive) is SanState.FAILED
    reply = drive.ata(0xB4)
    assert reply.sense is not None
    assert reply.sense.ata is not None
    assert (reply.sense.ata.error, reply.sense.ata.lba) == (0x04, 1)
    assert codes(reply.sense) == (0xB, 0, 0)
    if allowed:
        drive.ata_good(0xB4, count=0x01)  # CLEAR SANITIZE OPERATION FAILED
        assert state(drive) is SanState.IDLE
    else:
        assert drive.ata_error(0xB4, count=0x01) == 0x04
