"""Erases by ATA drives: honest ones end well, and nothing else is called an end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from fakes.ata_port import RigPort, codes_only, without_log_index
from fakes.drive_rig import Rig, password_data
from teeth.lab.drives.model import Method as Lab
from teeth_agent.drives.ata import AtaDrive
from teeth_agent.erase.methods import DeviceErase, State
from teeth_agent.erase.methods.ata import METHODS, SanitizeErase, ata_erase, under_way
from teeth_agent.erase.methods.ata_leftovers import PASSWORD
from teeth_agent.erase.methods.ata_security import SecurityErase
from teeth_agent.erase.model import Method
from teeth_agent.errors import DeviceError

SANITIZES = [Method.ATA_SANITIZE_CRYPTO, Method.ATA_SANITIZE_BLOCK, Method.ATA_SANITIZE_OVERWRITE]
SECURITY = [Method.ATA_SECURITY_ERASE, Method.ATA_SECURITY_ERASE_ENHANCED]
FORMATS = pytest.mark.parametrize("descriptor", [True, False], ids=["descriptor", "fixed"])
each_sanitize = pytest.mark.parametrize("method", SANITIZES, ids=lambda method: method.value)
each_security = pytest.mark.parametrize("method", SECURITY, ids=lambda method: method.value)


class Subclass(SystemExit):
    """What ends a process by another name."""


def at_once(work: Callable[[], None]) -> Callable[[float], bool]:
    """The rig's time goes on by itself, so work beside the caller is done at once."""
    work()
    return lambda seconds: True


def made(*lies: str, **spec: Any) -> tuple[Rig, RigPort, AtaDrive]:
    rig = Rig("sata", **spec)
    rig.lie(*lies)
    port = RigPort(rig)
    return rig, port, AtaDrive(port, name="/dev/sda", transport="sata")


def erase_of(method: Method, drive: AtaDrive, rig: Rig, **parts: Any) -> DeviceErase:
    return ata_erase(method, drive, clock=lambda: rig.now, aside=at_once, **parts)


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(DeviceError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return caught.value.code


def test_every_ata_method_has_its_erase() -> None:
    assert {method for method in Method if method.value.startswith("ata_")} == METHODS
    rig, _, drive = made()
    for method in METHODS:
        assert isinstance(ata_erase(method, drive), (SanitizeErase, SecurityErase))
    assert rig.marked()


# --- sanitize


@FORMATS
@each_sanitize
def test_a_sanitize_to_its_end(method: Method, descriptor: bool) -> None:
    rig, _, drive = made(descriptor_sense=descriptor)
    erase = erase_of(method, drive, rig)
    assert not erase.adopt()
    erase.start()
    fractions = []
    while (poll := erase.poll()).state is State.RUNNING:
        fractions.append(poll.fraction)
        rig.now += 1.0
    assert poll.state is State.DONE
    assert fractions == sorted(fractions)
    assert len(fractions) == 10
    evidence = erase.complete()
    assert evidence["registers"]["count"] == "8000"
    assert evidence["succeeded"]
    assert rig.marked() == []
    erase.abandon()
    assert erase.commands[0].partition(" 85")[0] == "SANITIZE ANTIFREEZE LOCK EXT"
    assert "= hdparm --yes-i-know-what-i-am-doing --sanitize-" in erase.commands[1]
    assert len(erase.commands) == 2
    assert drive.sanitize_status().succeeded


@FORMATS
@each_sanitize
def test_a_sanitize_is_adopted_after_a_power_cut(method: Method, descriptor: bool) -> None:
    rig, _, drive = made(descriptor_sense=descriptor)
    erase_of(method, drive, rig).start()
    rig.now += 5.0
    rig.drive.power_cycle()
    later = AtaDrive(RigPort(rig), name="/dev/sdb", transport="sata")
    assert not erase_of(method, later, rig).adopt()  # nobody knows which one it is
    found = under_way(later)
    assert found is not None
    assert found.poll().state is State.RUNNING
    erase = erase_of(method, later, rig, ours=True)
    assert erase.adopt()
    assert code_of(erase.abandon) == "still_running"
    assert code_of(erase.start) == "sanitize_running"
    assert erase.poll().state is State.RUNNING
    rig.now += 5.0
    assert erase.poll().state is State.DONE
    assert erase.complete()["adopted"]
    assert rig.marked() == []
    assert erase.commands == []


@FORMATS
@pytest.mark.parametrize("exit_allowed", [True, False])
@each_sanitize
def test_a_sanitize_that_fails(method: Method, exit_allowed: bool, descriptor: bool) -> None:
    rig, _, drive = made("sanitize-fails:50", descriptor_sense=descriptor)
    erase = erase_of(method, drive, rig, exit_allowed=exit_allowed)
    erase.start()
    rig.now += 20.0
    poll = erase.poll()
    assert poll.state is State.FAILED
    assert "failed" in poll.evidence["reason"]
    assert code_of(erase.complete) == "not_completed"
    if exit_allowed:
        erase.abandon()
    else:
        assert code_of(erase.abandon) == "fenced"
    assert drive.reads() is exit_allowed  # else it stays closed, so that nobody takes it for an erased one
    again = erase_of(method, drive, rig, exit_allowed=True, ours=True)
    assert not again.adopt()
    rig.drive.disk.remove("sanitize-fails")
    again.start()
    rig.now += 20.0
    assert again.poll().state is State.DONE
    assert again.complete()


@FORMATS
def test_a_drive_that_is_frozen_by_sanitizes_own_lock(descriptor: bool) -> None:
    rig, _, drive = made(descriptor_sense=descriptor)
    rig.ata_good(0xB4, features=0x20, lba=0x46724C6B)
    erase = erase_of(Method.ATA_SANITIZE_BLOCK, drive, rig)
    assert code_of(erase.start) == "frozen"
    assert len(rig.marked()) == rig.spec.blocks + rig.spec.spares


def test_security_frozen_is_no_hindrance_to_sanitize() -> None:
    rig, _, drive = made(frozen=True)
    erase = erase_of(Method.ATA_SANITIZE_BLOCK, drive, rig)
    erase.start()
    rig.now += 10.0
    assert erase.poll().state is State.DONE


def test_nothing_is_begun_whose_end_could_not_be_seen() -> None:
    for strip in (
        codes_only,
        lambda sense: sense[:8] + bytes((sense[8] & 0xF0,)) + sense[9:] if sense else sense,
    ):
        rig, port, drive = made(descriptor_sense=False)
        port.strip = strip
        erase = erase_of(Method.ATA_SANITIZE_BLOCK, drive, rig)
        assert code_of(erase.start) == "sanitize_status_lost"
        assert rig.drive.disk.state.sanitize.state == "idle"


def test_an_adopted_sanitize_whose_end_cannot_be_seen_has_failed() -> None:
    rig, port, drive = made(descriptor_sense=False)
    erase_of(Method.ATA_SANITIZE_BLOCK, drive, rig).start()
    port.strip = without_log_index
    erase = erase_of(Method.ATA_SANITIZE_BLOCK, drive, rig, ours=True)
    assert erase.adopt()
    assert erase.poll().state is State.RUNNING
    port.strip = codes_only
    assert erase.poll().state is State.RUNNING  # the medium is closed
    rig.now += 20.0
    poll = erase.poll()
    assert poll.state is State.FAILED
    assert "unknown" in poll.evidence["reason"]
    assert code_of(erase.complete) == "not_completed"


def test_a_drive_that_claims_sanitize_and_refuses_it() -> None:
    rig, _, drive = made("claims-sanitize")
    assert code_of(erase_of(Method.ATA_SANITIZE_BLOCK, drive, rig).start) == "ata_refused"


def test_what_is_not_offered_is_not_tried() -> None:
    rig, port, drive = made(sanitizes=frozenset({Lab.SANITIZE_OVERWRITE}), security=False)
    for method in METHODS - {Method.ATA_SANITIZE_OVERWRITE}:
        assert code_of(erase_of(method, drive, rig).start) == "method_unsupported"
    assert set(port.opcodes()) == {0xEC}


def test_a_sanitize_that_never_ends_is_never_done() -> None:
    rig, _, drive = made("never-ends")
    erase = erase_of(Method.ATA_SANITIZE_BLOCK, drive, rig)
    erase.start()
    for _ in range(5):
        rig.now += 1e6
        poll = erase.poll()
        assert (poll.state, poll.fraction) == (State.RUNNING, pytest.approx(0.01, abs=0.001))


# --- security erase


@FORMATS
@each_security
def test_a_security_erase_to_its_end(method: Method, descriptor: bool) -> None:
    rig, port, drive = made(descriptor_sense=descriptor, erase_seconds=600.0)
    erase = erase_of(method, drive, rig)
    assert erase.estimate == 600.0
    assert not erase.adopt()
    erase.start()
    assert erase.poll().state is State.DONE
    assert erase.complete()["security"] == {"enabled": False, "locked": False, "frozen": False}
    assert rig.marked(0, rig.spec.blocks) == []
    erase.abandon()
    sent = [line.split(" ")[:3] for line in erase.commands]
    assert [" ".join(words) for words in sent][:3] == [
        "SECURITY SET PASSWORD", "SECURITY ERASE PREPARE", "SECURITY ERASE UNIT",
    ]  # fmt: skip
    assert PASSWORD in erase.commands[0]
    datas = [data for cdb, data in port.sent if cdb[14] == 0xF1]
    assert datas == [password_data(PASSWORD)]  # the user's, of level high
    at = port.opcodes().index(0xF4)
    assert port.opcodes()[at - 1] == 0xF3


def test_it_runs_beside_the_caller_and_says_that_its_progress_is_an_estimate() -> None:
    _, port, drive = made(erase_seconds=1200.0)
    go_on, erasing = threading.Event(), threading.Event()

    def hold(cdb: bytes) -> None:
        if cdb[14] == 0xF4:
            erasing.set()
            assert go_on.wait(30)

    port.before = hold
    times = iter([0.0, 300.0, 5000.0, 5001.0])
    erase = ata_erase(Method.ATA_SECURITY_ERASE, drive, clock=lambda: next(times))
    erase.start()
    assert erasing.wait(30)
    first, late = erase.poll(), erase.poll()
    assert (first.state, first.fraction) == (State.RUNNING, 0.25)
    assert (late.state, late.fraction) == (State.RUNNING, 0.99)
    assert "estimate" in first.evidence["fraction"]
    go_on.set()
    assert isinstance(erase, SecurityErase)
    assert erase._ended is not None
    assert erase._ended(30.0)
    assert erase.poll().state is State.DONE


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(1), Subclass()])
def test_whatever_ends_the_thread_is_no_success(error: BaseException) -> None:
    _, port, drive = made()

    def end(cdb: bytes) -> None:
        if cdb[14] == 0xF4:
            raise error

    port.before = end
    erase = ata_erase(Method.ATA_SECURITY_ERASE, drive)
    erase.start()
    assert isinstance(erase, SecurityErase)
    assert erase._ended is not None
    assert erase._ended(30.0)
    assert erase.poll().state is State.FAILED
    assert code_of(erase.complete) == "not_completed"


@pytest.mark.parametrize(("seconds", "timeout"), [(60.0, 43200.0), (29000.0, 58080.0), (86400.0, 43200.0)])
def test_the_command_has_time_enough(seconds: float, timeout: float) -> None:
    """Half a day where the drive says little or only "more than 508 minutes", else twice its estimate."""
    rig, _, drive = made(erase_seconds=seconds)
    erase = erase_of(Method.ATA_SECURITY_ERASE, drive, rig)
    assert isinstance(erase, SecurityErase)
    assert erase.timeout == timeout


@FORMATS
@each_security
def test_a_security_erase_that_fails_leaves_no_password(method: Method, descriptor: bool) -> None:
    rig, _, drive = made("security-erase-fails:30", descriptor_sense=descriptor)
    erase = erase_of(method, drive, rig)
    erase.start()
    assert erase.poll().state is State.FAILED
    assert code_of(erase.complete) == "not_completed"
    assert rig.drive.disk.state.security.user
    erase.abandon()
    assert not rig.drive.disk.state.security.user


@FORMATS
@each_security
def test_a_drive_that_keeps_the_password(method: Method, descriptor: bool) -> None:
    rig, _, drive = made("keeps-password", descriptor_sense=descriptor)
    erase = erase_of(method, drive, rig)
    erase.start()
    assert erase.poll().state is State.DONE
    assert code_of(erase.complete) == "not_completed"
    erase.abandon()
    assert not rig.drive.disk.state.security.user
    rig.power_cycle()
    assert drive.reads()


@FORMATS
@each_security
def test_a_drive_that_denies_its_password(method: Method, descriptor: bool) -> None:
    rig, port, drive = made("loses-password-state", descriptor_sense=descriptor)
    erase = erase_of(method, drive, rig)
    assert code_of(erase.start) == "password_not_seen"
    assert not rig.drive.disk.state.security.user
    assert 0xF4 not in port.opcodes()
    rig.power_cycle()
    assert drive.reads()


@each_security
def test_a_frozen_drive_is_left_alone(method: Method) -> None:
    rig, port, drive = made(frozen=True)
    erase = erase_of(method, drive, rig)
    assert code_of(erase.start) == "frozen"
    erase.abandon()
    assert set(port.opcodes()) == {0xEC}


@FORMATS
@each_security
def test_a_drive_that_hides_that_it_is_frozen(method: Method, descriptor: bool) -> None:
    rig, _, drive = made("hides-freeze", frozen=True, descriptor_sense=descriptor)
    erase = erase_of(method, drive, rig)
    assert code_of(erase.start) == "ata_refused"
    erase.abandon()
    assert not rig.drive.disk.state.security.user


@each_security
def test_a_drive_that_our_last_erase_left_locked_is_opened_first(method: Method) -> None:
    rig, _, drive = made(password=PASSWORD)
    assert drive.identify().security.locked
    erase = erase_of(method, drive, rig)
    erase.start()
    assert erase.poll().state is State.DONE
    assert erase.complete()
    assert rig.marked(0, rig.spec.blocks) == []


@each_security
def test_a_strangers_password_stays(method: Method) -> None:
    rig, port, drive = made(password="stranger", master_password="other")
    erase = erase_of(method, drive, rig)
    assert code_of(erase.start) == "locked"
    erase.abandon()
    assert rig.drive.disk.state.security.user
    assert len(rig.marked()) == rig.spec.blocks + rig.spec.spares
    assert port.opcodes().count(0xF2) == 4


def test_an_erase_without_an_answer_is_told_with_the_password() -> None:
    rig, port, drive = made()
    erase = erase_of(Method.ATA_SECURITY_ERASE, drive, rig)

    def vanish(cdb: bytes) -> None:
        port.gone = port.gone or cdb[14] == 0xF4

    port.before = vanish
    erase.start()
    assert erase.poll().state is State.FAILED
    with pytest.raises(DeviceError, match=PASSWORD) as caught:
        erase.abandon()
    assert caught.value.code == "drive_left_locked"
    port.before, port.gone = lambda cdb: None, False
    erase.abandon()
    assert not rig.drive.disk.state.security.user


def test_an_erase_that_takes_too_long_is_not_waited_for() -> None:
    rig, _, drive = made(erase_seconds=864000.0)
    erase = erase_of(Method.ATA_SECURITY_ERASE, drive, rig)
    erase.start()
    poll = erase.poll()
    assert poll.state is State.FAILED
    assert "no answer" in poll.evidence["command"]
    assert rig.now >= 43200.0
    erase.abandon()  # the reset ended it
    assert not rig.drive.disk.state.security.user


def test_while_the_drive_is_erasing_the_password_cannot_go() -> None:
    drive = made()[2]
    erase = ata_erase(Method.ATA_SECURITY_ERASE, drive, aside=lambda work: lambda seconds: False)
    erase.start()
    with pytest.raises(DeviceError, match=f"still under way.*{PASSWORD}") as caught:
        erase.abandon()
    assert caught.value.code == "drive_left_locked"
