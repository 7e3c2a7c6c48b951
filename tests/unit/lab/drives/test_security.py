"""ATA security: every state against every command (ACS-4 4.18, 7.42 to 7.47), and what power does to it."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.drive_rig import Rig, password_data
from teeth.lab.drives.answer import Wait
from teeth.lab.drives.security import SecState

USER, MASTER = "user-password", "master-password"
ABRT = 0x04
SET, UNLOCK, PREPARE, ERASE, FREEZE, DISABLE = 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6


def rig(state: SecState, **spec: Any) -> Rig:
    """A drive brought into a state by its commands alone."""
    made = Rig("sata", master_password=MASTER, **spec)
    if state in (SecState.LOCKED, SecState.UNLOCKED, SecState.UNLOCKED_FROZEN):
        made.ata_good(SET, data=password_data(USER))
    if state is SecState.LOCKED:
        made.power_cycle()
    if state in (SecState.DISABLED_FROZEN, SecState.UNLOCKED_FROZEN):
        made.ata_good(FREEZE)
    assert made.sata.ata.security.state is state
    return made


S = SecState
# (state, command) -> the state after it, None for a command that is aborted. Data have the right password.
TABLE = {
    (S.DISABLED, SET): S.UNLOCKED,  # ACS-4 7.45: the drive is secured and stays open
    (S.DISABLED, UNLOCK): None,
    (S.DISABLED, DISABLE): None,
    (S.DISABLED, FREEZE): S.DISABLED_FROZEN,
    (S.DISABLED, PREPARE): S.DISABLED,
    (S.DISABLED, ERASE): None,
    (S.DISABLED_FROZEN, SET): None,
    (S.DISABLED_FROZEN, UNLOCK): None,
    (S.DISABLED_FROZEN, DISABLE): None,
    (S.DISABLED_FROZEN, FREEZE): S.DISABLED_FROZEN,
    (S.DISABLED_FROZEN, PREPARE): None,
    (S.DISABLED_FROZEN, ERASE): None,
    (S.LOCKED, SET): None,
    (S.LOCKED, UNLOCK): S.UNLOCKED,
    (S.LOCKED, DISABLE): None,
    (S.LOCKED, FREEZE): None,
    (S.LOCKED, PREPARE): S.LOCKED,
    (S.LOCKED, ERASE): None,
    (S.UNLOCKED, SET): S.UNLOCKED,
    (S.UNLOCKED, UNLOCK): S.UNLOCKED,
    (S.UNLOCKED, DISABLE): S.DISABLED,
    (S.UNLOCKED, FREEZE): S.UNLOCKED_FROZEN,
    (S.UNLOCKED, PREPARE): S.UNLOCKED,
    (S.UNLOCKED, ERASE): None,
    (S.UNLOCKED_FROZEN, SET): None,
    (S.UNLOCKED_FROZEN, UNLOCK): None,
    (S.UNLOCKED_FROZEN, DISABLE): None,
    (S.UNLOCKED_FROZEN, FREEZE): S.UNLOCKED_FROZEN,
    (S.UNLOCKED_FROZEN, PREPARE): None,
    (S.UNLOCKED_FROZEN, ERASE): None,
}


def test_the_table_is_whole() -> None:
    commands = (SET, UNLOCK, PREPARE, ERASE, FREEZE, DISABLE)
    assert set(TABLE) == {(state, command) for state in SecState for command in commands}


@pytest.mark.parametrize(
    ("state", "command"), TABLE, ids=lambda part: part.value if isinstance(part, S) else f"{part:x}"
)
def test_a_command_in_a_state(state: SecState, command: int) -> None:
    drive = rig(state)
    after = TABLE[state, command]
    data = b"" if command in (PREPARE, FREEZE) else password_data(USER)
    if after is None:
        assert drive.ata_error(command, data=data) == ABRT
        assert drive.sata.ata.security.state is state
    else:
        drive.ata_good(command, data=data)
        assert drive.sata.ata.security.state is after


@pytest.mark.parametrize("state", [S.LOCKED, S.UNLOCKED])
def test_an_erase_needs_its_preparation_right_before_it(state: SecState) -> None:
    drive = rig(state)
    drive.ata_good(PREPARE)
    drive.word(128)  # any command between takes it back (ACS-4 7.43)
    assert drive.ata_error(ERASE, data=password_data(USER)) == ABRT
    drive.ata_good(PREPARE)
    drive.ata_good(ERASE, data=password_data(USER))
    assert drive.sata.ata.security.state is S.DISABLED
    assert drive.marked(0, drive.spec.blocks) == []


@pytest.mark.parametrize(
    ("state", "bits"),
    [
        (S.DISABLED, 0x0021),
        (S.DISABLED_FROZEN, 0x0029),
        (S.LOCKED, 0x0027),
        (S.UNLOCKED, 0x0023),
        (S.UNLOCKED_FROZEN, 0x002B),
    ],
)
def test_identify_says_the_state(state: SecState, bits: int) -> None:
    drive = rig(state)
    assert drive.word(128) == bits
    assert drive.word(82) & 0x0002
    assert bool(drive.word(85) & 0x0002) is bool(bits & 0x0002)


def test_five_wrong_passwords_and_no_more_is_looked_at_until_power_goes() -> None:
    drive = rig(S.LOCKED)
    for _ in range(5):
        assert not drive.word(128) & 0x0010
        assert drive.ata_error(UNLOCK, data=password_data("wrong")) == ABRT
    assert drive.word(128) & 0x0010
    assert drive.ata_error(UNLOCK, data=password_data(USER)) == ABRT
    drive.ata_good(PREPARE)
    assert drive.ata_error(ERASE, data=password_data(USER)) == ABRT
    drive.power_cycle()
    assert not drive.word(128) & 0x0010
    drive.ata_good(UNLOCK, data=password_data(USER))


def test_at_level_maximum_the_master_password_erases_and_does_not_open() -> None:
    drive = Rig("sata", master_password=MASTER)
    drive.ata_good(SET, data=password_data(USER, maximum=True))
    assert drive.word(128) & 0x0100
    drive.power_cycle()
    assert drive.ata_error(UNLOCK, data=password_data(MASTER, master=True)) == ABRT
    drive.ata_good(PREPARE)
    drive.ata_good(ERASE, data=password_data(MASTER, master=True))
    assert drive.sata.ata.security.state is S.DISABLED


def test_at_level_high_the_master_password_opens_and_disables() -> None:
    drive = rig(S.LOCKED)
    drive.ata_good(UNLOCK, data=password_data(MASTER, master=True))
    drive.ata_good(DISABLE, data=password_data(MASTER, master=True))
    assert drive.sata.ata.security.state is S.DISABLED


def test_a_locked_drive_gives_and_takes_no_blocks() -> None:
    drive = rig(S.LOCKED)
    assert drive.ata_error(0x25, count=1, reads=True) == ABRT
    assert drive.ata_error(0x35, data=bytes(512)) == ABRT
    assert drive.sense("28000000000000000100") == (0x7, 0x74, 0x79)
    assert drive.ata_error(0xB4, features=0x12, lba=0x426B4572) == ABRT  # sanitize
    assert drive.good("25")  # its size it still says
    assert len(drive.marked()) == drive.spec.blocks + drive.spec.spares


@pytest.mark.parametrize(("enhanced", "left"), [(False, True), (True, False)])
def test_only_an_enhanced_erase_reaches_hidden_and_retired_blocks(enhanced: bool, left: bool) -> None:
    drive = Rig("sata", hidden=1000)
    drive.ata_good(SET, data=password_data(USER))
    drive.ata_good(PREPARE)
    drive.ata_good(ERASE, data=password_data(USER, enhanced=enhanced))
    visible = drive.spec.blocks - 1000
    assert drive.marked(0, visible) == []
    assert bool(drive.marked(visible, drive.spec.blocks)) is left
    assert bool(drive.marked(drive.spec.blocks)) is left


def test_a_power_cut_in_an_erase_leaves_the_drive_locked_and_half_erased() -> None:
    drive = rig(S.UNLOCKED)
    drive.ata_good(PREPARE)
    under_way = drive.ata_start(ERASE, data=password_data(USER))
    assert isinstance(under_way, Wait)
    drive.now += 5.0
    drive.power_cycle()
    assert drive.sata.ata.security.state is S.LOCKED
    assert len(drive.marked(0, drive.spec.blocks)) == drive.spec.blocks // 2
    drive.now += 100.0
    assert len(drive.marked(0, drive.spec.blocks)) == drive.spec.blocks // 2  # it does not go on (ACS-4 7.44)
    drive.ata_good(UNLOCK, data=password_data(USER))


def test_an_erase_that_fails_leaves_the_password() -> None:
    drive = rig(S.UNLOCKED).lie("security-erase-fails:30")
    drive.ata_good(PREPARE)
    assert drive.ata_error(ERASE, data=password_data(USER)) == ABRT
    assert drive.sata.ata.security.state is S.UNLOCKED
    drive.power_cycle()
    assert drive.sata.ata.security.state is S.LOCKED


def test_a_link_reset_changes_nothing_while_settings_are_preserved() -> None:
    drive = rig(S.UNLOCKED_FROZEN)
    drive.good(bytes((0x85, 0x00)))  # protocol 0: hard reset
    assert drive.sata.ata.security.state is S.UNLOCKED_FROZEN
    drive.ata_good(0xEF, features=0x90, count=0x06)  # preservation off (ACS-4 7.40)
    drive.good(bytes((0x85, 0x00)))
    assert drive.sata.ata.security.state is S.LOCKED


def test_firmware_that_freezes_at_boot_does_so_after_each_power_cycle() -> None:
    drive = Rig("sata", frozen=True)
    assert drive.sata.ata.security.state is S.DISABLED_FROZEN
    drive.power_cycle()
    assert drive.sata.ata.security.state is S.DISABLED_FROZEN


def test_the_password_outlives_the_process(tmp_path: Any) -> None:
    drive = Rig("sata", state=tmp_path / "state.json")
    drive.ata_good(SET, data=password_data(USER))
    drive.drive = drive.make()
    assert drive.sata.ata.security.state is S.LOCKED
    drive.ata_good(UNLOCK, data=password_data(USER))


def test_erase_times_are_said_in_pairs_of_minutes() -> None:
    assert Rig("sata", erase_seconds=600.0).word(89) == 5
    assert Rig("sata", erase_seconds=600.0).word(90) == 5
    assert Rig("sata", erase_seconds=86400.0).word(89) == 255


def test_a_drive_without_enhanced_erase_says_so_and_refuses_it() -> None:
    drive = Rig("sata", enhanced=False)
    assert drive.word(128) & 0x20 == 0
    drive.ata_good(SET, data=password_data(USER))
    drive.ata_good(PREPARE)
    assert drive.ata_error(ERASE, data=password_data(USER, enhanced=True)) == ABRT
    drive.ata_good(PREPARE)
    drive.ata_good(ERASE, data=password_data(USER))
