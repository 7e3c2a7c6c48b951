"""Executing plans on disks in memory: what lies, fails, vanishes or is interrupted is never called erased."""

from __future__ import annotations

import errno
import random
import threading
from dataclasses import replace

import pytest

from fakes.disks import (
    Bench,
    CannotBeRead,
    ErasesHalf,
    FailsHalfway,
    FakeErase,
    KeepsNothing,
    KeepsOneBlock,
    MemoryDisk,
    ShowsCanaryOnce,
    SkipsLastBlock,
    medium,
    nvme_medium,
)
from fakes.reporting import ToldReporter
from teeth_agent.erase import execute as execution
from teeth_agent.erase.capabilities import AtaCapabilities, AtaSecurity, NvmeCapabilities, Sanitizes
from teeth_agent.erase.execute import execute
from teeth_agent.erase.hidden import Hidden, State
from teeth_agent.erase.methods import State as Standing
from teeth_agent.erase.model import Extent, Outcome, Unit
from teeth_agent.erase.plan import Probes, plan_erase
from teeth_agent.erase.policy import Policy, Verification
from teeth_agent.erase.protect import Facts
from teeth_agent.errors import DeviceError

FORMATS = NvmeCapabilities(format=True)


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
    assert proof["canaries"]["count"] == 70
    assert proof["canaries"]["survived"] == 0
    assert proof["canaries"]["second_looks"][0]["returned"] == []
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
    class Speaks(MemoryDisk):
        def reread_partitions(self):
            bench.records += records

    bench = one(Speaks("sda"))
    (record,) = erase(bench)
    assert (record.outcome, record.code) == (Outcome.FAILED, code)


def test_what_the_kernel_said_before_is_of_no_account():
    bench = one(MemoryDisk("sda"))
    bench.records = [b"3,1,5,-;I/O error, dev sda, sector 100 op 0x0:(READ)"]
    assert erase(bench)[0].outcome is Outcome.CLEARED


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


def nvme_bench(disk, media=None, erases=None):
    """A bench on which the drive erases by itself; ``sent`` are the methods that were asked of it."""
    bench = Bench([disk], media or [nvme_medium("nvme0")])
    sent = []

    def make(method, unit):
        sent.append(method.value)
        return erases or FakeErase(list(bench.disks.values()))

    bench.erases = make
    return bench, sent


def test_an_erase_by_the_drive_that_proves_itself_is_enough():
    disk = MemoryDisk("nvme0n1")
    bench, sent = nvme_bench(disk)
    (record,) = erase(bench, probes=can(FORMATS))
    assert (record.outcome, record.rung.name) == (Outcome.CLEARED, "nvme_format_user_data")
    assert sent == ["nvme_format_user_data"]
    assert disk.written < 1 << 20  # only canaries
    assert record.commands == ["erase"]
    status = record.to_json()["proof"]["device_status"]
    assert status == {"completed": True, "nvme_format_user_data": {"last_poll": {"raw": "00"}, "raw": "00"}}


def test_every_namespace_is_proven():
    media = [nvme_medium("nvme0", 1), nvme_medium("nvme0", 2)]
    bench, sent = nvme_bench(MemoryDisk("nvme0n1"), media)
    bench.disks["/dev/nvme0n2"] = MemoryDisk("nvme0n2")
    (record,) = erase(bench, probes=can(FORMATS))
    assert record.outcome is Outcome.CLEARED
    assert len(sent) == 1
    assert record.to_json()["proof"]["canaries"]["count"] == 140


def test_crypto_then_block_is_one_rung_and_a_purge():
    bench, sent = nvme_bench(MemoryDisk("nvme0n1"))
    both = NvmeCapabilities(sanitizes=Sanitizes(crypto=True, block=True))
    (record,) = erase(bench, probes=can(both))
    assert record.outcome is Outcome.PURGED
    assert record.rung.name == "nvme_sanitize_crypto+nvme_sanitize_block"
    assert sent == ["nvme_sanitize_crypto", "nvme_sanitize_block"]
    assert bench.allowed_exits == [True, True]


class KeepsAll(MemoryDisk):
    """Says that it erased, and did nothing."""

    def erase(self):
        pass


def test_an_erase_that_leaves_data_falls_to_the_next_rung():
    reporter = ToldReporter()
    bench, _ = nvme_bench(KeepsAll("nvme0n1"))
    (record,) = erase(bench, probes=can(FORMATS), reporter=reporter)
    assert (record.outcome, record.rung.name) == (Outcome.CLEARED, "overwrite")
    assert [attempt["code"] for attempt in record.attempts] == ["canary_survived", ""]
    percents = [call["unit_percent"] for call in reporter.progress_calls]
    assert percents == sorted(percents)


def test_without_fallback_the_first_rung_decides():
    bench, _ = nvme_bench(KeepsAll("nvme0n1"))
    (record,) = erase(bench, policy=Policy(fallback=False), probes=can(FORMATS))
    assert (record.outcome, record.code) == (Outcome.FAILED, "canary_survived")


def test_an_erase_that_the_drive_refuses_falls_to_the_next_rung():
    refuses = FakeErase([])
    refuses.refusal = DeviceError("invalid format", code="refused")
    bench, _ = nvme_bench(MemoryDisk("nvme0n1"), erases=refuses)
    (record,) = erase(bench, probes=can(FORMATS))
    assert (record.outcome, record.rung.name) == (Outcome.CLEARED, "overwrite")
    assert record.attempts[0]["code"] == "refused"
    assert refuses.abandoned == 1


def test_the_drive_s_own_word_for_its_end_is_asked_for():
    disk = MemoryDisk("nvme0n1")
    erases = FakeErase([disk])
    erases.incomplete = DeviceError("its log tells of another command", code="not_completed")
    bench, _ = nvme_bench(disk, erases=erases)
    (record,) = erase(bench, policy=Policy(fallback=False), probes=can(FORMATS))
    assert (record.outcome, record.code) == (Outcome.FAILED, "not_completed")


SANITIZED = NvmeCapabilities(sanitizes=Sanitizes(block=True))


def test_a_failed_sanitize_is_given_back_and_the_next_rung_climbed():
    fails = FakeErase([], [0.5, Standing.FAILED])
    bench, _ = nvme_bench(MemoryDisk("nvme0n1"), erases=fails)
    (record,) = erase(bench, probes=can(SANITIZED))
    assert (record.outcome, record.rung.name) == (Outcome.CLEARED, "overwrite")
    assert fails.abandoned == 1


def test_a_failed_sanitize_stays_fenced_when_the_command_wants_it():
    fails = FakeErase([], [Standing.FAILED])
    bench, _ = nvme_bench(MemoryDisk("nvme0n1"), erases=fails)
    (record,) = erase(bench, policy=Policy(fence=True), probes=can(SANITIZED))
    assert (record.outcome, record.code) == (Outcome.FENCED, "fenced")
    assert fails.abandoned == 0
    assert bench.allowed_exits == [False]


def test_a_drive_left_locked_ends_the_ladder_with_the_password_in_the_record():
    locked = FakeErase([], [Standing.FAILED])
    locked.left = DeviceError("/dev/sda stays locked: TEETHERASE opens it", code="drive_left_locked")
    bench = Bench([MemoryDisk("sda")], [medium("sda", transport="sata")])
    bench.erases = lambda method, unit: locked
    probes = can(AtaCapabilities(security=AtaSecurity(supported=True)), "sda")
    reporter = ToldReporter()
    (record,) = erase(bench, probes=probes, reporter=reporter)
    assert (record.outcome, record.code) == (Outcome.LOCKED, "drive_left_locked")
    assert "TEETHERASE" in record.reason
    assert reporter.logs[-1]["level"] == "critical"


def test_a_drive_that_gives_zeros_until_it_is_written_to_is_found_out():
    class ReadsZero(KeepsAll):
        hides = False

        def erase(self):
            self.hides = True

        def store(self, offset, data):
            self.hides = False
            super().store(offset, data)

        def read_into(self, offset, buffer):
            super().read_into(offset, buffer)
            if self.hides:
                buffer[:] = bytes(len(buffer))

    bench, _ = nvme_bench(ReadsZero("nvme0n1"))
    (record,) = erase(bench, policy=Policy(fallback=False), probes=can(FORMATS))
    assert (record.outcome, record.code) == (Outcome.FAILED, "content_returned")


def test_an_overwrite_on_top_makes_up_for_a_drive_that_gives_zeros_from_its_cache():
    class FromCache(KeepsAll):
        def __init__(self, name):
            super().__init__(name)
            self.masked = set()

        def erase(self):
            self.masked = set(range(0, self.size, 512))

        def store(self, offset, data):
            self.masked -= set(range(offset, offset + len(data), 512))
            super().store(offset, data)

        def read_into(self, offset, buffer):
            super().read_into(offset, buffer)
            for at in range(0, len(buffer), 512):
                if offset + at in self.masked:
                    buffer[at : at + 512] = bytes(512)

    disk = FromCache("nvme0n1")
    bench, _ = nvme_bench(disk)
    policy = Policy(verification=Verification.OVERWRITE)
    (record,) = erase(bench, policy=policy, probes=can(SANITIZED))
    assert (record.outcome, record.rung.name) == (Outcome.PURGED, "nvme_sanitize_block+overwrite")
    assert record.known_zero
    assert not any(disk.content)


def test_an_overwrite_on_top_does_not_hide_an_erase_that_did_nothing():
    bench, _ = nvme_bench(KeepsAll("nvme0n1"))
    policy = Policy(verification=Verification.OVERWRITE)
    (record,) = erase(bench, policy=policy, probes=can(SANITIZED))
    assert (record.outcome, record.rung.name) == (Outcome.CLEARED, "overwrite")
    assert [attempt["code"] for attempt in record.attempts] == ["canary_survived", ""]


@pytest.mark.parametrize(
    ("fill", "outcome"),
    [
        (lambda size: random.Random(1).randbytes(size), Outcome.PURGED),
        (lambda size: bytes(size), Outcome.PURGED),
        (lambda size: b"\xff" * size, Outcome.PURGED),
        (lambda size: random.Random(1).randbytes(size // 2) + bytes(size // 2), Outcome.PURGED),
        (lambda size: (b"AB" * 256 + bytes(7680)) * (size // 8192), Outcome.FAILED),
    ],
)
def test_after_a_change_of_the_key_anything_but_order_may_be_read(fill, outcome):
    class Crypto(MemoryDisk):
        def erase(self):
            self.content[:] = fill(self.size)

    bench, _ = nvme_bench(Crypto("nvme0n1"))
    probes = can(NvmeCapabilities(sanitizes=Sanitizes(crypto=True)))
    (record,) = erase(bench, policy=Policy(fallback=False), probes=probes)
    assert record.outcome is outcome, record.reason
    assert not record.known_zero or fill(1024) == bytes(1024)


def test_what_was_noise_before_must_not_come_back_as_the_same_noise():
    class KeepsKey(MemoryDisk):
        def __init__(self, name):
            super().__init__(name)
            self.content[:] = random.Random(1).randbytes(self.size)
            self.old = bytes(self.content)

        def erase(self):
            self.content[:] = self.old  # canaries gone, the rest as it was

    bench, _ = nvme_bench(KeepsKey("nvme0n1"))
    probes = can(NvmeCapabilities(sanitizes=Sanitizes(crypto=True)))
    (record,) = erase(bench, policy=Policy(fallback=False), probes=probes)
    assert (record.outcome, record.code) == (Outcome.FAILED, "not_zero")


def test_what_an_interrupted_erase_left_is_seen_to_first_and_recorded():
    bench, _ = nvme_bench(MemoryDisk("nvme0n1"))
    bench.recovered = [{"found": "sanitizing", "kind": "block"}]
    (record,) = erase(bench, probes=can(FORMATS))
    assert record.outcome is Outcome.CLEARED
    assert record.to_json()["recovered"] == bench.recovered


def test_a_drive_that_is_unplugged_while_it_erases_is_left_alone():
    bench, _ = nvme_bench(MemoryDisk("nvme0n1"), erases=FakeErase([], [0.1]))
    looks = iter([bench.media, bench.media])
    bench.look = lambda: next(looks, ())
    (record,) = erase(bench, policy=Policy(fallback=False), probes=can(SANITIZED))
    assert (record.outcome, record.code) == (Outcome.FAILED, "identity_changed")


def test_cancelling_leaves_a_running_erase_alone_and_says_so():
    runs = FakeErase([], [0.1])
    bench, _ = nvme_bench(MemoryDisk("nvme0n1"), erases=runs)
    (record,) = erase(bench, probes=can(SANITIZED), reporter=ToldReporter(cancel_after=8))
    assert (record.outcome, record.code) == (Outcome.INTERRUPTED, "cancelled")
    assert "goes on" in record.reason
    assert runs.abandoned == 0


def test_an_erase_without_end_fails_at_the_time_limit_and_nothing_else_is_tried():
    bench, sent = nvme_bench(MemoryDisk("nvme0n1"), erases=FakeErase([], [0.1]))
    reporter = ToldReporter()
    policy = Policy(time_limit=7200.0)
    (record,) = erase(bench, policy=policy, probes=can(SANITIZED), reporter=reporter)
    assert (record.outcome, record.code) == (Outcome.FAILED, "time_limit")
    assert sent == ["nvme_sanitize_block"]
    assert [log["event"] for log in reporter.logs].count("erase_stalled") == 1


def test_a_drive_that_hangs_does_not_hold_up_the_others(monkeypatch):
    hangs, release = threading.Event(), threading.Event()

    class Hangs(MemoryDisk):
        def flush(self):
            hangs.set()
            release.wait(30)

    monkeypatch.setattr(execution, "_HANGS_SECONDS", 0.0)
    monkeypatch.setattr(execution, "_TURN_SECONDS", 0.05)
    bench = Bench([Hangs("sda")], [medium("sda")])
    try:
        (record,) = erase(bench)
    finally:
        release.set()
    assert (record.outcome, record.code) == (Outcome.FAILED, "drive_hangs")
    assert "canaries" in record.reason


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
    assert {call["step"] for call in calls} == {"recover", "canaries", "overwrite", "verify", "done"}
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


def test_a_look_from_before_a_unit_was_opened_up_does_not_end_its_erase():
    bench = one(MemoryDisk("sda"))
    (medium,) = bench.media
    unit = Unit(key="S", extents=(Extent(paths=(medium,)),))
    watch = execution._Watch(replace(bench.world(), clock=lambda: 1.0))
    assert watch.gone(unit) == ""
    grown = replace(medium, size=medium.size * 2, diskseq=9)
    bench.look = lambda: (grown,)
    assert watch.gone(Unit(key="S", extents=(Extent(paths=(grown,)),))) == ""
    assert "not the same" in watch.gone(unit)
