"""Tasks that somebody wants cancelled, that nobody knows about, that have to wait: as pure functions."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from teeth.endpoint import taskstate
from teeth.endpoint.taskstate import Task, TaskState, parse_status
from teeth_protocol.errors import ProblemError

S = TaskState
OPEN = [state for state in S if not state.over]


def task(state: TaskState = S.RUNNING, **members: Any) -> Task:
    base = Task(
        task_id="t1", node_id="n1", method="decom.disk_erase", params={}, params_digest="d",
        awaits_landing=False, held=False, state=state, created=1.0, updated=1.0, boot_id="b1",
    )  # fmt: skip
    return dataclasses.replace(base, **members)


# --- cancelling


def test_what_never_left_is_cancelled_at_once() -> None:
    after = taskstate.cancel_asked(task(S.QUEUED, boot_id=None), 2.0)
    assert (after.state, after.code, after.finished) == (S.ERROR, "cancelled", 2.0)


@pytest.mark.parametrize("state", OPEN)
def test_of_all_else_only_the_wish_is_kept(state: TaskState) -> None:
    after = taskstate.cancel_asked(task(state), 2.0)
    assert (after.state, after.code, after.cancel_asked) == (state, "", 2.0)
    assert taskstate.cancel_asked(after, 3.0) is after


@pytest.mark.parametrize("state", [S.COMPLETE, S.ERROR])
def test_what_is_over_stays_what_it_is(state: TaskState) -> None:
    ended = task(state)
    assert taskstate.cancel_asked(ended, 2.0) is ended


def test_an_agent_that_never_had_it_makes_it_cancelled() -> None:
    wanted = task(S.QUEUED, cancel_asked=2.0)
    after = taskstate.not_there(wanted, "b1", 3.0)
    assert (after.state, after.code) == (S.ERROR, "cancelled")


@pytest.mark.parametrize(
    "known",
    [
        task(S.QUEUED),  # nobody wants it cancelled: it may be under way to the agent
        task(S.QUEUED, cancel_asked=2.0, boot_id="b2"),  # another boot may have begun it
        task(S.ACCEPTED, cancel_asked=2.0),
        task(S.RUNNING, cancel_asked=2.0),
        task(S.UNKNOWN, cancel_asked=2.0),
        task(S.COMPLETE, cancel_asked=2.0),
    ],
    ids=lambda known: f"{known.state}-{known.boot_id}",
)
def test_otherwise_that_an_agent_does_not_know_it_proves_nothing(known: Task) -> None:
    assert taskstate.not_there(known, "b1", 3.0) is known


def test_a_task_that_is_to_be_cancelled_is_not_sent() -> None:
    assert taskstate.may_send(task(S.QUEUED), [])
    assert not taskstate.may_send(task(S.QUEUED, cancel_asked=2.0), [])


# --- settling


@pytest.mark.parametrize(("state", "code"), [(S.ERROR, "settled"), (S.COMPLETE, "")])
def test_an_operator_settles_what_nobody_knows(state: TaskState, code: str) -> None:
    unknown = taskstate.silent(task(), 2.0)
    after = taskstate.settled(unknown, state=state, msg="the drives are in the shredder", now=3.0)
    assert (after.state, after.code, after.msg) == (state, code, "the drives are in the shredder")
    assert after.finished == 3.0
    assert not after.holds_node


@pytest.mark.parametrize("state", [state for state in S if state is not S.UNKNOWN])
def test_nothing_else_is_settled(state: TaskState) -> None:
    with pytest.raises(ProblemError, match="only an unknown one is settled") as error:
        taskstate.settled(task(state), state=S.ERROR, msg="no", now=2.0)
    assert error.value.problem.code == "not_unknown"


@pytest.mark.parametrize("state", OPEN)
def test_nothing_is_settled_as_open(state: TaskState) -> None:
    with pytest.raises(ProblemError) as error:
        taskstate.settled(task(S.UNKNOWN), state=state, msg="no", now=2.0)
    assert error.value.problem.code == "bad_params"


def test_a_late_report_does_not_undo_a_settlement() -> None:
    over = taskstate.settled(task(S.UNKNOWN, seq=5), state=S.ERROR, msg="gone", now=2.0)
    late = parse_status({"task_id": "t1", "seq": 6, "state": "complete", "percent": 100, "result": {}})
    with pytest.raises(ProblemError) as error:
        taskstate.report(over, late, 3.0)
    assert error.value.problem.code == "task_finished"


# --- a node in doubt


@pytest.mark.parametrize(
    ("method", "params", "destructive"),
    [
        ("decom.disk_erase", {}, True),
        ("decom.disk_erase", {"plan": True}, False),
        ("decom.disk_erase", {"plan": "yes"}, True),
        ("decom.firmware_secure", {}, True),
        ("decom.qc", {}, False),
        ("standbye.prepare_image", {}, True),
        ("standbye.run_image", {}, True),
        ("of.another_time", {}, True),
    ],
)
def test_what_changes_a_machines_drives(method: str, params: dict[str, Any], destructive: bool) -> None:
    asked = task(method=method, params=params)
    assert asked.destructive is destructive
    assert dataclasses.replace(asked, state=S.UNKNOWN).holds_node is destructive


@pytest.mark.parametrize("state", [state for state in S if state is not S.UNKNOWN])
def test_only_doubt_holds_a_node(state: TaskState) -> None:
    assert not task(state).holds_node


@pytest.mark.parametrize("state", [S.UNKNOWN, S.LEAVING])
def test_a_destructive_task_waits_for_one_that_is_in_doubt_or_about_to_leave(state: TaskState) -> None:
    other = task(state, task_id="t0")
    assert not taskstate.may_send(task(S.QUEUED), [other])
    assert taskstate.may_send(task(S.QUEUED, params={"plan": True}), [other])
    assert taskstate.may_send(
        task(S.QUEUED), [dataclasses.replace(other, params={"plan": True}, state=S.RUNNING)]
    )


def test_a_task_does_not_wait_for_itself() -> None:
    leaving = task(S.LEAVING)
    assert taskstate.may_send(leaving, [leaving])


@pytest.mark.parametrize("state", [S.UNKNOWN, S.COMPLETE, S.ERROR])
def test_what_may_have_been_done_is_not_sent_again(state: TaskState) -> None:
    assert not taskstate.may_send(task(state), [])


def test_a_task_that_was_only_out_of_sight_runs_again() -> None:
    unknown = taskstate.silent(task(), 2.0)
    after, send = taskstate.reconnected(unknown, boot_id="b1", listed=frozenset({"t1"}), now=3.0)
    assert (after.state, after.code, after.msg, send) == (S.RUNNING, "", "", False)
    after, send = taskstate.reconnected(unknown, boot_id="b2", listed=frozenset({"t1"}), now=3.0)
    assert (after.state, send) == (S.UNKNOWN, False)


def test_a_release_does_not_touch_what_is_over() -> None:
    over = task(S.ERROR, held=True)
    assert taskstate.released(over, 2.0) is over
    assert taskstate.released(task(held=True), 2.0).held is False
