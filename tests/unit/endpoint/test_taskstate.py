from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from teeth.endpoint import taskstate
from teeth.endpoint.taskstate import Task, TaskState, Verdict, parse_status
from teeth_protocol.errors import ProblemError

S = TaskState


def task(state: TaskState = S.RUNNING, **members: Any) -> Task:
    base = Task(
        task_id="t1", node_id="n1", method="decom.disk_erase", params={}, params_digest="d",
        awaits_landing=False, held=False, state=state, created=1.0, updated=1.0, boot_id="b1",
    )  # fmt: skip
    return dataclasses.replace(base, **members)


def say(state: str, **members: Any) -> dict[str, Any]:
    return {"task_id": "t1", "state": state, **members}


def report(before: Task, state: str, **members: Any) -> tuple[Task, Verdict]:
    return taskstate.report(before, parse_status(say(state, **members)), 2.0)


def test_progress_is_taken_over() -> None:
    after, verdict = report(task(S.ACCEPTED), "running", seq=1, percent=12.5, eta=30, step="overwrite")
    assert verdict is Verdict.APPLIED
    assert (after.state, after.percent, after.eta, after.step) == (S.RUNNING, 12.5, 30.0, "overwrite")


def test_percent_never_goes_backwards_and_never_beyond_100() -> None:
    after, _ = report(task(percent=50.0), "running", seq=1, percent=20)
    assert after.percent == 50.0
    after, _ = report(task(), "running", seq=1, percent=1e6)
    assert after.percent == 100.0


def test_an_unknown_eta_is_not_an_old_one() -> None:
    after, _ = report(task(eta=30.0), "running", seq=1, eta=None)
    assert after.eta is None


def test_an_old_report_changes_nothing() -> None:
    before = task(seq=5, percent=50.0)
    assert report(before, "running", seq=5, percent=60) == (before, Verdict.STALE)
    assert report(before, "running", seq=4, percent=60) == (before, Verdict.STALE)


def test_an_end_is_taken_even_out_of_order() -> None:
    after, verdict = report(task(seq=5), "error", seq=3, msg="no", code="device_failed")
    assert (after.state, verdict, after.code, after.msg) == (S.ERROR, Verdict.APPLIED, "device_failed", "no")


@pytest.mark.parametrize("state", ["complete", "error"])
def test_a_repeated_end_is_acknowledged_and_changes_nothing(state: str) -> None:
    said: dict[str, Any] = {"seq": 9, "msg": "why", "result": {"disks": 2}}
    ended, _ = report(task(), state, **said)
    assert ended.finished == 2.0
    assert report(ended, state, **said) == (ended, Verdict.REPEATED)


@pytest.mark.parametrize("end", ["complete", "error"])
@pytest.mark.parametrize("then", ["running", "complete", "error"])
def test_nothing_new_follows_an_end(end: str, then: str) -> None:
    ended, _ = report(task(), end, seq=9, msg="why")
    with pytest.raises(ProblemError) as caught:
        report(ended, then, seq=10, msg="other")
    assert caught.value.problem.code == "task_finished"


def test_a_late_progress_report_after_the_end_is_only_old() -> None:
    ended, _ = report(task(), "complete", seq=9)
    assert report(ended, "running", seq=8) == (ended, Verdict.STALE)


def test_what_a_failed_task_can_still_say_is_kept() -> None:
    units = [{"serial": "A", "outcome": "cleared"}, {"serial": "B", "outcome": "failed"}]
    ended, _ = report(task(), "error", seq=9, msg="why", code="erase_incomplete", detail={"units": units})
    assert (ended.state, ended.result) == (S.ERROR, {"units": units})
    ended, _ = report(task(), "error", seq=9, msg="why", result={"units": units})
    assert ended.result is None


def test_the_seeds_own_members_suffice() -> None:
    after, _ = report(task(), "running", eta=10, percent=5)
    after, _ = report(after, "running", eta=5, percent=50)
    ended, _ = report(after, "complete")
    assert (ended.state, ended.percent) == (S.COMPLETE, 50.0)


def test_leaving_then_silence_is_unknown_and_the_landing_completes_it() -> None:
    before = task(awaits_landing=True)
    left, _ = report(before, "running", seq=1, phase="leaving", fields={"boot": "kexec"})
    assert left.state is S.LEAVING
    unknown = taskstate.disconnected(left, 3.0)
    assert (unknown.state, unknown.code) == (S.UNKNOWN, "waiting")
    done = taskstate.landed(unknown, {"hostname": "web"}, 4.0)
    assert (done.state, done.finished, done.percent) == (S.COMPLETE, 4.0, 100.0)
    assert done.result == {"boot": "kexec", "landing": {"hostname": "web"}}
    assert (done.code, done.msg) == ("", "")


def test_a_deployment_is_not_complete_on_the_agents_word() -> None:
    after, _ = report(task(awaits_landing=True), "complete", seq=2, result={"boot": "reboot"})
    assert after.state is S.LEAVING
    done = taskstate.landed(after, {}, 4.0)
    assert done.result == {"boot": "reboot", "landing": {}}


def test_progress_while_leaving_does_not_hide_the_leaving() -> None:
    left, _ = report(task(), "running", seq=1, phase="leaving")
    assert report(left, "running", seq=2, percent=99)[0].state is S.LEAVING


def test_a_departure_that_failed_is_an_error() -> None:
    left, _ = report(task(awaits_landing=True), "running", seq=1, phase="leaving")
    unknown = taskstate.disconnected(left, 2.0)
    failed, _ = report(unknown, "error", seq=2, msg="kexec failed", code="kexec")
    assert failed.state is S.ERROR
    assert taskstate.landed(failed, {}, 5.0) is failed


@pytest.mark.parametrize("state", [S.QUEUED, S.ACCEPTED, S.RUNNING, S.COMPLETE, S.ERROR])
def test_losing_the_connection_changes_no_other_task(state: TaskState) -> None:
    before = task(state)
    assert taskstate.disconnected(before, 2.0) is before


@pytest.mark.parametrize("state", list(S))
def test_silence_never_ends_a_task(state: TaskState) -> None:
    after = taskstate.silent(task(state), 2.0)
    assert after.state.over == state.over
    if state in (S.ACCEPTED, S.RUNNING, S.LEAVING):
        assert after.state is S.UNKNOWN


def test_an_unknown_task_that_reports_is_running_again() -> None:
    unknown = taskstate.silent(task(), 2.0)
    after, _ = report(unknown, "running", seq=1)
    assert (after.state, after.code, after.msg) == (S.RUNNING, "", "")


@pytest.mark.parametrize(
    ("before", "boot_id", "listed", "state", "send"),
    [
        # never left here: send
        (task(S.QUEUED, boot_id=None), "b1", frozenset(), S.QUEUED, True),
        (task(S.QUEUED, boot_id=None), "b2", None, S.QUEUED, True),
        # the answer was lost, the agent has it or not: the id makes a repetition harmless
        (task(S.QUEUED), "b1", frozenset({"t1"}), S.QUEUED, True),
        (task(S.QUEUED), "b1", frozenset(), S.QUEUED, True),
        # running on
        (task(S.RUNNING), "b1", frozenset({"t1"}), S.RUNNING, False),
        (task(S.RUNNING), "b1", None, S.RUNNING, True),
        # the agent or the machine started anew while it ran
        (task(S.RUNNING), "b1", frozenset(), S.UNKNOWN, False),
        (task(S.RUNNING), "b2", frozenset(), S.UNKNOWN, False),
        (task(S.QUEUED), "b2", frozenset(), S.UNKNOWN, False),
        (task(S.LEAVING), "b2", frozenset(), S.UNKNOWN, False),
        # waits for its landing, whoever else calls
        (task(S.UNKNOWN, phase="leaving", code="waiting"), "b2", frozenset(), S.UNKNOWN, False),
        (task(S.COMPLETE), "b1", frozenset(), S.COMPLETE, False),
    ],
)
def test_what_a_new_session_means(
    before: Task, boot_id: str, listed: frozenset[str] | None, state: TaskState, send: bool
) -> None:
    after, again = taskstate.reconnected(before, boot_id=boot_id, listed=listed, now=2.0)
    assert (after.state, again) == (state, send)


def test_only_a_task_that_never_started_can_be_refused() -> None:
    assert taskstate.refused(task(S.QUEUED), "busy", "busy", 2.0).state is S.ERROR
    assert taskstate.refused(task(S.RUNNING), "busy", "busy", 2.0).state is S.RUNNING


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({}, "task_id"),
        ({"task_id": "a b", "state": "running"}, "task_id"),
        (say("finished"), "state"),
        (say("error"), "msg"),
        (say("running", percent="12"), "percent"),
        (say("running", percent=-1), "percent"),
        (say("running", percent=True), "percent"),
        (say("running", eta=-1), "eta"),
        (say("running", seq=-1), "seq"),
        (say("running", seq=1.5), "seq"),
        (say("running", fields=[]), "fields"),
        (say("complete", result="yes"), "result"),
        (say("error", msg="no", detail="why"), "detail"),
    ],
)
def test_a_malformed_report_names_its_member(params: dict[str, Any], path: str) -> None:
    with pytest.raises(ProblemError, match=rf"params\.{path}") as caught:
        parse_status(params)
    assert caught.value.problem.code == "bad_params"


def test_what_comes_from_outside_is_bounded() -> None:
    status = parse_status(say("error", msg="m" * 10_000, code="c" * 1000))
    assert (len(status.msg), len(status.code)) == (4096, 64)
    assert len(parse_status(say("running", step="s" * 1000)).step) == 64


def test_secrets_in_a_report_are_dropped_at_the_door() -> None:
    status = parse_status(say("complete", result={"config_drive": "hunter2"}, fields={"token": "hunter2"}))
    assert "hunter2" not in repr(status)
