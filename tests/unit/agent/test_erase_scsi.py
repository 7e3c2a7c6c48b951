"""SANITIZE and FORMAT UNIT on simulated SCSI drives: begun, polled, proven, adopted, given up."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.ata_port import RigPort
from fakes.drive_rig import Rig
from teeth_agent.drives.scsi import Action, ScsiDrive
from teeth_agent.erase.methods import State
from teeth_agent.erase.methods.leftover import Left
from teeth_agent.erase.methods.scsi import recover, scsi_erase, under_way
from teeth_agent.erase.model import Method
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough.scsi import ScsiReply

SANITIZES = (Method.SCSI_SANITIZE_CRYPTO, Method.SCSI_SANITIZE_BLOCK, Method.SCSI_SANITIZE_OVERWRITE)
METHODS = (*SANITIZES, Method.SCSI_FORMAT)


class Bench:
    def __init__(self, *lies: str, **spec: Any) -> None:
        self.rig = Rig("scsi", **spec).lie(*lies)
        self.port = RigPort(self.rig)
        self.drive = ScsiDrive(self.port, device="/dev/sda")

    def erase(self, method: Method, **parts: Any) -> Any:
        return scsi_erase(method, self.drive, **parts)

    def passes(self, seconds: float) -> None:
        self.rig.now += seconds


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("descriptor_sense", [False, True])
def test_an_erase_from_begin_to_end(method: Method, descriptor_sense: bool) -> None:
    bench = Bench(descriptor_sense=descriptor_sense)
    erase = bench.erase(method)
    assert not erase.adopt()
    erase.start()
    assert erase.estimate == 43200
    bench.passes(4)
    poll = erase.poll()
    assert (poll.state, round(poll.fraction, 1)) == (State.RUNNING, 0.4)
    bench.passes(7)
    poll = erase.poll()
    assert (poll.state, poll.fraction) == (State.DONE, 1.0)
    word = erase.complete()
    assert word["condition"] == "ready"
    assert word["seen_working"]
    assert not word["adopted"]
    json.dumps([word, poll.evidence])
    erase.abandon()
    assert bench.rig.marked(0, bench.rig.spec.blocks) == []
    (line,) = erase.commands
    assert line.startswith("cdb 04 10" if method is Method.SCSI_FORMAT else "cdb 48 8")


@pytest.mark.parametrize("method", SANITIZES)
def test_a_sanitize_that_fails_stays_fenced_where_the_policy_says_so(method: Method) -> None:
    bench = Bench("sanitize-fails:50")
    erase = bench.erase(method)
    erase.start()
    bench.passes(11)
    assert erase.poll().state is State.FAILED
    with pytest.raises(DeviceError) as caught:
        erase.complete()
    assert caught.value.code == "not_completed"
    with pytest.raises(DeviceError) as caught:
        erase.abandon()
    assert caught.value.code == "fenced"
    assert len(bench.port.orders(0x48)) == 1
    # Only another sanitize gets it out of that; one that could be left is not taken.
    bench.rig.drive.disk.remove("sanitize-fails")
    erase = bench.erase(Method.SCSI_SANITIZE_BLOCK, exit_allowed=True)
    assert not erase.adopt()
    erase.start()
    assert [cdb[1] for cdb, _ in bench.port.orders(0x48)][1:] == [0xA2, 0x82]
    bench.passes(11)
    assert erase.poll().state is State.DONE


def test_a_sanitize_that_fails_is_left_where_the_policy_allows_it() -> None:
    bench = Bench("sanitize-fails:50")
    erase = bench.erase(Method.SCSI_SANITIZE_BLOCK, exit_allowed=True)
    erase.start()
    bench.passes(11)
    assert erase.poll().state is State.FAILED
    erase.abandon()
    assert [cdb[1] for cdb, _ in bench.port.orders(0x48)] == [0xA2, 0x1F]
    assert bench.drive.test_unit_ready() is None


def test_a_drive_that_does_not_let_itself_be_left_is_fenced_all_the_same() -> None:
    bench = Bench("sanitize-fails:50")
    bench.erase(Method.SCSI_SANITIZE_BLOCK).start()
    bench.passes(11)
    with pytest.raises(DeviceError) as caught:
        bench.erase(Method.SCSI_SANITIZE_BLOCK, exit_allowed=True).abandon()
    assert caught.value.code == "fenced"


def test_a_sanitize_under_way_is_adopted_only_by_who_began_it() -> None:
    bench = Bench()
    bench.erase(Method.SCSI_SANITIZE_BLOCK).start()
    bench.passes(3)
    stranger = bench.erase(Method.SCSI_SANITIZE_BLOCK)
    assert not stranger.adopt()
    with pytest.raises(DeviceError) as caught:
        stranger.start()
    assert caught.value.code == "sanitize_running"
    with pytest.raises(DeviceError) as caught:
        stranger.abandon()
    assert caught.value.code == "still_running"
    assert len(bench.port.orders(0x48)) == 1
    found = under_way(bench.drive)
    assert found is not None
    mine = bench.erase(Method.SCSI_SANITIZE_BLOCK, ours=True)
    assert mine.adopt()
    assert mine.estimate == 43200
    bench.passes(8)
    for erase in (found, mine):
        assert erase.poll().state is State.DONE
        assert erase.complete()["adopted"]
    assert under_way(bench.drive) is None


def test_a_sanitize_goes_on_after_a_power_cut() -> None:
    bench = Bench()
    bench.erase(Method.SCSI_SANITIZE_OVERWRITE).start()
    bench.passes(3)
    bench.rig.drive.power_cycle()
    assert recover(bench.drive).left is Left.SANITIZING
    erase = bench.erase(Method.SCSI_SANITIZE_OVERWRITE, ours=True)
    assert erase.adopt()
    bench.passes(11)
    assert erase.poll().state is State.DONE
    assert bench.rig.marked() == []


def test_a_format_under_way_is_adopted_and_one_cut_short_has_failed() -> None:
    bench = Bench()
    bench.erase(Method.SCSI_FORMAT).start()
    bench.passes(3)
    erase = bench.erase(Method.SCSI_FORMAT)
    assert erase.adopt()
    with pytest.raises(DeviceError) as caught:
        bench.erase(Method.SCSI_SANITIZE_BLOCK).start()
    assert caught.value.code == "format_running"
    found = recover(bench.drive)
    assert (found.left, found.kind, found.running) == (Left.FORMATTING, "format", True)
    bench.rig.drive.power_cycle()
    assert erase.poll().state is State.FAILED
    with pytest.raises(DeviceError) as caught:
        erase.abandon()
    assert caught.value.code == "format_failed"
    assert recover(bench.drive).left is Left.FORMAT_FAILED
    again = bench.erase(Method.SCSI_FORMAT)
    assert not again.adopt()
    again.start()
    bench.passes(11)
    assert again.poll().state is State.DONE
    again.complete()


def test_a_unit_that_does_not_answer_has_neither_failed_nor_succeeded() -> None:
    bench = Bench()
    erase = bench.erase(Method.SCSI_SANITIZE_BLOCK)
    erase.start()
    bench.port.gone = True
    for ask in (erase.poll, erase.complete):
        with pytest.raises(DeviceError) as caught:
            ask()
        assert caught.value.code == "no_answer"


@pytest.mark.parametrize("method", METHODS)
def test_a_refusal_begins_nothing(method: Method) -> None:
    bench = Bench("read-only")
    erase = bench.erase(method, exit_allowed=True)
    with pytest.raises(DeviceError) as caught:
        erase.start()
    assert caught.value.code == "read_only"
    assert len(erase.commands) == 1
    assert bench.rig.marked()


def test_recovery_finds_what_failed_and_what_did_not() -> None:
    bench = Bench("sanitize-fails:50")
    assert recover(bench.drive).left is Left.NOTHING
    bench.erase(Method.SCSI_SANITIZE_BLOCK).start()
    bench.passes(11)
    found = recover(bench.drive)
    assert (found.left, found.running) == (Left.SANITIZE_FAILED, False)
    assert found.evidence["said"] == "3/31/03"
    assert found.usable
    assert json.loads(json.dumps(found.to_json()))["left"] == "sanitize_failed"


# --- whatever a drive says

REPLIES = st.builds(
    ScsiReply,
    status=st.sampled_from([0, 0, 2, 2, 8, 0x18]),
    sense=st.binary(max_size=40)
    | st.builds(
        lambda key, pair: bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, *pair, 0, 0x80, 1, 1)),
        st.integers(0, 15),
        st.sampled_from([(4, 0x1B), (4, 4), (0x31, 3), (0x31, 0), (0x29, 0), (0x24, 0), (0, 0)]),
    ),
    data=st.binary(max_size=300),
    transport=st.sampled_from([0, 0, 0, 0x0300]),
)


@given(
    replies=st.lists(REPLIES, min_size=1, max_size=8), method=st.sampled_from(METHODS), allowed=st.booleans()
)
def test_whatever_a_drive_answers_an_erase_ends_in_words(
    replies: list[ScsiReply], method: Method, allowed: bool
) -> None:
    class Strange:
        asked = 0

        def command(self, cdb: bytes, **_: Any) -> ScsiReply:
            self.asked += 1
            return replies[self.asked % len(replies)]

    drive = ScsiDrive(Strange())
    erase = scsi_erase(method, drive, exit_allowed=allowed, ours=allowed)
    for step in (erase.adopt, erase.start, erase.poll, erase.complete, erase.abandon):
        with contextlib.suppress(DeviceError):
            step()
    for ask in (recover, under_way):
        with contextlib.suppress(DeviceError):
            ask(drive)
    assert not any("--fail" in line for line in erase.commands) or allowed


def test_only_its_own_methods_are_made() -> None:
    with pytest.raises(KeyError):
        scsi_erase(Method.OVERWRITE, Bench().drive)
    assert set(Action) == {1, 2, 3, 0x1F}
