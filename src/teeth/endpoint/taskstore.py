"""Tasks on disk. Every method is one transaction: what it returned is durable."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from teeth.endpoint import taskstate
from teeth.endpoint.secrets import redact
from teeth.endpoint.taskrows import Begin, TaskRows
from teeth.endpoint.taskstate import Status, Task, TaskState, Verdict, json_digest
from teeth.errors import TeethError
from teeth_protocol.errors import ProblemError

Step = Callable[[Task, float], Task]
Fit = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class TaskStore:
    """The rules of what may be kept; ``begin`` opens a transaction on whatever keeps it."""

    def __init__(self, begin: Begin, *, clock: Callable[[], float] = time.time) -> None:
        self._begin = begin
        self._clock = clock

    def create(
        self,
        task_id: str,
        node_id: str,
        method: str,
        *,
        asked: Mapping[str, Any],
        sent: Mapping[str, Any],
        landing_hash: str | None = None,
        held: bool = False,
    ) -> tuple[Task, bool]:
        """A new task, or the one that has this id already; the flag says whether it is new.

        ``asked`` is what the caller gave and what a repetition is compared by; ``sent`` is what goes to the
        agent (a landing URL is added on the way). Raises TeethError for the same id with other params, and
        for a destructive task on a node of which nobody knows what an earlier one did to it.
        """
        now = self._clock()
        task = Task(
            task_id=task_id, node_id=node_id, method=method, params=redact(asked),
            params_digest=json_digest(dict(asked)), awaits_landing=landing_hash is not None,
            held=held, state=TaskState.QUEUED, created=now, updated=now, revision=1,
        )  # fmt: skip
        with self._begin() as rows:
            known = rows.load(task_id)
            if known is not None:
                same = (known.node_id, known.method, known.params_digest) == (
                    node_id, method, task.params_digest,
                )  # fmt: skip
                if not same:
                    raise TeethError(f"task {task_id} exists already and asks for something else")
                return known, False
            _require_free(task, rows)
            rows.add(task, sent, landing_hash)
            _record(rows, task, progress=False)
        return task, True

    def get(self, task_id: str) -> Task | None:
        with self._begin() as rows:
            return rows.load(task_id)

    def listing(self, node_id: str | None = None) -> list[Task]:
        """Every task (of one node), oldest first, without secrets."""
        with self._begin() as rows:
            return rows.listing(node_id)

    def waiting(self, node_id: str) -> list[Task]:
        """Tasks of a node that its agent is not known to have, oldest first."""
        with self._begin() as rows:
            tasks = rows.listing(node_id, open_only=True)
        return [task for task in tasks if task.state is TaskState.QUEUED]

    def sending(
        self, task_id: str, boot_id: str, epoch: int, fit: Fit | None = None
    ) -> dict[str, Any] | None:
        """Note that the task goes to this boot and return its whole params; None when it may not be sent.

        ``fit``: what they become when they leave for the first time. Kept, because what is repeated must be
        the same: an agent refuses an id that it knows with other params.

        Noted before it is sent: from then on only this boot can say that it does not have it. None also when
        ``epoch`` is not the newest: a session that is over must not speak for the one that took its place.
        """
        with self._begin() as rows:
            task, params = rows.load(task_id), rows.params(task_id)
            if task is None or params is None or rows.epoch(task.node_id) != epoch:
                return None
            if not taskstate.may_send(task, rows.listing(task.node_id, open_only=True)):
                return None
            if task.boot_id is None and fit is not None:
                params = dict(fit(params))
                rows.replace_params(task_id, params)
            if task.boot_id != boot_id:
                _save(rows, dataclasses.replace(task, boot_id=boot_id))
        return params

    def report(self, node_id: str, epoch: int, status: Status) -> tuple[Task, Verdict]:
        """Apply an agent's report. Raises ProblemError: unknown_task, stale_epoch, task_finished."""
        with self._begin() as rows:
            if rows.epoch(node_id) != epoch:
                raise ProblemError("stale_epoch", "a newer session of this node exists")
            task = rows.load(status.task_id)
            if task is None or task.node_id != node_id:
                raise ProblemError(
                    "unknown_task", f"this endpoint knows no task {status.task_id} of this node"
                )
            changed, verdict = taskstate.report(task, status, self._clock())
            if verdict is Verdict.APPLIED:
                progress = (
                    status.state is TaskState.RUNNING and not status.phase and task.state == changed.state
                )
                changed = _save(rows, changed)
                _record(rows, changed, progress=progress, fields=status.fields)
        return changed, verdict

    def change(self, task_id: str, step: Step, *, epoch: int | None = None) -> tuple[Task, bool]:
        """Apply one of taskstate's functions; the flag says whether anything changed.

        With ``epoch`` only if that is still the node's newest session: what an older one heard is no news.
        Raises what ``step`` raises, and TeethError when there is no such task.
        """
        with self._begin() as rows:
            task = rows.load(task_id)
            if task is None:
                raise TeethError(f"there is no task {task_id}")
            if epoch is not None and rows.epoch(task.node_id) != epoch:
                return task, False
            return _apply(rows, task, step, self._clock())

    def change_open(self, node_id: str, step: Step) -> list[Task]:
        """Apply ``step`` to every task of a node that is not over; returns those that changed."""
        with self._begin() as rows:
            now = self._clock()
            results = [_apply(rows, task, step, now) for task in rows.listing(node_id, open_only=True)]
        return [task for task, changed in results if changed]

    def resume(
        self, node_id: str, *, boot_id: str, listed: frozenset[str] | None
    ) -> tuple[list[Task], list[Task]]:
        """A session began: (tasks that changed by that, tasks whose command is to be sent), oldest first."""
        changed: list[Task] = []
        send: list[Task] = []
        with self._begin() as rows:
            now = self._clock()
            for task in rows.listing(node_id, open_only=True):
                after, again = taskstate.reconnected(task, boot_id=boot_id, listed=listed, now=now)
                if after != task:
                    after = _save(rows, after)
                    _record(rows, after, progress=False)
                    changed.append(after)
                if again:
                    send.append(after)
        return changed, send

    def events(self, task_id: str) -> list[dict[str, Any]]:
        """What happened to a task, in order; of plain progress only the newest 200 are kept."""
        with self._begin() as rows:
            return rows.events(task_id)

    def land(self, token_hash: str, body_digest: str, facts: Mapping[str, Any]) -> tuple[Task, bool]:
        """Spend a landing token. The flag is False for a repetition of the same report.

        Raises ProblemError: landing_unknown, or landing_used when something else was reported before.
        """
        now = self._clock()
        with self._begin() as rows:
            landing = rows.landing(token_hash)
            if landing is None:
                raise ProblemError("landing_unknown", "nothing is awaited here")
            task = rows.load(landing.task_id)
            assert task is not None
            if landing.body_digest is not None:
                if landing.body_digest == body_digest:
                    return task, False
                raise ProblemError("landing_used", "this landing was already reported")
            rows.spend_landing(token_hash, body_digest, facts, now)
            task, _ = _apply(rows, task, lambda old, at: taskstate.landed(old, facts, at), now)
        return task, True


def _require_free(task: Task, rows: TaskRows) -> None:
    if not task.destructive:
        return
    held_by = taskstate.holder(task, rows.listing(task.node_id, open_only=True))
    if held_by is not None:
        raise TeethError(
            f"node {task.node_id} is held: nobody knows what became of task {held_by.task_id} "
            f"({held_by.method})",
            hint="look at the machine, then settle that task",
        )


def _apply(rows: TaskRows, task: Task, step: Step, now: float) -> tuple[Task, bool]:
    changed = step(task, now)
    if changed == task:
        return task, False
    changed = _save(rows, changed)
    _record(rows, changed, progress=False)
    return changed, True


def _save(rows: TaskRows, task: Task) -> Task:
    kept = dataclasses.replace(task, revision=task.revision + 1)
    rows.save(kept)
    if kept.state.over:
        rows.wipe(kept.task_id)
    return kept


def _record(rows: TaskRows, task: Task, *, progress: bool, fields: Mapping[str, Any] | None = None) -> None:
    body: dict[str, Any] = {"percent": task.percent, "eta": task.eta, "step": task.step, "phase": task.phase}
    if task.code:
        body |= {"code": task.code, "msg": task.msg}
    if fields:
        body["fields"] = dict(fields)
    rows.record(task, body, progress=progress)
