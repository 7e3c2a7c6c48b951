"""The agent's SCSI drive on simulated ones: questions, orders, states, and answers of every kind."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.ata_port import RigPort
from fakes.drive_rig import Rig
from teeth.lab.drives.model import Medium, Method
from teeth_agent.drives import scsidata
from teeth_agent.drives.scsi import Action, Condition, ScsiDrive, format_command, judge, sanitize_command
from teeth_agent.drives.sense import parse_sense
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough.scsi import ScsiReply


def drive(kind: str = "scsi", **spec: Any) -> tuple[Rig, RigPort, ScsiDrive]:
    rig = Rig(kind, **spec)
    port = RigPort(rig)
    return rig, port, ScsiDrive(port, device="/dev/sda")


class Canned:
    """A port whose answers are given by opcode; good and empty for others."""

    def __init__(self, answers: dict[int, list[ScsiReply]]) -> None:
        self.answers = answers
        self.sent: list[bytes] = []

    def command(self, cdb: bytes, *, send: bytes = b"", receive: int = 0, timeout: float = 30.0) -> ScsiReply:
        self.sent.append(cdb)
        rows = self.answers.get(cdb[0])
        if not rows:
            return ScsiReply(status=0, sense=b"", data=b"")
        return rows.pop(0) if len(rows) > 1 else rows[0]


def check(key: int, asc: int, ascq: int) -> ScsiReply:
    return ScsiReply(status=2, sense=fixed(key, asc, ascq), data=b"")


def fixed(key: int, asc: int, ascq: int) -> bytes:
    return bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0))


# --- questions


@pytest.mark.parametrize("descriptor_sense", [False, True])
def test_who_it_is(descriptor_sense: bool) -> None:
    _, _, found = drive(vendor="SEAGATE", product="ST18000NM004J", revision="E004", sector=4096,
                        descriptor_sense=descriptor_sense)  # fmt: skip
    said = found.inquiry()
    assert (said.vendor, said.product, said.revision) == ("SEAGATE", "ST18000NM004J", "E004")
    assert said.present
    assert said.block_device
    assert not said.protection
    assert found.serial() == "RIG0001"
    assert [d.name for d in found.designators() if (d.kind, d.association) == (3, 0)] == ["5000c500a1b2c3d4"]
    assert found.pages() >= {0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2}
    capacity = found.capacity()
    assert (capacity.blocks, capacity.block_size, capacity.protection_type) == (8192, 4096, 0)
    assert capacity.size == 8192 * 4096


def test_what_it_says_of_its_medium() -> None:
    _, _, found = drive(medium=Medium.HDD, rpm=10500, unmap=False)
    assert found.characteristics().rotation == 10500
    assert found.characteristics().rotates
    assert not found.provisioning().unmaps
    _, _, found = drive()
    assert found.characteristics().rotates is False
    assert found.characteristics().after_crypto_erase == 1
    assert found.provisioning().reads_zeros
    assert found.block_limits().maximum_transfer == (32 << 20) // 512


def test_a_page_that_is_not_there() -> None:
    _, _, found = drive()
    with pytest.raises(DeviceError) as caught:
        found.vpd(0xC0)
    assert caught.value.code == "refused"
    assert "page c0h: sense 5/24/00" in str(caught.value)


def test_which_commands_it_has() -> None:
    _, _, found = drive(sanitizes=frozenset({Method.SANITIZE_BLOCK}))
    assert found.supports(0x48, Action.BLOCK)
    assert found.supports(0x48, Action.BLOCK).recommended == 43200
    assert found.supports(0x48, Action.OVERWRITE).supported is False
    assert found.supports(0x04)
    assert found.supports(0x99).supported is False


def test_a_drive_that_does_not_tell_its_commands() -> None:
    found = ScsiDrive(Canned({0xA3: [check(5, 0x20, 0)]}))
    assert found.supports(0x48, 2).supported is None
    assert not found.supports(0x48, 2)


def test_write_protection() -> None:
    rig, _, found = drive()
    assert not found.write_protected()
    rig.lie("read-only")
    assert found.write_protected()
    long = ScsiReply(status=0, sense=b"", data=bytes((0, 6, 0, 0x80, 0, 0, 0, 0)))
    assert ScsiDrive(Canned({0x1A: [check(5, 0x20, 0)], 0x5A: [long]})).write_protected()


def test_reservation_keys() -> None:
    rig, _, found = drive()
    assert found.reservation_keys() == ()
    rig.good("5f000000000000001800", bytes(8) + (0xABC).to_bytes(8, "big") + bytes(8), nexus="other")
    assert found.reservation_keys() == (0xABC,)


@pytest.mark.parametrize(
    ("answers", "count"),
    [
        ({0xB7: [ScsiReply(status=0, sense=b"", data=bytes((0, 0x08, 0, 0, 0, 0, 0, 12)))]}, 3),
        ({0xB7: [ScsiReply(status=0, sense=b"", data=bytes((0, 0x0D, 0, 0, 0, 0, 0, 16)))]}, 2),
        # No such format: the list comes in another, with a recovered error.
        ({0xB7: [ScsiReply(status=2, sense=fixed(1, 0x1C, 1), data=bytes((0, 0x0C, 0, 0, 0, 0, 0, 8)))]}, 1),
        ({0xB7: [check(5, 0x20, 0)], 0x37: [ScsiReply(status=0, sense=b"", data=bytes((0, 8, 0, 20)))]}, 5),
        ({0xB7: [check(5, 0x20, 0)], 0x37: [check(5, 0x20, 0)]}, None),
        ({0xB7: [ScsiReply(status=0, sense=b"", data=bytes(8))]}, None),
    ],
)
def test_grown_defects(answers: dict[int, list[ScsiReply]], count: int | None) -> None:
    assert ScsiDrive(Canned(answers)).grown_defects() == count


def test_unit_attentions_are_asked_away() -> None:
    rig, port, found = drive()
    found.inquiry()
    rig.drive.reset()
    found.capacity()
    assert len(port.orders(0x9E)) == 2
    # But not forever.
    stubborn = Canned({0x9E: [check(6, 0x29, 0)]})
    with pytest.raises(DeviceError):
        ScsiDrive(stubborn).capacity()
    assert len(stubborn.sent) == 8


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (ScsiReply(status=0, sense=b"", data=b"", transport=0x0300), "no_answer"),
        (ScsiReply(status=0x18, sense=b"", data=b""), "reserved"),
        (ScsiReply(status=0x08, sense=b"", data=b""), "device_busy"),
        (check(7, 0x27, 0), "read_only"),
        (check(5, 0x24, 0), "refused"),
        (check(2, 0x04, 0x1B), "sanitize_running"),
        (check(3, 0x31, 3), "sanitize_failed"),
        (check(4, 0x44, 0), "device_failed"),
        (ScsiReply(status=2, sense=b"", data=b""), "device_failed"),
    ],
)
def test_how_a_command_can_end(reply: ScsiReply, code: str) -> None:
    with pytest.raises(DeviceError) as caught:
        ScsiDrive(Canned({0x48: [reply]})).sanitize(Action.BLOCK)
    assert caught.value.code == code


# --- orders


@pytest.mark.parametrize(
    ("command", "cdb", "send", "words"),
    [
        (
            sanitize_command(Action.BLOCK), "48820000000000000000", "",
            "sg_sanitize --block --quick --early /dev/sda",
        ),
        (
            sanitize_command(Action.CRYPTO, exit_allowed=True), "48a30000000000000000", "",
            "sg_sanitize --crypto --ause --quick --early /dev/sda",
        ),
        (
            sanitize_command(Action.OVERWRITE), "48810000000000000800", "0100000400000000",
            "sg_sanitize --overwrite --count=1 --zero --ipl=4 --quick --early /dev/sda",
        ),
        (
            sanitize_command(Action.EXIT_FAILURE, exit_allowed=True), "481f0000000000000000", "",
            "sg_sanitize --fail --quick --wait /dev/sda",
        ),
        (
            format_command(0), "041000000000", "00020000",
            "sg_format --format --fmtpinfo=0 --pfu=0 --cmplst=0 --quick --early /dev/sda",
        ),
        (
            format_command(1), "049000000000", "00020000",
            "sg_format --format --fmtpinfo=2 --pfu=0 --cmplst=0 --quick --early /dev/sda",
        ),
        (
            format_command(2), "04d000000000", "00020000",
            "sg_format --format --fmtpinfo=3 --pfu=0 --cmplst=0 --quick --early /dev/sda",
        ),
        (
            format_command(3), "04d000000000", "01020000",
            "sg_format --format --fmtpinfo=3 --pfu=1 --cmplst=0 --quick --early /dev/sda",
        ),
    ],
)  # fmt: skip
def test_commands_by_the_letter(command: Any, cdb: str, send: str, words: str) -> None:
    assert (command.cdb.hex(), command.send.hex(), command.equivalent) == (cdb, send, words)
    assert str(command).startswith(f"cdb {command.cdb.hex(' ')}")


@pytest.mark.parametrize("action", [Action.OVERWRITE, Action.BLOCK, Action.CRYPTO])
@pytest.mark.parametrize("descriptor_sense", [False, True])
def test_a_sanitize_from_begin_to_end(action: Action, descriptor_sense: bool) -> None:
    rig, _, found = drive(descriptor_sense=descriptor_sense)
    found.sanitize(action)
    rig.now += 5
    standing = found.standing()
    assert standing.condition is Condition.SANITIZING
    assert standing.fraction == pytest.approx(0.5, abs=0.01)
    rig.now += 6
    assert found.standing().condition is Condition.READY
    assert rig.marked() == []


def test_a_pattern_is_written() -> None:
    rig, _, found = drive()
    found.sanitize(Action.OVERWRITE, pattern=b"\xa5\x5a")
    rig.now += 11
    assert found.standing().condition is Condition.READY
    assert rig.media.read(0, 4) == b"\xa5\x5a\xa5\x5a"


def test_a_failed_sanitize_may_be_left_only_where_that_was_allowed() -> None:
    for allowed in (True, False):
        rig, _, found = drive()
        rig.lie("sanitize-fails:50")
        found.sanitize(Action.BLOCK, exit_allowed=allowed)
        rig.now += 11
        standing = found.standing()
        assert standing.condition is Condition.SANITIZE_FAILED
        assert standing.words == "3/31/03"
        if allowed:
            found.sanitize(Action.EXIT_FAILURE)
            assert found.standing().condition is Condition.READY
        else:
            with pytest.raises(DeviceError):
                found.sanitize(Action.EXIT_FAILURE)
            assert found.standing().condition is Condition.SANITIZE_FAILED


def test_a_format_from_begin_to_end_and_one_cut_short() -> None:
    rig, _, found = drive()
    found.format_unit()
    rig.now += 5
    assert found.standing().condition is Condition.FORMATTING
    rig.drive.power_cycle()
    assert found.standing().condition is Condition.FORMAT_FAILED
    # Only another format gets it out of that, although its capacity cannot be asked for meanwhile.
    found.format_unit()
    rig.now += 11
    assert found.standing().condition is Condition.READY
    assert rig.marked(0, rig.spec.blocks) == []


def test_a_unit_that_is_gone_is_not_ready_and_not_failed() -> None:
    _, port, found = drive()
    port.gone = True
    with pytest.raises(DeviceError) as caught:
        found.standing()
    assert caught.value.code == "no_answer"


@pytest.mark.parametrize(
    ("codes", "condition"),
    [
        ((2, 0x04, 0x1B), Condition.SANITIZING),
        ((0, 0x04, 0x1B), Condition.SANITIZING),
        ((2, 0x04, 0x04), Condition.FORMATTING),
        ((2, 0x04, 0x01), Condition.NOT_READY),
        ((2, 0x3A, 0x00), Condition.NOT_READY),
        ((3, 0x31, 0x03), Condition.SANITIZE_FAILED),
        ((3, 0x31, 0x00), Condition.FORMAT_FAILED),
        ((3, 0x31, 0x01), Condition.FORMAT_FAILED),
        ((4, 0x44, 0x00), Condition.BROKEN),
        ((3, 0x11, 0x00), Condition.BROKEN),
        ((0, 0, 0), None),
        ((6, 0x29, 0), None),
    ],
)
def test_conditions(codes: tuple[int, int, int], condition: Condition | None) -> None:
    assert judge(parse_sense(fixed(*codes))) is condition


@pytest.mark.parametrize("status", [0x08, 0x18, 0x28])
def test_a_unit_that_takes_no_command_is_not_ready(status: int) -> None:
    quiet = ScsiReply(status=0, sense=b"", data=fixed(0, 0, 0))
    port = Canned({0x03: [quiet], 0x00: [ScsiReply(status=status, sense=b"", data=b"")]})
    assert ScsiDrive(port).standing().condition is Condition.NOT_READY


def test_a_check_condition_without_sense_is_not_ready() -> None:
    quiet = ScsiReply(status=0, sense=b"", data=b"")
    port = Canned({0x03: [quiet], 0x00: [ScsiReply(status=2, sense=b"", data=b"")]})
    assert ScsiDrive(port).standing().condition is Condition.BROKEN


# --- whatever a drive says

PARSERS: list[Callable[[bytes], Any]] = [
    scsidata.parse_inquiry, scsidata.parse_designators, scsidata.parse_block_limits,
    scsidata.parse_characteristics, scsidata.parse_provisioning, scsidata.parse_capacity,
    scsidata.parse_support, scsidata.parse_keys,
    lambda data: scsidata.page_body(0x80, data),
    lambda data: scsidata.parse_defects(data, long=True),
    lambda data: scsidata.parse_defects(data, long=False),
    lambda data: scsidata.parse_write_protected(data, long=True),
    lambda data: scsidata.parse_write_protected(data, long=False),
]  # fmt: skip


@given(data=st.binary(max_size=300), parser=st.sampled_from(PARSERS))
def test_no_bytes_make_a_reader_stumble(data: bytes, parser: Callable[[bytes], Any]) -> None:
    try:
        parser(data)
    except DeviceError as error:
        assert error.code == "bad_answer"  # noqa: PT017 - most bytes are read


REPLIES = st.builds(
    ScsiReply,
    status=st.sampled_from([0, 0, 2, 8, 0x18, 0x40]),
    sense=st.binary(max_size=64)
    | st.builds(fixed, st.integers(0, 15), st.integers(0, 255), st.integers(0, 255)),
    data=st.binary(max_size=256),
    transport=st.sampled_from([0, 0, 0, 0x0100]),
)
QUESTIONS = [
    name
    for name, member in inspect.getmembers(ScsiDrive, inspect.isfunction)
    if not name.startswith("_") and len(inspect.signature(member).parameters) == 1
]


@given(replies=st.lists(REPLIES, min_size=1, max_size=4), question=st.sampled_from(QUESTIONS))
def test_no_answer_makes_a_question_stumble(replies: list[ScsiReply], question: str) -> None:
    class Mixed(Canned):
        def command(self, cdb: bytes, **_: Any) -> ScsiReply:
            self.sent.append(cdb)
            return replies[len(self.sent) % len(replies)]

    port = Mixed({})
    with contextlib.suppress(DeviceError):
        getattr(ScsiDrive(port), question)()
    assert len(port.sent) <= 24
