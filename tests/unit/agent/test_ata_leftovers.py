"""What an interrupted erase leaves is found at the next start, and no drive stays locked by us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fakes.ata_port import RigPort
from fakes.drive_rig import Rig, password_data
from teeth_agent.drives.ata import AtaDrive
from teeth_agent.drives.ata_commands import Who
from teeth_agent.erase.methods.ata import ata_erase
from teeth_agent.erase.methods.ata_leftovers import PASSWORD, Found, Tries, candidates, recover
from teeth_agent.erase.model import Method
from teeth_agent.errors import DeviceError

FORMATS = pytest.mark.parametrize("descriptor", [True, False], ids=["descriptor", "fixed"])
SECURITY = pytest.mark.parametrize(
    "method", [Method.ATA_SECURITY_ERASE, Method.ATA_SECURITY_ERASE_ENHANCED], ids=lambda method: method.value
)


class Dark(SystemExit):
    """The machine has no power any more."""


def made(*lies: str, **spec: Any) -> tuple[Rig, RigPort, AtaDrive]:
    rig = Rig("sata", **spec)
    rig.lie(*lies)
    port = RigPort(rig)
    return rig, port, AtaDrive(port, name="/dev/sda", transport="sata")


def next_boot(rig: Rig) -> AtaDrive:
    rig.drive.power_cycle()
    return AtaDrive(RigPort(rig), name="/dev/sda", transport="sata")


def erase_until_dark(rig: Rig, method: Method, cut: int, *, after: bool) -> bool:
    """An erase whose machine loses power at its ``cut``-th command, before or after the drive had it;
    whether it came that far."""
    port = RigPort(rig)
    count = 0

    def dark(cdb: bytes) -> None:
        nonlocal count
        count += 1
        if count == cut + after:
            raise Dark

    port.before = dark
    drive = AtaDrive(port, name="/dev/sda", transport="sata")

    def at_once(work: Any) -> Any:
        work()
        return lambda seconds: True

    try:
        erase = ata_erase(method, drive, clock=lambda: rig.now, aside=at_once)
        erase.start()
        erase.complete()
    except Dark:
        return False
    return True


@FORMATS
@SECURITY
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("lies", [(), ("loses-password-state",), ("keeps-password",), ("hides-freeze",)])
def test_power_cut_at_every_command(
    method: Method, after: bool, descriptor: bool, lies: tuple[str, ...]
) -> None:
    """Whatever command it comes at: after the next start no password is in force, and the medium opens."""
    reached_end, cut = False, 0
    while not reached_end:
        cut += 1
        assert cut < 30
        rig, _, _ = made(*lies, descriptor_sense=descriptor)
        try:
            reached_end = erase_until_dark(rig, method, cut, after=after)
        except DeviceError:
            reached_end = True  # a lie was seen: the erase gave up before power went
            continue
        left = recover(next_boot(rig), Tries(turn=0))
        assert left.found in (Found.NONE, Found.RECOVERED)
        assert not rig.drive.disk.state.security.user
        assert next_boot(rig).reads()
    assert cut > 3


@SECURITY
@pytest.mark.parametrize("percent", [0, 1, 50, 99])
def test_power_cut_in_the_midst_of_the_erase(method: Method, percent: int) -> None:
    rig, _, drive = made()
    drive.set_password(PASSWORD)
    rig.lie(f"power-cut-at-erase:{percent}")
    with pytest.raises(DeviceError, match="no answer"):
        drive.security_erase(
            Who.USER, PASSWORD, enhanced=method is Method.ATA_SECURITY_ERASE_ENHANCED, timeout=1e5
        )
    assert drive.identify().security.locked
    left = recover(drive, Tries(turn=0))
    assert (left.found, left.tries) == (Found.RECOVERED, 0)
    assert PASSWORD in left.detail
    assert drive.reads()


@FORMATS
def test_nothing_was_left(descriptor: bool) -> None:
    for spec in ({}, {"security": False}, {"frozen": True}, {"sanitizes": frozenset()}):
        rig, _, drive = made(descriptor_sense=descriptor, **spec)
        left = recover(drive)
        assert left.found is Found.NONE
        assert left.usable
        assert drive.commands == []
        assert len(rig.marked()) == rig.spec.blocks + rig.spec.spares


@FORMATS
def test_a_sanitize_is_reported_for_adoption_and_a_failed_one_to_be_done_again(descriptor: bool) -> None:
    for lies, found, usable in ((), Found.RUNNING, False), (("sanitize-fails:10",), Found.FAILED, True):
        rig, _, drive = made(*lies, descriptor_sense=descriptor)
        ata_erase(Method.ATA_SANITIZE_BLOCK, drive).start()
        rig.now += 5.0
        left = recover(next_boot(rig))
        assert (left.found, left.usable) == (found, usable)


@FORMATS
@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("password", [PASSWORD, "", "maas", "SeaChest", "p"])
def test_known_passwords_are_taken_away(password: str, locked: bool, descriptor: bool) -> None:
    """Some start of the machine finds it, and no start gives a fifth wrong one."""
    rig, _, drive = made(descriptor_sense=descriptor)
    drive.set_password(password)
    if locked:
        rig.power_cycle()
    for turn in range(5):
        left = recover(drive, Tries(turn=turn))
        assert left.tries <= 4
        assert not drive.identify().security.expired
        if left.found is Found.RECOVERED:
            break
        assert left.found is Found.LOCKED_STRANGER
        rig.power_cycle()
    assert left.found is Found.RECOVERED
    assert not rig.drive.disk.state.security.user


@FORMATS
@pytest.mark.parametrize("password", [PASSWORD, "", "maas", "SeaChest", "p"])
def test_known_master_passwords_open_a_strangers_lock(password: str, descriptor: bool) -> None:
    rig, _, drive = made(password="stranger", master_password=password, descriptor_sense=descriptor)
    for turn in range(5):
        if (left := recover(drive, Tries(turn=turn))).found is Found.RECOVERED:
            break
        rig.power_cycle()
    assert left.found is Found.RECOVERED
    assert "master" in left.detail
    assert not rig.drive.disk.state.security.user


def test_the_master_password_is_not_tried_where_it_does_not_open() -> None:
    rig, port, drive = made(master_password=PASSWORD)
    rig.ata_good(0xF1, data=password_data("stranger", maximum=True))
    for turn in range(5):
        rig.power_cycle()
        assert recover(drive, Tries(turn=turn)).found is Found.LOCKED_STRANGER
    assert {data[0] & 1 for cdb, data in port.sent if cdb[14] == 0xF2} == {0}


@pytest.mark.parametrize("kept", [True, False])
def test_four_wrong_ones_in_a_power_cycle_and_no_more(tmp_path: Path, kept: bool) -> None:
    """Also when the agent starts again and again: the count is in a file in memory, or the object's."""
    _, port, drive = made(password="stranger", master_password="other")
    path = tmp_path / "tries.json"
    shared = Tries(turn=0)
    for start in range(4):
        left = recover(drive, Tries(path, turn=start) if kept else shared)
        assert (left.found, left.tries) == (Found.LOCKED_STRANGER, 0 if start else 4)
    assert port.opcodes().count(0xF2) == 4
    assert not drive.identify().security.expired
    drive.unlock(Who.USER, "stranger")  # its owner still gets in


@pytest.mark.parametrize("where", ["new/folder/tries.json", "file/tries.json"])
def test_the_count_is_kept_where_it_can_be(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()  # no folder: then only the object counts
    _, port, drive = made(password="stranger", master_password="other")
    tries = Tries(tmp_path / where, turn=0)
    assert recover(drive, tries).tries == 4
    assert recover(drive, tries).tries == 0
    assert (tmp_path / where).is_file() is where.startswith("new")
    assert port.opcodes().count(0xF2) == 4


def test_a_count_that_nobody_writes_allows_no_more(tmp_path: Path) -> None:
    path = tmp_path / "tries.json"
    path.write_text('{"TEETH LAB DRIVE/RIG0001": -100}')
    drive = made(password="stranger", master_password="other")[2]
    assert recover(drive, Tries(path, turn=0)).tries == 4
    assert not drive.identify().security.expired


def test_a_count_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    path = tmp_path / "tries.json"
    for text in ("", "{", "[]", '{"a": "b"}', "7"):
        path.write_text(text)
        assert recover(made()[2], Tries(path)).found is Found.NONE


def test_expired_is_told_and_nothing_is_tried() -> None:
    rig, port, drive = made(password=PASSWORD)
    for _ in range(5):
        with pytest.raises(DeviceError):
            drive.unlock(Who.USER, "wrong")
    before = len(port.sent)
    left = recover(drive)
    assert (left.found, left.usable, left.tries) == (Found.EXPIRED, False, 0)
    assert 0xF2 not in [cdb[14] for cdb, _ in port.sent[before:]]
    rig.power_cycle()
    assert recover(drive).found is Found.RECOVERED


def test_tries_of_somebody_before_us_are_noticed_when_they_run_out() -> None:
    _, port, drive = made(password="stranger", master_password="other")
    for _ in range(3):
        with pytest.raises(DeviceError):
            drive.unlock(Who.USER, "wrong")
    left = recover(drive, Tries(turn=0))
    assert (left.found, left.tries) == (Found.EXPIRED, 2)
    assert port.opcodes().count(0xF2) == 5


def test_a_password_on_a_frozen_drive() -> None:
    rig, _, drive = made()
    drive.set_password(PASSWORD)
    drive.freeze_security()
    left = recover(drive)
    assert (left.found, left.usable) == (Found.FROZEN, False)
    assert rig.drive.disk.state.security.user
    assert recover(next_boot(rig)).found is Found.RECOVERED


def test_a_lock_that_the_drive_denies_is_noticed_by_its_closed_medium() -> None:
    rig, _, drive = made()
    drive.set_password(PASSWORD)
    rig.lie("loses-password-state")
    left = recover(next_boot(rig))
    assert left.found is Found.RECOVERED
    assert not rig.drive.disk.state.security.user


def test_every_candidate_has_its_turn() -> None:
    tried = [set(candidates(turn, master=True)[:4]) for turn in range(4)]
    assert set.union(*tried) == set(candidates(0, master=True))
    assert all({(Who.USER, PASSWORD), (Who.USER, "")} <= four for four in tried)
    assert len(candidates(7, master=True)) == 10


def test_nothing_is_recovered_without_an_answer() -> None:
    _, port, drive = made()
    port.gone = True
    with pytest.raises(DeviceError, match="no answer"):
        recover(drive)
