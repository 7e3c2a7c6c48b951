"""Sanitize and format of NVMe drives, on simulated ones: begun, polled, proven, adopted, given up."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.nvme_port import FORMAT, SANITIZE, NvmeRigPort, Sent
from fakes.nvme_rig import BLOCKS, THREE, TWO, NvmeRig
from teeth.lab.drives.model import Method as DriveMethod
from teeth.lab.drives.nvme import NamespaceSpec
from teeth_agent.drives.nvme import NvmeDrive
from teeth_agent.drives.nvmedata import Action, SecureErase
from teeth_agent.erase.methods import State
from teeth_agent.erase.methods.leftover import Left
from teeth_agent.erase.methods.nvme import NvmeSanitize, nvme_erase, recover, under_way
from teeth_agent.erase.methods.nvmeformat import NvmeFormat, attach_detached
from teeth_agent.erase.model import Method
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough.nvme import NvmeReply

SANITIZES = (Method.NVME_SANITIZE_CRYPTO, Method.NVME_SANITIZE_BLOCK, Method.NVME_SANITIZE_OVERWRITE)
FORMATS = (Method.NVME_FORMAT_CRYPTO, Method.NVME_FORMAT_USER_DATA)
SPARES = 64


class Bench:
    def __init__(self, *lies: str, **spec: Any) -> None:
        self.rig = NvmeRig(**spec).lie(*lies)
        self.port = NvmeRigPort(self.rig)
        self.drive = NvmeDrive(self.port, device="/dev/nvme0")

    def erase(self, method: Method, **parts: Any) -> Any:
        return nvme_erase(method, self.drive, **parts)

    def passes(self, seconds: float) -> None:
        self.rig.now += seconds
        self.rig.drive.settle()


def run_format(erase: NvmeFormat) -> State:
    erase.start()
    assert erase._thread is not None
    erase._thread.join(30)
    return erase.poll().state


# --- sanitize


@pytest.mark.parametrize("method", SANITIZES)
def test_a_sanitize_from_begin_to_end(method: Method) -> None:
    bench = Bench(namespaces=THREE)
    erase = bench.erase(method)
    erase.start()
    assert erase.estimate == 10
    bench.passes(5)
    poll = erase.poll()
    assert (poll.state, round(poll.fraction, 2)) == (State.RUNNING, 0.5)
    bench.passes(6)
    poll = erase.poll()
    assert (poll.state, poll.fraction) == (State.DONE, 1.0)
    word = erase.complete()
    assert word["state"] == "done"
    assert word["seen_working"]
    assert bytes.fromhex(word["sanitize_log"])[:2] == b"\xff\xff"
    assert bench.rig.marked() == []
    json.dumps([word, poll.evidence])
    erase.abandon()
    assert len(bench.port.orders(SANITIZE)) == 1
    (line,) = erase.commands
    assert line.startswith("admin 84h nsid=0h")
    assert "nvme sanitize /dev/nvme0 --sanact=" in line


def test_an_overwrite_stays_to_be_read_back_where_the_drive_lets_it() -> None:
    bench = Bench()
    bench.erase(Method.NVME_SANITIZE_OVERWRITE).start()
    assert bench.port.orders(SANITIZE) == [Sent(opcode=0x84, nsid=0, cdw10=0x213, cdw11=0)]
    # One that says that it may not be asked for, and one that only refuses it.
    bench = Bench(no_deallocate="inhibited")
    bench.erase(Method.NVME_SANITIZE_OVERWRITE).start()
    assert [sent.cdw10 for sent in bench.port.orders(SANITIZE)] == [0x013]
    bench = Bench()
    bench.port.meddle = lambda sent: (
        NvmeReply(status=0x002, result=0, data=b"")
        if sent.opcode == SANITIZE and sent.cdw10 & 0x200
        else None
    )
    erase = bench.erase(Method.NVME_SANITIZE_OVERWRITE)
    erase.start()
    assert [sent.cdw10 for sent in bench.port.orders(SANITIZE)] == [0x213, 0x013]
    assert len(erase.commands) == 2
    bench.passes(11)
    assert erase.poll().state is State.DONE


def test_the_same_sanitize_again_can_be_told_from_the_first() -> None:
    bench = Bench(erase_seconds=0)
    for expected in (0x002, 0x012, 0x002):
        erase = bench.erase(Method.NVME_SANITIZE_BLOCK)
        erase.start()
        assert bench.port.orders(SANITIZE)[-1].cdw10 == expected
        assert erase.poll().state is State.DONE
        assert erase.complete()["seen_working"] is False


def test_a_log_that_stays_what_it_was_is_no_success() -> None:
    """The drive takes the command, does nothing, and refuses the mark that would show it."""
    bench = Bench(erase_seconds=0)
    bench.erase(Method.NVME_SANITIZE_BLOCK).start()

    def nothing(sent: Sent) -> NvmeReply | None:
        if sent.opcode != SANITIZE:
            return None
        return NvmeReply(status=0x002 if sent.cdw10 & 0xF0 else 0, result=0, data=b"")

    bench.port.meddle = nothing
    erase = bench.erase(Method.NVME_SANITIZE_BLOCK)
    erase.start()
    poll = erase.poll()
    assert poll.state is State.FAILED
    assert "what it was before" in poll.evidence["reason"]
    with pytest.raises(DeviceError, match="what it was before") as caught:
        erase.complete()
    assert caught.value.code == "not_completed"


@pytest.mark.parametrize("method", SANITIZES)
def test_a_log_of_another_command_is_no_success(method: Method) -> None:
    bench = Bench("sanitize-stale-log")
    erase = bench.erase(method)
    erase.start()
    bench.passes(11)
    poll = erase.poll()
    assert poll.state is State.FAILED
    assert "another command" in poll.evidence["reason"]


@pytest.mark.parametrize("status", [0, 5, 6, 7])
def test_states_that_are_no_success(status: int) -> None:
    bench = Bench()
    erase = bench.erase(Method.NVME_SANITIZE_BLOCK)
    erase.start()
    log = bytes((0xFF, 0xFF, status, 1, 2, 0, 0, 0)).ljust(512, b"\0")
    bench.port.meddle = lambda sent: NvmeReply(status=0, result=0, data=log) if sent.opcode == 2 else None
    assert erase.poll().state is State.FAILED
    with pytest.raises(DeviceError):
        erase.complete()


def test_nothing_that_was_not_begun_succeeds() -> None:
    bench = Bench(erase_seconds=0)
    bench.erase(Method.NVME_SANITIZE_BLOCK).start()
    assert bench.erase(Method.NVME_SANITIZE_BLOCK).poll().state is State.FAILED
    assert bench.erase(Method.NVME_FORMAT_CRYPTO).poll().state is State.FAILED


def test_a_sanitize_that_fails_is_left_where_the_policy_allows_it() -> None:
    bench = Bench("sanitize-fails:50")
    erase = bench.erase(Method.NVME_SANITIZE_BLOCK, exit_allowed=True)
    erase.start()
    bench.passes(11)
    poll = erase.poll()
    assert (poll.state, poll.evidence["state"]) == (State.FAILED, "failed")
    assert bench.rig.drive.read(1, 0, 1)[0] == 0x01C
    erase.abandon()
    assert [sent.cdw10 for sent in bench.port.orders(SANITIZE)] == [0x00A, 0x001]
    assert bench.rig.drive.read(1, 0, 1)[0] == 0


def test_a_sanitize_that_fails_stays_fenced_where_the_policy_says_so() -> None:
    bench = Bench("sanitize-fails:50")
    erase = bench.erase(Method.NVME_SANITIZE_BLOCK)
    erase.start()
    bench.passes(11)
    assert erase.poll().state is State.FAILED
    with pytest.raises(DeviceError) as caught:
        erase.abandon()
    assert caught.value.code == "fenced"
    assert [sent.cdw10 for sent in bench.port.orders(SANITIZE)] == [0x002]
    assert bench.rig.drive.read(1, 0, 1)[0] == 0x01C
    # Only another sanitize gets it out of that; one that could be left is not taken.
    bench.rig.drive.disk.remove("sanitize-fails")
    erase = bench.erase(Method.NVME_SANITIZE_CRYPTO, exit_allowed=True)
    erase.start()
    assert [sent.cdw10 for sent in bench.port.orders(SANITIZE)][1:] == [0x00C, 0x004]
    bench.passes(11)
    assert erase.poll().state is State.DONE
    assert bench.rig.drive.read(1, 0, 1)[0] == 0


def test_a_sanitize_that_is_under_way_is_adopted_as_what_it_is() -> None:
    bench = Bench()
    bench.erase(Method.NVME_SANITIZE_BLOCK).start()
    bench.passes(3)
    other = bench.erase(Method.NVME_SANITIZE_CRYPTO)
    assert not other.adopt()
    with pytest.raises(DeviceError) as caught:
        other.start()
    assert caught.value.code == "sanitize_running"
    assert len(bench.port.orders(SANITIZE)) == 1
    with pytest.raises(DeviceError) as caught:
        other.abandon()
    assert caught.value.code == "still_running"
    found = under_way(bench.drive)
    assert found is not None
    assert found.poll().state is State.RUNNING
    same = bench.erase(Method.NVME_SANITIZE_BLOCK)
    assert same.adopt()
    assert same.estimate == 10
    bench.passes(8)
    for erase in (found, same):
        assert erase.poll().state is State.DONE
        assert erase.complete()["adopted"]
    assert under_way(bench.drive) is None
    assert not bench.erase(Method.NVME_SANITIZE_BLOCK).adopt()


def test_a_sanitize_goes_on_after_a_power_cut_and_is_adopted() -> None:
    bench = Bench()
    bench.erase(Method.NVME_SANITIZE_OVERWRITE).start()
    bench.passes(3)
    bench.rig.drive.power_cycle()
    found = recover(bench.drive)
    assert (found.left, found.kind, found.running) == (Left.SANITIZING, "overwrite", True)
    erase = bench.erase(Method.NVME_SANITIZE_OVERWRITE)
    assert erase.adopt()
    bench.passes(11)
    assert erase.poll().state is State.DONE
    assert bench.rig.marked() == []


def test_the_estimate_is_the_drives_own() -> None:
    assert Bench(erase_seconds=7).erase(Method.NVME_SANITIZE_BLOCK).estimate is None
    bench = Bench(erase_seconds=7)
    erase = bench.erase(Method.NVME_SANITIZE_BLOCK)
    erase.start()
    assert erase.estimate == 7


# --- format


@pytest.mark.parametrize("method", FORMATS)
def test_a_format_reaches_every_namespace_and_keeps_its_blocks(method: Method) -> None:
    bench = Bench(namespaces=THREE)
    erase = bench.erase(method)
    assert run_format(erase) is State.DONE
    word = erase.complete()
    assert [done["namespace"] for done in word["formats"]] == [1, 2, 3]
    json.dumps(word)
    ses = 2 if method is Method.NVME_FORMAT_CRYPTO else 1
    # The second has blocks of 4096 bytes, format 1.
    assert bench.port.orders(FORMAT) == [
        Sent(opcode=0x80, nsid=nsid, cdw10=ses << 9 | (nsid == 2), cdw11=0) for nsid in (1, 2, 3)
    ]
    assert [bench.drive.identify_namespace(nsid).block_size for nsid in (1, 2, 3)] == [512, 4096, 512]
    # All that is in a namespace, the detached one too; not what is in none, nor retired blocks.
    assert bench.rig.marked(0, 2048 + 2048 + 1024) == []
    assert bench.rig.marked()
    assert bench.drive.namespaces() == (1, 2, 3)
    assert sum("nvme attach-ns" in line for line in erase.commands) == 1
    assert sum(f"--ses={ses} " in line for line in erase.commands) == 3
    erase.abandon()


def test_a_secure_erase_that_reaches_all_is_sent_once() -> None:
    bench = Bench(namespaces=(NamespaceSpec(blocks=2048), NamespaceSpec(blocks=2048)), erase_all=True)
    erase = bench.erase(Method.NVME_FORMAT_USER_DATA)
    assert run_format(erase) is State.DONE
    assert [sent.nsid for sent in bench.port.orders(FORMAT)] == [1]
    assert bench.rig.marked(0, 4096) == []
    erase.complete()


def test_a_format_that_reaches_all_still_erases_only_one() -> None:
    """FNA bit 0 is about formats; what it says of secure erase stands in bit 1."""
    bench = Bench(namespaces=TWO, format_all=True)
    erase = bench.erase(Method.NVME_FORMAT_USER_DATA)
    assert run_format(erase) is State.DONE
    assert [sent.nsid for sent in bench.port.orders(FORMAT)] == [1, 2]
    assert bench.rig.marked(0, 4096) == []


def test_a_format_that_changed_a_namespace_is_no_success() -> None:
    """FNA bit 0: a format of one brings its block size to all, so the last one's is what all end with."""
    bench = Bench(namespaces=TWO, format_all=True)
    erase = bench.erase(Method.NVME_FORMAT_USER_DATA)
    assert run_format(erase) is State.DONE
    with pytest.raises(DeviceError, match="namespace 1 is not as it was") as caught:
        erase.complete()
    assert caught.value.code == "not_completed"


def test_a_format_is_under_way_until_the_drive_has_answered() -> None:
    bench = Bench(namespaces=TWO)
    bench.port.gate.clear()
    erase = bench.erase(Method.NVME_FORMAT_USER_DATA)
    erase.start()
    assert bench.port.formatting.wait(30)
    assert (erase.poll().state, erase.poll().fraction) == (State.RUNNING, None)
    with pytest.raises(DeviceError) as caught:
        erase.abandon()
    assert caught.value.code == "still_running"
    with pytest.raises(DeviceError):
        erase.complete()
    bench.port.gate.set()
    assert erase._thread is not None
    erase._thread.join(30)
    assert erase.poll().state is State.DONE
    erase.complete()


@pytest.mark.parametrize("status", [0x002, 0x00B, 0x01C, 0x01D, 0x10A, 0x006])
def test_a_format_that_the_drive_refuses_has_failed(status: int) -> None:
    bench = Bench(namespaces=TWO)
    bench.port.meddle = lambda sent: (
        NvmeReply(status=status, result=0, data=b"") if sent.opcode == FORMAT and sent.nsid == 2 else None
    )
    erase = bench.erase(Method.NVME_FORMAT_CRYPTO)
    assert run_format(erase) is State.FAILED
    poll = erase.poll()
    assert f"code {status & 0xFF:02x}h" in poll.evidence["reason"]
    assert poll.evidence["formats"] == [{"namespace": 1, "status": 0}]
    with pytest.raises(DeviceError) as caught:
        erase.complete()
    assert caught.value.code == "not_completed"
    erase.abandon()


def test_a_drive_that_lost_power_in_its_format_has_failed() -> None:
    bench = Bench("power-cut-at-erase:50")
    erase = bench.erase(Method.NVME_FORMAT_USER_DATA)
    assert run_format(erase) is State.FAILED


def test_what_cannot_be_formatted() -> None:
    bench = Bench()
    bench.rig.admin(0x15, nsid=1, cdw10=1, data=bytes((1, 0, 1, 0)).ljust(4096, b"\0"))
    bench.rig.admin(0x0D, nsid=1, cdw10=1)
    with pytest.raises(DeviceError) as caught:
        bench.erase(Method.NVME_FORMAT_USER_DATA).start()
    assert caught.value.code == "no_namespace"
    assert not bench.erase(Method.NVME_FORMAT_USER_DATA).adopt()


def test_detached_namespaces_are_attached_and_stay_so() -> None:
    bench = Bench(namespaces=THREE)
    controller = bench.drive.identify()
    assert controller.manages_namespaces
    assert controller.unvmcap == (BLOCKS - 5120) * 512
    (line,) = attach_detached(bench.drive, controller)
    assert "nvme attach-ns /dev/nvme0 --namespace-id=0x3 --controllers=0x1" in line
    assert bench.drive.namespaces() == (1, 2, 3)
    assert attach_detached(bench.drive, controller) == []
    # A controller without namespace management is not even asked.
    bench = Bench(manages=False)
    assert attach_detached(bench.drive, bench.drive.identify()) == []


# --- the drive as the agent asks it


def test_the_drive_is_read_as_it_is() -> None:
    bench = Bench(namespaces=TWO, sanitizes=frozenset({DriveMethod.SANITIZE_CRYPTO}))
    controller = bench.drive.identify()
    assert controller.serial == "RIG0001"
    assert controller.actions == {Action.CRYPTO}
    assert controller.tnvmcap == BLOCKS * 512
    assert controller.can_crypto_format
    second = bench.drive.identify_namespace(2)
    assert (second.size, second.block_size) == (2048 * 512, 4096)
    assert bench.drive.firmware_log().revisions[0] == "1.00"
    third = Bench(namespaces=THREE).drive.identify_namespace(3, allocated=True)
    assert third.size == 1024 * 512


def test_recovery_finds_nothing_running_and_failed() -> None:
    bench = Bench("sanitize-fails:50")
    assert recover(bench.drive).left is Left.NOTHING
    erase = bench.erase(Method.NVME_SANITIZE_CRYPTO, exit_allowed=True)
    erase.start()
    bench.passes(2)
    found = recover(bench.drive)
    assert (found.left, found.kind, round(found.fraction or 0, 1)) == (Left.SANITIZING, "crypto", 0.2)
    bench.passes(9)
    found = recover(bench.drive)
    assert (found.left, found.kind, found.exit_allowed) == (Left.SANITIZE_FAILED, "crypto", True)
    assert not found.running


def test_recovery_of_a_drive_that_cannot_sanitize() -> None:
    bench = Bench(sanitizes=frozenset())
    assert recover(bench.drive).left is Left.NOTHING
    assert under_way(bench.drive) is None


# --- safety


@given(
    method=st.sampled_from([*SANITIZES, *FORMATS]),
    lies=st.lists(
        st.sampled_from(["accepts-and-keeps", "sanitize-keeps", "format-keeps", "sanitize-fails:30",
                         "sanitize-stale-log", "hides-detached", "format-ignores-ses", "capacity-half",
                         "sprog-full", "never-ends", "success-while-failing"]),
        unique=True, max_size=3,
    ),
    exit_allowed=st.booleans(),
    seconds=st.lists(st.sampled_from([0.0, 1.0, 4.0, 20.0]), max_size=4),
    bits=st.integers(0, 15),
)  # fmt: skip
def test_no_format_without_erasing_reaches_any_drive(
    method: Method, lies: list[str], exit_allowed: bool, seconds: list[float], bits: int
) -> None:
    bench = Bench(
        *lies, namespaces=THREE if bits & 1 else TWO, format_all=bool(bits & 2), erase_all=bool(bits & 4),
        crypto_format=bool(bits & 8), erase_seconds=1.0,
    )  # fmt: skip
    erase = bench.erase(method, exit_allowed=exit_allowed)
    steps = [erase.start, *[erase.poll for _ in seconds], erase.complete, erase.abandon]
    for step, pause in zip(steps, [0.0, *seconds, 0.0, 0.0], strict=True):
        bench.passes(pause)
        try:
            step()
        except DeviceError:
            continue
        finally:
            if isinstance(erase, NvmeFormat) and erase._thread is not None:
                erase._thread.join(30)
    assert all(sent.cdw10 >> 9 & 7 in (1, 2) for sent in bench.port.orders(FORMAT))


@given(answers=st.lists(st.tuples(st.sampled_from([0, 0, 0, 2, 0x1C, 0x1D, 0x109]), st.binary(max_size=600)),
                        min_size=1, max_size=6))  # fmt: skip
def test_whatever_a_drive_answers_an_erase_ends_in_words(answers: list[tuple[int, bytes]]) -> None:
    def answer(sent: Sent) -> NvmeReply:
        status, data = answers[hash(sent) % len(answers)]
        return NvmeReply(status=status, result=0, data=data.ljust(4096, b"\0"))

    for method in (*SANITIZES, *FORMATS):
        bench = Bench()
        bench.port.meddle = answer
        erase = bench.erase(method)
        for step in (erase.adopt, erase.start, erase.poll, erase.complete, erase.abandon):
            with contextlib.suppress(DeviceError):
                step()
            if isinstance(erase, NvmeFormat) and erase._thread is not None:
                erase._thread.join(30)
        assert not any("ses=0" in line for line in erase.commands)


def test_a_secure_erase_that_is_none_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="0 is not a valid"):
        NvmeFormat(Bench().drive, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 is not a valid"):
        NvmeSanitize(Bench().drive, Action(0))
    assert set(SecureErase) == {1, 2}
