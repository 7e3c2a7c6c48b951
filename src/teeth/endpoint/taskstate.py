"""A task's life as pure functions: what a report, a loss or a landing makes of it."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from teeth.endpoint.secrets import redact
from teeth_protocol.errors import ProblemError
from teeth_protocol.fields import FieldError
from teeth_protocol.shape import read
from teeth_protocol.wire.tasks import TASK_STATUS, Complete, Failed, Phase

_MAX_MSG = 4096
# Whatever is not known to leave the drives as they are is taken to change them.
_HARMLESS = frozenset({"decom.qc"})


class TaskState(enum.StrEnum):
    QUEUED = "queued"  # not known to have been accepted by the agent
    ACCEPTED = "accepted"
    RUNNING = "running"
    LEAVING = "leaving"  # the agent's last word: the machine is about to start another system
    UNKNOWN = "unknown"  # nobody can say; the node is held until somebody does
    COMPLETE = "complete"
    ERROR = "error"

    @property
    def over(self) -> bool:
        return self in (TaskState.COMPLETE, TaskState.ERROR)


class Verdict(enum.Enum):
    APPLIED = "applied"
    REPEATED = "repeated"  # said before, byte for byte: acknowledged again, nothing changed
    STALE = "stale"  # older than what is known: acknowledged, nothing changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One ``task_status``, parsed. ``seq`` None: an agent that knows only the seed's members.

    ``result`` is what came with the end: a completed task's ``result``, a failed one's ``detail``.
    """

    task_id: str
    state: TaskState
    digest: str
    seq: int | None = None
    percent: float | None = None
    eta: float | None = None
    step: str = ""
    phase: str = ""
    code: str = ""
    msg: str = ""
    result: Mapping[str, Any] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it stands. ``params`` and ``result`` are free of secrets; times since the epoch.

    ``result`` of a failed task is what its agent could still say of it (an erase: the record of every unit).
    ``held``: it may prepare but not leave. ``boot_id``: the boot it was sent to, None before that.
    ``cancel_asked``: since when it is to be cancelled. ``revision`` rises with every change that was kept.
    """

    task_id: str
    node_id: str
    method: str
    params: Mapping[str, Any]
    params_digest: str
    awaits_landing: bool
    held: bool
    state: TaskState
    created: float
    updated: float
    boot_id: str | None = None
    seq: int = 0
    percent: float = 0.0
    eta: float | None = None
    step: str = ""
    phase: str = ""
    result: Mapping[str, Any] | None = None
    code: str = ""
    msg: str = ""
    final_digest: str | None = None
    cancel_asked: float | None = None
    revision: int = 0
    finished: float | None = None

    @property
    def destructive(self) -> bool:
        """See ``is_destructive``."""
        return is_destructive(self.method, self.params)

    @property
    def holds_node(self) -> bool:
        """Nobody knows what it did to the drives: until somebody does, nothing else may be done to them."""
        return self.state is TaskState.UNKNOWN and self.destructive


def is_destructive(method: str, params: Mapping[str, Any]) -> bool:
    """Whether a task changes what is on the machine's drives; a plan does not."""
    return method not in _HARMLESS and params.get("plan") is not True


def json_digest(value: Any) -> str:
    """A digest under which equal JSON values are equal, whatever their members' order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def parse_status(params: Mapping[str, Any]) -> Status:
    """Read a ``task_status``. Raises ProblemError bad_params naming the member."""
    try:
        said = read(TASK_STATUS, params)
    except FieldError as error:
        raise ProblemError("bad_params", str(error)) from error
    status = Status(
        task_id=said.task_id, state=TaskState(said.state), digest=json_digest(dict(params)), seq=said.seq
    )
    match said:
        case Failed():
            return dataclasses.replace(
                status, code=said.code or "unspecified", msg=said.msg, result=redact(said.detail)
            )
        case Complete():
            return dataclasses.replace(status, percent=said.percent, eta=said.eta, result=redact(said.result))
        case Phase():
            status = dataclasses.replace(status, phase=said.phase)
    return dataclasses.replace(
        status, percent=said.percent, eta=said.eta, step=said.step, fields=redact(said.fields)
    )


def report(task: Task, status: Status, now: float) -> tuple[Task, Verdict]:
    """What an agent's report makes of a task.

    Raises ProblemError task_finished when something new is said about a task that is over: the first end
    that was acknowledged stands.
    """
    if task.final_digest is not None and status.digest == task.final_digest:
        return task, Verdict.REPEATED
    old = status.seq is not None and status.seq <= task.seq
    # Also one whose agent said complete and whose landing is awaited: the agent has had its last word.
    if task.state.over or task.final_digest is not None:
        if old:
            return task, Verdict.STALE
        raise ProblemError("task_finished", f"task {task.task_id} is over ({task.state})")
    # An end is never dismissed as old: an agent that lost count must still be able to finish.
    if old and not status.state.over:
        return task, Verdict.STALE
    changed = dataclasses.replace(
        task,
        state=_next_state(task, status),
        updated=now,
        seq=max(task.seq, status.seq or 0),
        percent=max(task.percent, status.percent or 0.0),
        eta=status.eta,
        step=status.step or task.step,
        phase=status.phase or task.phase,
        code=status.code,
        msg=status.msg,
        # What is said at a checkpoint is kept: after "leaving" there may be nobody left to say it again.
        result={**(task.result or {}), **status.fields} if status.phase else task.result,
    )
    if status.state.over:
        changed = dataclasses.replace(changed, result=status.result, final_digest=status.digest)
    return _finish(changed, now), Verdict.APPLIED


def landed(task: Task, facts: Mapping[str, Any], now: float) -> Task:
    """The started system phoned home: the task is complete, unless it was over before."""
    if task.state.over:
        return task
    result = {**(task.result or {}), "landing": dict(facts)}
    done = dataclasses.replace(
        task, state=TaskState.COMPLETE, updated=now, percent=100.0, eta=0.0, phase="landed", result=result,
        code="", msg="",
    )  # fmt: skip
    return _finish(done, now)


def refused(task: Task, code: str, msg: str, now: float) -> Task:
    """The agent did not accept the task. Only a task that never started can be refused."""
    if task.state is not TaskState.QUEUED:
        return task
    ended = dataclasses.replace(task, state=TaskState.ERROR, updated=now, code=code, msg=msg[:_MAX_MSG])
    return _finish(ended, now)


def released(task: Task, now: float) -> Task:
    """A prepared task that was held at its last safe point may go on."""
    if task.state.over or not task.held:
        return task
    return dataclasses.replace(task, held=False, updated=now)


def cancel_asked(task: Task, now: float) -> Task:
    """Somebody wants it cancelled. What never left here is over; of all else its agent has the last word."""
    if task.state.over or task.cancel_asked is not None:
        return task
    if task.state is TaskState.QUEUED and task.boot_id is None:
        return _cancelled(task, "cancelled before it was sent", now)
    return dataclasses.replace(task, cancel_asked=now, updated=now)


def not_there(task: Task, boot_id: str, now: float) -> Task:
    """The agent of this boot does not know a task that is to be cancelled, and is not told of it any more."""
    sure = task.state is TaskState.QUEUED and task.boot_id == boot_id and task.cancel_asked is not None
    return _cancelled(task, "cancelled before the agent accepted it", now) if sure else task


def settled(task: Task, *, state: TaskState, msg: str, now: float) -> Task:
    """An operator has looked at the machine and says what became of an unknown task: ERROR or COMPLETE.

    Raises ProblemError not_unknown for any other task, which can still say so itself; bad_params.
    """
    if not state.over:
        raise ProblemError("bad_params", f"a task is settled as complete or as error, not as {state}")
    if task.state is not TaskState.UNKNOWN:
        raise ProblemError(
            "not_unknown", f"task {task.task_id} is {task.state}: only an unknown one is settled"
        )
    code = "settled" if state is TaskState.ERROR else ""
    done = dataclasses.replace(task, state=state, updated=now, code=code, msg=msg[:_MAX_MSG])
    return _finish(done, now)


def may_send(task: Task, others: Iterable[Task]) -> bool:
    """Whether a task's command may go out (again); ``others`` are the open tasks of its node.

    A destructive one waits while nobody knows what an earlier one did to the machine, and while the machine
    is about to leave: it would not be there to do it.
    """
    if task.state.over or task.state is TaskState.UNKNOWN or task.cancel_asked is not None:
        return False
    if not task.destructive:
        return True
    rest = [other for other in others if other.task_id != task.task_id]
    return not any(other.holds_node or other.state is TaskState.LEAVING for other in rest)


def holder(task: Task, others: Iterable[Task]) -> Task | None:
    """The other task that holds this one's node, if any."""
    return next((other for other in others if other.task_id != task.task_id and other.holds_node), None)


def accepted(task: Task, now: float) -> Task:
    if task.state is not TaskState.QUEUED:
        return task
    return dataclasses.replace(task, state=TaskState.ACCEPTED, updated=now)


def disconnected(task: Task, now: float) -> Task:
    """The session ended. A running task runs on; one that announced its leaving is out of sight."""
    if task.state is not TaskState.LEAVING:
        return task
    return _unknown(task, "waiting", "the machine left for its new system; its landing is awaited", now)


def silent(task: Task, now: float) -> Task:
    """Nothing was heard for too long. Never an error: the machine may well be at work."""
    if task.state.over or task.state in (TaskState.QUEUED, TaskState.UNKNOWN):
        return task
    return _unknown(task, "silence", "the machine has not been heard of for too long", now)


def forgotten(task: Task, now: float) -> Task:
    """Its node is to be forgotten: what was never sent is over, of all else nobody will ever say more."""
    if task.state is TaskState.QUEUED and task.boot_id is None:
        return _finish(
            dataclasses.replace(
                task, state=TaskState.ERROR, updated=now, code="node_forgotten", msg="its node was forgotten"
            ),
            now,
        )
    return task if task.state.over else _unknown(task, "node_forgotten", "its node was forgotten", now)


def reconnected(task: Task, *, boot_id: str, listed: frozenset[str] | None, now: float) -> tuple[Task, bool]:
    """A session began. Returns the task and whether the command is to be sent (again).

    ``listed`` are the tasks that the agent says it has, None when it does not say. A task that was
    accepted and that the agent no longer knows was lost with the agent's memory: it may have done half of
    its work, so it becomes unknown and is never silently started again.
    """
    if task.state.over or (task.state is TaskState.UNKNOWN and task.phase == "leaving"):
        return task, False
    if task.boot_id is None:
        return task, True
    if listed is not None and task.task_id in listed and task.boot_id == boot_id:
        if task.state is TaskState.UNKNOWN:  # it was only out of sight
            task = dataclasses.replace(task, state=TaskState.RUNNING, updated=now, code="", msg="")
        return task, task.state is TaskState.QUEUED
    if task.boot_id != boot_id:
        return _unknown(task, "agent_restarted", "the machine started anew while it ran", now), False
    if listed is None or task.state is TaskState.QUEUED:
        return task, task.state is not TaskState.UNKNOWN
    return _unknown(task, "agent_restarted", "the agent lost its memory of the task", now), False


def _next_state(task: Task, status: Status) -> TaskState:
    if status.state is TaskState.COMPLETE and task.awaits_landing:
        return (
            TaskState.LEAVING
        )  # the agent is done; whether the machine landed, only the landed system can say
    if status.state is not TaskState.RUNNING:
        return status.state
    if status.phase == "leaving" or (task.state is TaskState.LEAVING and not status.phase):
        return TaskState.LEAVING
    return TaskState.RUNNING


def _unknown(task: Task, code: str, msg: str, now: float) -> Task:
    if task.state is TaskState.UNKNOWN:
        return task
    return dataclasses.replace(task, state=TaskState.UNKNOWN, updated=now, eta=None, code=code, msg=msg)


def _cancelled(task: Task, msg: str, now: float) -> Task:
    asked = now if task.cancel_asked is None else task.cancel_asked
    ended = dataclasses.replace(
        task, state=TaskState.ERROR, updated=now, code="cancelled", msg=msg, cancel_asked=asked
    )
    return _finish(ended, now)


def _finish(task: Task, now: float) -> Task:
    if not task.state.over:
        return task
    return dataclasses.replace(task, finished=now, eta=0.0 if task.state is TaskState.COMPLETE else None)
