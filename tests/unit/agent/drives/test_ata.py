"""AtaDrive on the lab's drives, with sense data of either format, and what it must never send."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.ata_port import RigPort, codes_only, without_log_index
from fakes.drive_rig import Rig
from teeth.lab.drives.model import Medium, Method
from teeth.lab.drives.sense import BUS_RESET
from teeth_agent.drives import ata_commands
from teeth_agent.drives.ata import AtaDrive, AtaRefused, find_result, judge
from teeth_agent.drives.ata_commands import Who
from teeth_agent.drives.ata_identity import parse_identity
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough.scsi import ScsiReply

FORMATS = pytest.mark.parametrize("descriptor", [True, False], ids=["descriptor", "fixed"])


def made(**spec: Any) -> tuple[Rig, RigPort, AtaDrive]:
    rig = Rig("sata", **spec)
    port = RigPort(rig)
    return rig, port, AtaDrive(port, name="/dev/sda", transport="sata")


# --- identity


def test_what_an_ssd_says_of_itself() -> None:
    _, _, drive = made(password="", erase_seconds=600.0, physical=4096)
    identity = drive.identify()
    assert (identity.model, identity.serial, identity.firmware) == ("TEETH LAB DRIVE", "RIG0001", "1.00")
    assert identity.wwn == "0x5000c500a1b2c3d4"
    assert (identity.sectors, identity.logical_sector, identity.physical_sector) == (8192, 512, 4096)
    assert identity.size == 8192 * 512
    assert identity.solid_state
    assert identity.trim.zeroed
    assert dataclasses.astuple(identity.sanitize) == (True, True, True, True, True)
    assert identity.security.erase_seconds == 600.0
    assert not identity.security.enabled
    assert identity.checked


def test_what_a_disk_with_large_blocks_says_of_itself() -> None:
    _, _, drive = made(
        sector=4096, medium=Medium.HDD,
        sanitizes=frozenset({Method.SANITIZE_OVERWRITE}), unmap=False, erase_seconds=1e5, hidden_by="ama",
    )  # fmt: skip
    identity = drive.identify()
    assert (identity.logical_sector, identity.physical_sector, identity.rotation) == (4096, 4096, 7200)
    assert not identity.trim.supported
    assert (identity.sanitize.overwrite, identity.sanitize.block, identity.sanitize.crypto) == (
        True,
        False,
        False,
    )
    assert identity.security.erase_seconds is None  # more than 508 minutes
    assert (identity.hpa, identity.ama, identity.dco) == (False, True, False)


@given(st.binary(min_size=512, max_size=512))
def test_any_512_bytes_are_an_identity_or_refused(data: bytes) -> None:
    # Half of them with what makes data trusted: the mark, and a sum of zero.
    trusted = data[:510] + b"\xa5" + bytes((-sum(data[:510]) - 0xA5 & 0xFF,))
    for whole in (data, b"\x40\0" + data[2:], trusted):
        with contextlib.suppress(DeviceError):
            identity = parse_identity(whole)
            assert identity.model.isprintable()
            assert identity.logical_sector >= 0


def test_nonsense_is_no_identity() -> None:
    rig, _, _ = made()
    good = rig.sata.ata.identity()
    assert parse_identity(good).serial == "RIG0001"
    for bad in (b"", bytes(512), b"\xff" * 512, good[:100], good[:20] + b"?" + good[21:]):
        with pytest.raises(DeviceError) as caught:
            parse_identity(bad)
        assert caught.value.code == "identity_unreadable"
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "seconds"),
    [
        (0, None),
        (1, 120.0),
        (254, 30480.0),
        (255, None),
        (0x8000, None),
        (0x8000 | 1000, 120000.0),
        (0xFFFF, None),
    ],
)
def test_times_in_both_forms(word: int, seconds: float | None) -> None:
    rig, _, _ = made()
    data = bytearray(rig.sata.ata.identity())
    data[178:180] = word.to_bytes(2, "little")
    data[511] = 0
    data[511] = -sum(data) & 0xFF
    assert parse_identity(bytes(data)).security.erase_seconds == seconds


# --- hidden ends


@FORMATS
def test_hidden_ends_are_seen_and_removed(descriptor: bool) -> None:
    rig, _, drive = made(hidden=192, overlaid=1000, descriptor_sense=descriptor)
    assert drive.identify().sectors == 7000
    assert drive.native_sectors(lba48=True) == 7192
    assert drive.overlay_sectors() == 8192
    with pytest.raises(AtaRefused):  # a host protected area must go first
        drive.restore_overlay()
    drive.set_max(7192, lba48=True, keep=True)
    assert rig.drive.disk.state.accessible == 7192
    drive.restore_overlay()
    assert drive.identify().sectors == 8192
    assert drive.native_sectors(lba48=True) == 8192
    assert any(
        line.endswith("= hdparm --yes-i-know-what-i-am-doing -N p7192 /dev/sda") for line in drive.commands
    )


@FORMATS
def test_an_accessible_max_address_is_seen_and_removed(descriptor: bool) -> None:
    _, _, drive = made(hidden=192, hidden_by="ama", descriptor_sense=descriptor)
    assert drive.identify().sectors == 8000
    assert drive.accessible_native_sectors() == 8192
    drive.set_accessible_max(8192)
    assert drive.identify().sectors == 8192


@pytest.mark.parametrize(
    ("blocks", "descriptor", "log", "found"),
    [
        ((1 << 24) + 5, False, True, (1 << 24) + 5),
        ((1 << 33) + 5, False, True, (1 << 33) + 5),  # from the translator's log of results
        ((1 << 33) + 5, True, False, (1 << 33) + 5),
        ((1 << 25) + 5, False, False, (1 << 25) + 5),  # the short form has 28 bits in fixed format too
        ((1 << 33) + 5, False, False, None),  # cut off, and nowhere else to be had
    ],
)
def test_an_address_that_fixed_format_cuts_off(
    blocks: int, descriptor: bool, log: bool, found: int | None
) -> None:
    _, port, drive = made(blocks=blocks, dirty=False, descriptor_sense=descriptor)
    if not log:
        port.strip = without_log_index
    assert drive.native_sectors(lba48=True) == found


def test_registers_that_got_lost_are_unknown() -> None:
    _, port, drive = made(descriptor_sense=True)
    port.strip = codes_only
    assert drive.native_sectors(lba48=True) is None
    status = drive.sanitize_status()
    assert (status.running, status.succeeded, status.failed, status.whole) == (None, None, None, False)


# --- sanitize


@FORMATS
@pytest.mark.parametrize("make", [ata_commands.sanitize_crypto, ata_commands.sanitize_block,
                                  ata_commands.sanitize_overwrite])  # fmt: skip
def test_a_sanitize_runs_and_tells(make: Any, descriptor: bool) -> None:
    rig, _, drive = made(descriptor_sense=descriptor, erase_seconds=10.0)
    status = drive.sanitize_status()
    assert (status.running, status.succeeded, status.failed, status.whole) == (False, False, False, True)
    drive.sanitize_antifreeze()
    assert drive.sanitize_status().antifrozen is True
    drive.sanitize(make, exit_allowed=False)
    rig.now += 5.0
    status = drive.sanitize_status()
    assert (status.running, status.succeeded) == (True, False)
    assert status.progress == pytest.approx(0.5, abs=0.01)
    assert not drive.reads()
    rig.now += 5.0
    status = drive.sanitize_status()
    assert (status.running, status.succeeded, status.failed) == (False, True, False)
    assert drive.reads()
    assert rig.marked() == []


def test_an_overwrite_is_one_pass_of_zeros() -> None:
    rig, _, drive = made(erase_seconds=10.0)
    drive.sanitize(ata_commands.sanitize_overwrite, exit_allowed=False)
    assert rig.drive.disk.state.sanitize.passes == 1
    rig.now += 10.0
    assert drive.sanitize_status().succeeded
    assert rig.media.read(0, 4096) == bytes(4096)


@FORMATS
def test_a_failed_sanitize_is_told_and_left_only_when_that_was_allowed(descriptor: bool) -> None:
    for allowed in (False, True):
        rig, _, drive = made(descriptor_sense=descriptor)
        rig.lie("sanitize-fails:50")
        drive.sanitize(ata_commands.sanitize_block, exit_allowed=allowed)
        rig.now += 20.0
        status = drive.sanitize_status()
        assert (status.failed, status.succeeded, status.running) == (True, False, False)
        assert status.reason == "the last sanitize operation failed"
        assert not drive.reads()
        assert bool(drive.sanitize_status(clear_failed=True).failed) is not allowed
        assert drive.reads() is allowed


def test_without_a_log_of_results_fixed_format_never_says_that_a_sanitize_succeeded() -> None:
    rig, port, drive = made(descriptor_sense=False)
    port.strip = without_log_index
    drive.sanitize(ata_commands.sanitize_block, exit_allowed=False)
    rig.now += 4.0
    assert drive.sanitize_status().running is True
    assert drive.sanitize_status().progress == pytest.approx(0.4, abs=0.01)
    rig.now += 20.0
    status = drive.sanitize_status()
    assert (status.running, status.succeeded, status.whole) == (None, None, False)
    assert "??" in str(status.evidence())


@FORMATS
def test_what_a_drive_does_not_have_it_refuses(descriptor: bool) -> None:
    _, _, drive = made(
        descriptor_sense=descriptor, sanitizes=frozenset({Method.SANITIZE_OVERWRITE}), unmap=False
    )
    with pytest.raises(AtaRefused, match="/dev/sda: BLOCK ERASE EXT was refused") as caught:
        drive.sanitize(ata_commands.sanitize_block, exit_allowed=False)
    assert caught.value.registers is not None
    assert caught.value.registers.error == 0x04


# --- security


@FORMATS
def test_a_password_is_set_and_taken_away(descriptor: bool) -> None:
    rig, _, drive = made(descriptor_sense=descriptor)
    drive.set_password("SECRET")
    assert drive.identify().security.enabled
    rig.drive.power_cycle()
    assert drive.identify().security.locked
    with pytest.raises(AtaRefused):
        drive.unlock(Who.USER, "WRONG")
    drive.unlock(Who.USER, "SECRET")
    drive.disable_password(Who.USER, "SECRET")
    assert not drive.identify().security.enabled


@FORMATS
@pytest.mark.parametrize("enhanced", [True, False])
def test_a_security_erase(enhanced: bool, descriptor: bool) -> None:
    rig, _, drive = made(descriptor_sense=descriptor, hidden=100)
    drive.set_password("SECRET")
    drive.security_erase(Who.USER, "SECRET", enhanced=enhanced, timeout=60.0)
    assert rig.marked(0, 8092) == []
    assert bool(rig.marked(8092, 8192)) is not enhanced
    security = drive.identify().security
    assert not security.enabled
    assert not security.locked


def test_an_erase_that_takes_longer_than_it_may() -> None:
    _, _, drive = made(erase_seconds=100.0)
    drive.set_password("SECRET")
    with pytest.raises(DeviceError, match="no answer") as caught:
        drive.security_erase(Who.USER, "SECRET", enhanced=False, timeout=50.0)
    assert caught.value.code == "passthrough_failed"
    assert drive.identify().security.enabled


# --- what is never sent


@pytest.mark.parametrize("transport", ["usb", "unknown", "virtio", "iscsi", "fc", "nvme", ""])
def test_nothing_is_sent_to_a_drive_behind_usb(transport: str) -> None:
    port = RigPort(Rig("sata"))
    with pytest.raises(DeviceError) as caught:
        AtaDrive(port, name="/dev/sda", transport=transport)
    assert caught.value.code == "usb_bridge"
    assert port.sent == []


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=32))
def test_a_password_that_is_set_is_always_the_users_and_of_level_high(password: str) -> None:
    command, data = ata_commands.security_set_password(password)
    assert command.opcode == 0xF1
    assert data[:2] == b"\0\0"
    assert data[2:34].rstrip(b"\0") == password.encode()
    assert not any(data[34:])
    assert len(data) == 512


@pytest.mark.parametrize("exit_allowed", [True, False])
def test_the_bytes_of_sanitize(exit_allowed: bool) -> None:
    exits = 0x10 if exit_allowed else 0
    for make, expected in (
        (ata_commands.sanitize_crypto, f"8507200011 00{exits:02x} 437000790072 40b400"),
        (ata_commands.sanitize_block, f"8507200012 00{exits:02x} 42720045006b 40b400"),
        (ata_commands.sanitize_overwrite, f"8507200014 00{exits | 1:02x} 000057004f00 40b400"),
    ):
        assert make(exit_allowed=exit_allowed).cdb() == bytes.fromhex(expected)


# --- judging


@pytest.mark.parametrize(
    "reply",
    [
        ScsiReply(status=0x08, sense=b"", data=b""),  # BUSY
        ScsiReply(status=0x18, sense=b"", data=b""),  # RESERVATION CONFLICT
        ScsiReply(status=0x02, sense=b"", data=b""),
        ScsiReply(status=0x02, sense=bytes((0x70, 0, 0x00, *bytes(15))), data=b""),  # NO SENSE, no registers
        ScsiReply(status=0x02, sense=bytes((0x70, 0, 0x0B, *bytes(15))), data=b""),
        ScsiReply(status=0x02, sense=bytes((0x70, 0, 0x05, *bytes(15))), data=b""),
        # Said to be well, with the error bit in the registers.
        ScsiReply(
            status=0x02, sense=bytes((0x72, 1, 0, 0x1D, 0, 0, 0, 14, 9, 12, 0, 4, *bytes(9), 0x51)), data=b""
        ),
        ScsiReply(
            status=0x00, sense=bytes((0x72, 1, 0, 0x1D, 0, 0, 0, 14, 9, 12, 0, 4, *bytes(9), 0x51)), data=b""
        ),
    ],
)
def test_what_is_not_plainly_good_is_refused(reply: ScsiReply) -> None:
    with pytest.raises(AtaRefused):
        judge(reply, "x")


def test_no_answer_is_no_success() -> None:
    with pytest.raises(DeviceError, match="no answer"):
        judge(ScsiReply(status=0, sense=b"", data=b"", transport=0x300), "x")


def test_a_unit_attention_is_of_what_was_before() -> None:
    rig, port, drive = made()
    drive.identify()
    rig.drive.power_cycle()
    rig.drive.attend(BUS_RESET)
    before = len(port.sent)
    assert drive.identify().serial == "RIG0001"
    assert len(port.sent) == before + 3


@given(st.binary(max_size=600), st.integers(1, 15))
def test_any_log_of_results_is_read_or_passed_over(page: bytes, index: int) -> None:
    find_result(page, index)
    find_result(bytes((0x16, 0)) + page, index)
