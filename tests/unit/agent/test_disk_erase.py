"""The task: plan, refusals, the result and what other tasks may know of it. On disks in memory only."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest

from fakes.disks import Bench, FailsHalfway, MemoryDisk, medium
from fakes.machine_disks import disk_at
from fakes.reporting import ToldReporter
from fakes.wiretap import valid
from teeth_agent.erase.plan import Probes
from teeth_agent.erase.policy import read_policy
from teeth_agent.erase.traces import Traces
from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.tasks.context import PreparedDisk, SharedState, TaskContext
from teeth_agent.tasks.disk_erase import Machine, erase


def machine(bench, unaccounted=(), take_apart=lambda disks: (), stops=()):
    return Machine(
        look=lambda: bench.look(),
        wait=lambda policy: None,
        probe=lambda media, reporter: Probes(),
        unaccounted=lambda: tuple(unaccounted),
        stoppable=lambda disks: stops,
        take_apart=take_apart,
        remove_traces=lambda: Traces(removed=("BootOrder",), failed=(("x", "refused"),), left=3),
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


def test_only_what_may_be_erased_is_taken_apart_first(state):
    taken = []
    bench = Bench(
        [MemoryDisk("sda"), MemoryDisk("sdb")],
        [medium("sda", in_use=("sda is held by md0",)), medium("sdb", in_use=("sdb is held by md1",))],
    )

    def take_apart(disks):
        taken.append(list(disks))
        bench.media = (medium("sda"), bench.media[1])
        return [("md1", "md1 is mounted at /")]

    more = {"take_apart": take_apart, "stops": ("md0",)}
    plan = run(bench, {"plan": True, "exclude": ["S-sdb"]}, state, **more)["plan"]
    assert plan["units"][0]["action"] == "erase"
    with pytest.raises(AgentError, match="nothing was touched"):
        run(bench, {"exclude": ["S-sdbb"]}, state, **more)
    assert taken == []
    quoted = {"exclude": ["S-sdb"], "plan_digest": plan["digest"]}
    result = run(bench, quoted, state, **more)
    assert taken == [["sda"]]
    assert [unit["outcome"] for unit in result["units"]] == ["cleared", "excluded"]


def test_what_could_not_be_stopped_is_refused(state):
    bench = Bench([MemoryDisk("sda")], [medium("sda", in_use=("sda is held by md0",))])
    with pytest.raises(AgentError) as caught:
        run(bench, {}, state, stops=("md0",), take_apart=lambda disks: [("md0", "busy")])
    assert caught.value.detail["units"][0]["code"] == "in_use"
    assert bench.disks["/dev/sda"].written == 0


def test_traces_in_the_firmware_go_on_request_only(state):
    assert valid("decom.disk_erase.outcome", run(two(), {}, state)).get("firmware_traces") is None
    result = valid("decom.disk_erase.outcome", run(two(), {"firmware_traces": True}, state))
    assert result["firmware_traces"]["removed"] == ["BootOrder"]


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
