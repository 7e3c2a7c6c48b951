"""Executing plans on disks in memory: what lies, fails, vanishes or is interrupted is never called erased."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from fakes.disks import (
    Bench,
    CannotBeRead,
    ErasesHalf,
    FailsHalfway,
    KeepsNothing,
    KeepsOneBlock,
    MemoryDisk,
    ShowsCanaryOnce,
    SkipsLastBlock,
    medium,
    nvme_medium,
)
from fakes.reporting import ToldReporter
from teeth_agent.erase.capabilities import NvmeCapabilities
from teeth_agent.erase.execute import execute
from teeth_agent.erase.hidden import Hidden, State
from teeth_agent.erase.model import Outcome
from teeth_agent.erase.plan import Probes, plan_erase
from teeth_agent.erase.policy import Policy, Verification
from teeth_agent.erase.protect import Facts
from teeth_agent.errors import DeviceError, ToolError
from teeth_agent.run import Completed
from teeth_agent.tools.nvme import Controller

FORMATS = NvmeCapabilities(format=True)
CONTROLLER = Controller(name="nvme0", oacs=2, fna=0, sanicap=0, total_capacity=0, unallocated_capacity=0)


def can(capabilities, name="nvme0n1"):
    return Probes(facts={name: Facts(capabilities=capabilities)})


def erase(bench, *, policy=None, probes=None, reporter=None):
    plan = plan_erase(bench.media, policy or Policy(), probes or Probes())
    return execute(plan, bench.world(), bench.kernel_log(), reporter or ToldReporter())


def one(disk, **changes):
    return Bench([disk], [medium("sda", **changes)])


def test_an_honest_disk_is_cleared_with_all_six_proofs():
    disk = MemoryDisk("sda")
    (record,) = erase(one(disk))
    assert record.outcome is Outcome.CLEARED
    assert record.rung.name == "overwrite"
    assert record.known_zero
    assert disk.content == bytes(disk.size)
    assert disk.partitions_read == 1
    proof = record.to_json()["proof"]
    assert proof["identity"] == {"unchanged": True, "changes": []}
    assert proof["device_status"] == {"completed": True, "bytes_written": disk.size, "flushed": True}
    assert proof["canaries"] == {"count": 66, "survived": 0}
    assert proof["readback"]["kind"] == "full"
    assert proof["readback"]["bytes"] == disk.size
    assert proof["readback"]["mismatches"] == 0
    assert proof["kernel_log"] == {"complete": True, "errors": [], "count": 0}
    assert proof["hidden_areas"]["state"] == "none"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (KeepsNothing, "canary_not_landed"),
        (SkipsLastBlock, "canary_not_landed"),
        (ErasesHalf, "canary_survived"),
        (KeepsOneBlock, "canary_survived"),
        (ShowsCanaryOnce, "canary_survived"),
        (FailsHalfway, "write_failed"),
        (CannotBeRead, "read_failed"),
    ],
)
def test_a_lying_or_failing_disk_is_never_called_erased(kind, code):
    (record,) = erase(one(kind("sda")))
    assert (record.outcome, record.code) == (Outcome.FAILED, code)
    assert record.grade is None
    assert not record.known_zero


def test_remains_that_no_canary_meets_are_found_by_the_full_read_back():
    class KeepsOneSector(MemoryDisk):
        def store(self, offset, data):
            super().store(offset, data)
            if len(data) > 4096 and offset == 3 << 20:
                self.content[(3 << 20) + 700] = 1

    (record,) = erase(one(KeepsOneSector("sda")))
    assert (record.outcome, record.code) == (Outcome.FAILED, "not_zero")
    assert str((3 << 20) + 700) in record.reason


def test_zeros_that_the_disk_cannot_get_out_of_its_cache_are_no_erase():
    class CannotFlushZeros(MemoryDisk):
        def flush(self):
            if self.written >= self.size:
                raise DeviceError(f"{self.path}: flush failed", code="write_failed")

    (record,) = erase(one(CannotFlushZeros("sda")))
    assert (record.outcome, record.code) == (Outcome.FAILED, "write_failed")


@pytest.mark.parametrize("change", [{"diskseq": 4}, {"size": 4 << 20}, {"serial": "OTHER"}])
def test_a_disk_that_is_another_one_afterwards_is_not_erased(change):
    bench = one(MemoryDisk("sda"))
    looks = iter([bench.media])
    bench.look = lambda: next(looks, (replace(bench.media[0], **change),))
    (record,) = erase(bench)
    assert (record.outcome, record.code) == (Outcome.FAILED, "identity_changed")


def test_a_disk_that_vanished_is_not_erased():
    bench = one(MemoryDisk("sda"))
    looks = iter([bench.media])
    bench.look = lambda: next(looks, ())
    (record,) = erase(bench)
    assert (record.outcome, record.code) == (Outcome.FAILED, "identity_changed")
    assert "gone" in record.reason


def test_a_disk_that_came_into_use_since_the_plan_is_not_written():
    disk = MemoryDisk("sda")
    bench = one(disk)
    bench.look = lambda: (replace(bench.media[0], in_use=("sda1 is mounted at /mnt",)),)
    (record,) = erase(bench)
    assert (record.outcome, record.code) == (Outcome.FAILED, "in_use")
    assert disk.written == 0


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ([b"3,1,5,-;I/O error, dev sda, sector 100 op 0x0:(READ)"], "kernel_log"),
        ([b"4,1,5,-;sd 2:0:0:0: [sda] tag#1 Sense Key : Medium Error [current]"], "kernel_log"),
        ([OSError(errno.EPIPE, "overwritten")], "kernel_log_incomplete"),
        ([OSError(errno.EIO, "broken")], "kernel_log_incomplete"),
    ],
)
def test_what_the_kernel_says_of_the_disk_counts(records, code):
    bench = one(MemoryDisk("sda"))
    bench.records = list(records)
    (record,) = erase(bench)
    assert (record.outcome, record.code) == (Outcome.FAILED, code)


@pytest.mark.parametrize("state", [State.FOUND, State.UNKNOWN])
def test_a_hidden_area_is_no_success(state):
    bench = one(MemoryDisk("sda"))
    bench.hidden = Hidden(state=state, reason="10 of 20 sectors are accessible")
    (record,) = erase(bench)
    assert (record.outcome, record.code) == (Outcome.FAILED, "hidden_area")


def test_partitions_that_the_kernel_still_has_are_no_success():
    bench = one(MemoryDisk("sda"), partitions=("sda1",))
    (record,) = erase(bench)
    assert (record.outcome, record.code) == (Outcome.FAILED, "stale_partitions")


def test_one_failure_never_stops_the_others():
    names = ["sda", "sdb", "sdc", "sdd"]
    kinds = [MemoryDisk, FailsHalfway, KeepsNothing, MemoryDisk]

    class Breaks(MemoryDisk):
        def flush(self):
            raise RuntimeError("a bug of ours")

    disks = [kind(name) for kind, name in zip(kinds, names, strict=True)] + [Breaks("sde")]
    media = [medium(name) for name in [*names, "sde"]]
    records = erase(Bench(disks, media))
    assert [record.outcome for record in records] == [
        Outcome.CLEARED,
        Outcome.FAILED,
        Outcome.FAILED,
        Outcome.CLEARED,
        Outcome.FAILED,
    ]
    assert records[4].code == "internal_error"


def test_a_busy_moment_is_waited_out_and_a_held_disk_is_refused():
    bench = one(MemoryDisk("sda"))
    bench.busy = {"/dev/sda": 3}
    assert erase(bench)[0].outcome is Outcome.CLEARED
    bench = one(MemoryDisk("sda"))
    bench.busy = {"/dev/sda": 10_000}
    (record,) = erase(bench)
    assert (record.outcome, record.code) == (Outcome.FAILED, "device_busy")


def test_cancelling_interrupts_and_says_so():
    (record,) = erase(one(MemoryDisk("sda")), reporter=ToldReporter(cancel_after=4))
    assert (record.outcome, record.code) == (Outcome.INTERRUPTED, "cancelled")


def test_two_paths_to_one_medium_are_erased_once_and_read_through_both():
    disk = MemoryDisk("sda")
    bench = Bench([disk], [medium("sda", wwn="0x5"), medium("sdb", wwn="0x5")])
    bench.disks["/dev/sdb"] = disk
    (record,) = erase(bench)
    assert record.outcome is Outcome.CLEARED
    assert disk.written < 2 * disk.size


def test_the_kernel_looks_for_partitions_by_every_path():
    disk = MemoryDisk("sda")
    bench = Bench([disk], [medium(name, wwn="0x5", partitions=(f"{name}1",)) for name in ("sda", "sdb")])
    paths = {path: SamePlace(disk) for path in ("/dev/sda", "/dev/sdb")}
    bench.disks.update(paths)

    def look():
        return tuple(
            replace(one, partitions=() if paths[one.devnode].partitions_read else one.partitions)
            for one in bench.media
        )

    bench.look = look
    (record,) = erase(bench)
    assert (record.outcome, record.code) == (Outcome.CLEARED, "")


class SamePlace(MemoryDisk):
    """Another path to a disk: its content, a partition table of the kernel's own."""

    def __init__(self, disk):
        super().__init__("other")
        self.content = disk.content


def test_two_disks_that_claim_to_be_one_are_both_not_erased():
    bench = Bench(
        [MemoryDisk("sda"), MemoryDisk("sdb")], [medium("sda", wwn="0x5"), medium("sdb", wwn="0x5")]
    )
    (record,) = erase(bench)
    assert (record.outcome, record.code) == (Outcome.FAILED, "paths_disagree")


def nvme_bench(disk, media=None):
    bench = Bench([disk], media or [nvme_medium("nvme0")])
    sent = []

    def format_namespace(devnode, secure_erase):
        sent.append((devnode, secure_erase))
        bench.disks[devnode].format(secure_erase)
        return Completed(argv=(), returncode=0, stdout="Success", stderr="")

    bench.format_namespace = format_namespace
    bench.identify_controller = lambda name: CONTROLLER
    return bench, sent


def test_an_nvme_format_that_proves_itself_is_enough():
    disk = MemoryDisk("nvme0n1")
    bench, sent = nvme_bench(disk)
    (record,) = erase(bench, probes=can(FORMATS))
    assert (record.outcome, record.rung.name) == (Outcome.CLEARED, "nvme_format_user_data")
    assert sent == [("/dev/nvme0n1", 1)]
    assert disk.written < 1 << 20  # only canaries
    assert record.commands == ["nvme format /dev/nvme0n1 --ses=1 --force --timeout=21600000"]


def test_every_namespace_is_formatted_and_proven():
    media = [nvme_medium("nvme0", 1), nvme_medium("nvme0", 2)]
    bench, sent = nvme_bench(MemoryDisk("nvme0n1"), media)
    bench.disks["/dev/nvme0n2"] = MemoryDisk("nvme0n2")
    (record,) = erase(bench, probes=can(FORMATS))
    assert record.outcome is Outcome.CLEARED
    assert [devnode for devnode, _ in sent] == ["/dev/nvme0n1", "/dev/nvme0n2"]
    assert record.to_json()["proof"]["canaries"]["count"] == 132


def test_crypto_erase_comes_first_and_is_a_purge():
    crypto = replace(FORMATS, format_crypto=True)
    bench, sent = nvme_bench(MemoryDisk("nvme0n1"))
    (record,) = erase(bench, probes=can(crypto))
    assert (record.outcome, record.rung.name) == (Outcome.PURGED, "nvme_format_crypto")
    assert sent == [("/dev/nvme0n1", 2)]


def test_a_format_that_leaves_data_falls_to_the_next_rung():
    class FormatsNothing(MemoryDisk):
        def format(self, secure_erase):
            pass

    reporter = ToldReporter()
    bench, _ = nvme_bench(FormatsNothing("nvme0n1"))
    (record,) = erase(bench, probes=can(FORMATS), reporter=reporter)
    assert (record.outcome, record.rung.name) == (Outcome.CLEARED, "overwrite")
    assert [attempt["code"] for attempt in record.attempts] == ["canary_survived", ""]
    percents = [call["unit_percent"] for call in reporter.progress_calls]
    assert percents == sorted(percents)


def test_a_format_that_the_drive_refuses_falls_to_the_next_rung():
    bench, _ = nvme_bench(MemoryDisk("nvme0n1"))

    def refuse(devnode, secure_erase):
        raise ToolError("nvme ended with 1: NVMe status: Invalid Format")

    bench.format_namespace = refuse
    (record,) = erase(bench, probes=can(FORMATS))
    assert (record.outcome, record.rung.name) == (Outcome.CLEARED, "overwrite")
    assert record.attempts[0]["code"] == "tool_failed"


def test_sampling_reads_less_and_does_not_make_a_disk_known_zero():
    disk = MemoryDisk("nvme0n1", size=64 << 20)
    bench, _ = nvme_bench(disk, [nvme_medium("nvme0", size=disk.size)])
    (record,) = erase(bench, policy=Policy(verification=Verification.SAMPLED), probes=can(FORMATS))
    assert record.outcome is Outcome.CLEARED
    readback = record.to_json()["proof"]["readback"]
    assert readback["kind"] == "sampled"
    assert 0.1 * disk.size <= readback["bytes"] <= 0.2 * disk.size
    assert not record.known_zero


def test_progress_names_unit_step_rate_and_ends_at_a_hundred():
    reporter = ToldReporter()
    erase(Bench([MemoryDisk("sda"), MemoryDisk("sdb")], [medium("sda"), medium("sdb")]), reporter=reporter)
    calls = reporter.progress_calls
    assert {call["unit"] for call in calls} == {"S-sda", "S-sdb"}
    assert {call["step"] for call in calls} == {"canaries", "overwrite", "verify", "done"}
    assert calls[-1]["percent"] == 100.0
    assert calls[-1]["eta"] == 0.0
    for name in ("S-sda", "S-sdb"):
        mine = [call["unit_percent"] for call in calls if call["unit"] == name]
        assert mine == sorted(mine)
        assert mine[-1] == 100.0
    assert any(call["bytes_per_second"] for call in calls)


def test_what_the_plan_leaves_alone_is_recorded_and_not_touched():
    used, locked = MemoryDisk("sda"), MemoryDisk("sdb")
    bench = Bench([used, locked], [medium("sda", in_use=("sda is held by md0",)), medium("sdb")])
    policy = Policy(exclude=frozenset({"S-sdb"}), expected=frozenset({"S-sda", "S-sdb", "S-gone"}))
    records = erase(bench, policy=policy)
    assert [(record.outcome, record.code) for record in records] == [
        (Outcome.FAILED, "in_use"),
        (Outcome.EXCLUDED, "excluded_by_command"),
        (Outcome.FAILED, "disk_missing"),
    ]
    assert used.written == locked.written == 0
