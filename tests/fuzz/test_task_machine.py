"""A task's life on the endpoint under whatever agents, networks, operators and landings say of it."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from teeth.endpoint import taskstate
from teeth.endpoint.taskstate import Status, Task, TaskState, Verdict, parse_status
from teeth_protocol.errors import ProblemError

boots = st.sampled_from(["boot-1", "boot-2"])
numbers = st.none() | st.integers(0, 20)


@st.composite
def statuses(draw: st.DrawFn) -> Status:
    """A report as it comes from the wire."""
    state = draw(st.sampled_from(["running", "running", "error", "complete"]))
    params: dict[str, Any] = {
        "task_id": "t",
        "state": state,
        "seq": draw(numbers),
        "percent": draw(st.none() | st.floats(0, 120)),
        "eta": draw(st.none() | st.floats(0, 1e12)),
    }
    phase = draw(st.sampled_from(["", "prepared", "leaving", "other"]))
    if state == "running" and phase:
        params["phase"] = phase
    if state == "error":
        params |= {
            "msg": "no",
            "code": draw(st.sampled_from(["a", "b"])),
            "detail": draw(st.none() | st.just({"x": 1})),
        }
    if state == "complete":
        params |= {"result": draw(st.sampled_from([{}, {"x": 1}]))}
    return parse_status(params)


class Life(RuleBasedStateMachine):
    @initialize(
        landing=st.booleans(), held=st.booleans(), method=st.sampled_from(["decom.disk_erase", "decom.qc"])
    )
    def asked(self, landing: bool, held: bool, method: str) -> None:
        self.now = 1.0
        self.task = Task(
            task_id="t",
            node_id="n",
            method=method,
            params={},
            params_digest="d",
            awaits_landing=landing,
            held=held,
            state=TaskState.QUEUED,
            created=0.0,
            updated=0.0,
        )
        self.acknowledged: Status | None = None

    def becomes(self, task: Task) -> None:
        """Take a step; what must hold between any two moments is checked here."""
        old, self.task = self.task, task
        self.now += 1.0
        if old.state.over:
            assert task == old, "something changed after the end"
        assert task.seq >= old.seq
        assert task.percent >= old.percent
        assert 0 <= task.percent <= 100
        assert task.updated >= old.updated
        if old.state is not TaskState.QUEUED:
            assert task.state is not TaskState.QUEUED, "what was sent is not unsent"
        if old.cancel_asked is not None:
            assert task.cancel_asked == old.cancel_asked, "the wish to cancel lasts"
        if old.final_digest is not None:
            assert task.final_digest == old.final_digest, "an end that was acknowledged stands"
        assert dataclasses.replace(task, params=old.params).params_digest == old.params_digest

    @rule(status=statuses())
    def report(self, status: Status) -> None:
        try:
            task, verdict = taskstate.report(self.task, status, self.now)
        except ProblemError:
            return
        if verdict is not Verdict.APPLIED:
            assert task == self.task
        elif status.state.over:
            self.acknowledged = status
        self.becomes(task)

    @rule()
    def said_again(self) -> None:
        """An end that was acknowledged may come again, byte for byte, at any time."""
        if self.acknowledged is not None:
            task, verdict = taskstate.report(self.task, self.acknowledged, self.now)
            assert verdict is Verdict.REPEATED
            self.becomes(task)

    @rule(boot=boots, listed=st.sampled_from([None, frozenset(), frozenset({"t"}), frozenset({"u"})]))
    def reconnected(self, boot: str, listed: frozenset[str] | None) -> None:
        before = self.task
        task, send = taskstate.reconnected(self.task, boot_id=boot, listed=listed, now=self.now)
        send = send and taskstate.may_send(task, ())
        assert not (send and (before.state.over or task.state is TaskState.UNKNOWN))
        if before.boot_id is not None and before.boot_id != boot:
            assert not send, "what another boot may have done is not done again"
        self.becomes(task)
        if send:
            self.becomes(dataclasses.replace(task, boot_id=boot))

    @rule()
    def accepted(self) -> None:
        self.becomes(taskstate.accepted(self.task, self.now))

    @rule()
    def refused(self) -> None:
        self.becomes(taskstate.refused(self.task, "busy", "no", self.now))

    @rule()
    def disconnected(self) -> None:
        self.becomes(taskstate.disconnected(self.task, self.now))

    @rule()
    def silence(self) -> None:
        was = self.task.state
        self.becomes(taskstate.silent(self.task, self.now))
        assert self.task.state.over == was.over, "silence is no end"

    @rule()
    def released(self) -> None:
        held = self.task.held
        self.becomes(taskstate.released(self.task, self.now) if not self.task.state.over else self.task)
        assert held or not self.task.held

    @rule()
    def landed(self) -> None:
        self.becomes(taskstate.landed(self.task, {"hostname": "h"}, self.now))
        assert self.task.state.over

    @rule()
    def cancelled(self) -> None:
        self.becomes(taskstate.cancel_asked(self.task, self.now))

    @rule(boot=boots)
    def not_there(self, boot: str) -> None:
        self.becomes(taskstate.not_there(self.task, boot, self.now))

    @rule(state=st.sampled_from(list(TaskState)))
    def settled(self, state: TaskState) -> None:
        with contextlib.suppress(ProblemError):
            self.becomes(taskstate.settled(self.task, state=state, msg="seen", now=self.now))

    @invariant()
    def an_end_has_its_time(self) -> None:
        task = getattr(self, "task", None)
        if task is not None:
            assert (task.finished is not None) == task.state.over
            assert not task.state.over or task.eta in (0.0, None)


TestLife = Life.TestCase
TestLife.settings = settings(stateful_step_count=30, deadline=None)
