"""The task: plan, refusals, the result and what other tasks may know of it. On disks in memory only."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest

from fakes.disks import Bench, FailsHalfway, MemoryDisk, medium
from fakes.machine_disks import disk_at
from fakes.reporting import ToldReporter
from fakes.wiretap import valid
from teeth_agent.erase.plan import Probes
from teeth_agent.erase.policy import read_policy
from teeth_agent.erase.teardown import Block
from teeth_agent.erase.traces import Traces
from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.tasks.context import PreparedDisk, SharedState, TaskContext
from teeth_agent.tasks.disk_erase import Machine, erase

NO_TRACES = Traces(removed=("BootOrder",), failed=(), left=3)


def machine(bench, unaccounted=(), blocks=None, stop=lambda down: (), traces=NO_TRACES):
    return Machine(
        look=lambda: bench.look(),
        wait=lambda policy: None,
        probe=lambda media, reporter: Probes(),
        unaccounted=lambda: tuple(unaccounted),
        blocks=lambda: blocks or {},
        stop=stop,
        remove_traces=lambda: traces,
        world=bench.world(),
        kernel_log=lambda: nullcontext(bench.kernel_log()),
    )


@pytest.fixture
def state():
    return SharedState()


def run(bench, params, state, **more):
    return erase(
        read_policy(params), machine(bench, **more), TaskContext(boot_id="b", state=state), ToldReporter()
    )


def two(first=MemoryDisk, second=MemoryDisk):
    return Bench([first("sda"), second("sdb")], [medium("sda"), medium("sdb")])


def test_a_plan_touches_nothing_and_its_digest_may_be_quoted(state):
    bench = two()
    plan = valid("decom.disk_erase.outcome", run(bench, {"plan": True}, state))["plan"]
    assert [unit["action"] for unit in plan["units"]] == ["erase", "erase"]
    assert all(disk.written == 0 for disk in bench.disks.values())
    result = valid("decom.disk_erase.outcome", run(bench, {"plan_digest": plan["digest"]}, state))
    assert result["complete"]
    assert result["plan_digest"] == plan["digest"]


def test_a_machine_that_changed_since_the_plan_is_not_touched(state):
    bench = two()
    digest = run(bench, {"plan": True}, state)["plan"]["digest"]
    bench.media = (medium("sda"), medium("sdb", diskseq=8))
    with pytest.raises(AgentError) as caught:
        run(bench, {"plan_digest": digest}, state)
    assert caught.value.code == "plan_changed"
    assert all(disk.written == 0 for disk in bench.disks.values())


def test_success_is_one_json_and_makes_the_disks_known_zero(state):
    result = run(two(), {}, state)
    assert result["complete"]
    assert result["required_grade"] == "clear"
    assert [(unit["serial"], unit["outcome"], unit["grade"]) for unit in result["units"]] == [
        ("S-sda", "cleared", "clear"),
        ("S-sdb", "cleared", "clear"),
    ]
    assert len(json.dumps(result)) < 6000
    assert state.is_zero(medium("sda").identity)


def test_a_failed_unit_fails_the_task_and_all_records_come_home(state):
    state.mark_zero(medium("sdb").identity)
    with pytest.raises(AgentError, match="S-sdb: failed") as caught:
        run(two(second=FailsHalfway), {}, state)
    assert caught.value.code == "erase_incomplete"
    detail = caught.value.detail
    assert [unit["outcome"] for unit in detail["units"]] == ["cleared", "failed"]
    assert detail["complete"] is False
    assert state.is_zero(medium("sda").identity)
    assert not state.is_zero(medium("sdb").identity)


def test_a_disk_without_a_name_is_no_longer_prepared_once_it_is_erased(state):
    nameless = {"serial": None, "wwn": None}
    prepared = disk_at("/dev/null", name="sda", **nameless)
    state.set_prepared(PreparedDisk(image_id="image", identity=prepared.identity, digest="d"))
    run(Bench([MemoryDisk("sda")], [medium("sda", **nameless)]), {}, state)
    assert state.prepared("image") is None
    assert state.is_zero(prepared.identity)


def assembled(**holders):
    """``sda="md0"``: what is built upon what; "md0 is ..." after a ! is a use of its own."""
    made = {}
    for name, words in holders.items():
        upon, _, use = words.partition("!")
        made[name] = Block(name=name, holders=tuple(upon.split()), in_use=(use,) if use else ())
    return made


class Stack:
    """Disks with something upon them; ``stop`` takes away as the kernel would what is not ``stuck``."""

    def __init__(self, stuck="", **holders):
        self.blocks = assembled(**holders)
        self.stuck = stuck
        self.stopped = []
        disks = [name for name in self.blocks if name.startswith("sd")]
        self.bench = Bench([MemoryDisk(name) for name in disks], [self._medium(name) for name in disks])

    def _medium(self, name):
        return medium(name, in_use=tuple(f"{name} is held by {one}" for one in self.blocks[name].holders))

    def stop(self, down):
        self.stopped += [name for name in down.stops if name != self.stuck]
        for name, block in self.blocks.items():
            left = tuple(one for one in block.holders if one not in self.stopped)
            self.blocks[name] = replace(block, holders=left)
        self.bench.media = tuple(self._medium(one.name) for one in self.bench.media)
        return [(self.stuck, "it is open")] if self.stuck in down.stops else []

    def run(self, params, state):
        return run(self.bench, params, state, blocks=self.blocks, stop=self.stop)

    def written(self):
        return {disk.path for disk in self.bench.disks.values() if disk.written}


def test_an_array_is_stopped_and_its_disks_are_erased(state):
    stack = Stack(sda="md0", sdb="md0", md0="")
    plan = valid("decom.disk_erase.outcome", stack.run({"plan": True}, state))["plan"]
    assert stack.stopped == []
    assert plan["stops"] == [{"name": "md0", "label": None}]
    assert [unit["action"] for unit in plan["units"]] == ["erase", "erase"]
    assert plan["units"][1]["noted"] == ["md0 is built upon it: stopped first"]

    # The digest was made while the array stood, and holds although it is stopped before the erase.
    result = valid("decom.disk_erase.outcome", stack.run({"plan_digest": plan["digest"]}, state))
    assert stack.stopped == ["md0"]
    assert result["stopped"] == plan["stops"]
    assert result["plan_digest"] == plan["digest"]
    assert [unit["outcome"] for unit in result["units"]] == ["cleared", "cleared"]
    assert result["units"][0]["noted"] == ["md0 is built upon it: stopped first"]


def test_a_plan_made_before_an_array_was_assembled_does_not_hold(state):
    digest = Stack(sda="").run({"plan": True}, state)["plan"]["digest"]
    stack = Stack(sda="md0", md0="")
    with pytest.raises(AgentError) as caught:
        stack.run({"plan_digest": digest}, state)
    assert caught.value.code == "plan_changed"
    assert (stack.stopped, stack.written()) == ([], set())


def test_nothing_is_stopped_when_the_command_spares_a_drive_that_is_not_there(state):
    stack = Stack(sda="md0", md0="")
    with pytest.raises(AgentError) as caught:
        stack.run({"exclude": ["S-sdx"]}, state)
    assert caught.value.code == "exclude_unmatched"
    assert stack.stopped == []


def test_what_is_upon_a_spared_disk_too_is_left_alone(state):
    stack = Stack(sda="md0", sdb="md0", sdc="md1", md0="", md1="")
    with pytest.raises(AgentError, match="md0 is upon sdb, which is to be left alone") as caught:
        stack.run({"exclude": ["S-sdb"]}, state)
    assert stack.stopped == ["md1"]
    units = caught.value.detail["units"]
    assert [(unit["outcome"], unit["code"]) for unit in units] == [
        ("failed", "in_use"),
        ("excluded", "excluded_by_command"),
        ("cleared", ""),
    ]
    assert stack.written() == {"/dev/sdc"}


@pytest.mark.parametrize(
    ("stack", "reason"),
    [
        (Stack(sda="md0", md0="!md0 is mounted at /srv"), "sda is held by md0: md0 is mounted at /srv"),
        (Stack(sda="drbd0", drbd0=""), "nobody here knows how to stop drbd0"),
        (Stack(sda="md0", md0="", stuck="md0"), "md0 did not stop: it is open"),
    ],
)
def test_a_disk_whose_holder_stays_is_refused_by_the_holders_name(state, stack, reason):
    with pytest.raises(AgentError, match=reason) as caught:
        stack.run({}, state)
    detail = valid("decom.disk_erase.outcome", caught.value.detail)
    assert [(unit["outcome"], unit["code"]) for unit in detail["units"]] == [("failed", "in_use")]
    assert reason in detail["units"][0]["reason"]
    assert stack.written() == set()


def test_traces_in_the_firmware_go_on_request_only(state):
    assert valid("decom.disk_erase.outcome", run(two(), {}, state)).get("firmware_traces") is None
    result = valid("decom.disk_erase.outcome", run(two(), {"firmware_traces": True}, state))
    assert result["firmware_traces"]["removed"] == ["BootOrder"]


def test_traces_that_the_firmware_keeps_are_no_success(state):
    kept = Traces(removed=(), failed=(("Boot0004-x", "read-only"),), left=3)
    assert run(two(), {}, state, traces=kept)["complete"]
    with pytest.raises(AgentError, match="Boot0004-x: read-only") as caught:
        run(two(), {"firmware_traces": True}, state, traces=kept)
    assert caught.value.code == "erase_incomplete"
    detail = valid("decom.disk_erase.outcome", caught.value.detail)
    assert [unit["outcome"] for unit in detail["units"]] == ["cleared", "cleared"]
    assert detail["firmware_traces"]["failed"] == [{"name": "Boot0004-x", "reason": "read-only"}]


def test_excluded_by_the_command_is_no_failure(state):
    bench = two(second=FailsHalfway)
    result = run(bench, {"exclude": ["S-sdb"]}, state)
    assert result["complete"]
    assert bench.disks["/dev/sdb"].written == 0


def test_a_drive_to_be_spared_that_is_not_there_stops_everything(state):
    bench = two()
    assert run(bench, {"plan": True, "exclude": ["S-sdx"]}, state)["plan"]["unspared"] == ["S-sdx"]
    with pytest.raises(AgentError, match="S-sdx") as caught:
        run(bench, {"exclude": ["S-sdx"]}, state)
    assert caught.value.code == "exclude_unmatched"
    assert all(disk.written == 0 for disk in bench.disks.values())


def test_no_disk_is_a_failure_unless_it_is_expected(state):
    with pytest.raises(AgentError) as caught:
        run(Bench([], [medium("loop0", out_of_scope="a file")]), {}, state)
    assert caught.value.code == "no_disk"
    assert run(Bench([], []), {"expect_no_disk": True}, state)["complete"]


def test_a_missing_disk_and_a_blind_controller_are_failures(state):
    with pytest.raises(AgentError) as caught:
        run(two(), {"expected_serials": ["S-sda", "S-sdb", "S-sdc"]}, state)
    assert [unit["code"] for unit in caught.value.detail["units"]] == ["", "", "disk_missing"]
    with pytest.raises(AgentError) as caught:
        run(two(), {}, state, unaccounted=["PCI 0000:00:02.0: a RAID controller"])
    assert caught.value.detail["units"][2]["code"] == "unaccounted_controller"
    assert run(two(), {"expect_unaccounted": True}, state, unaccounted=["x"])["complete"]


def test_a_disk_that_comes_late_is_not_passed_over(state):
    bench = two()
    looks = iter([bench.media])
    bench.look = lambda: next(looks, (*bench.media, medium("sdc")))
    with pytest.raises(AgentError) as caught:
        run(bench, {}, state)
    assert [(unit["serial"], unit["code"]) for unit in caught.value.detail["units"]] == [
        ("S-sda", ""),
        ("S-sdb", ""),
        ("S-sdc", "appeared_late"),
    ]
    bench = two()
    later = iter([bench.media])
    bench.look = lambda: next(later, (*bench.media, medium("sdc", transport="usb")))
    assert run(bench, {"removable": "exclude"}, state)["complete"]


def test_cancelling_ends_as_cancelled_with_the_records(state):
    with pytest.raises(Cancelled) as caught:
        erase(read_policy({}), machine(two()), TaskContext(boot_id="b"), ToldReporter(cancel_after=5))
    assert {unit["outcome"] for unit in caught.value.detail["units"]} <= {"interrupted", "cleared"}
    assert "interrupted" in {unit["outcome"] for unit in caught.value.detail["units"]}
