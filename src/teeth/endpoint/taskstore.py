"""Tasks on disk. Every method is one transaction: what it returned is durable."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from teeth.endpoint import taskstate
from teeth.endpoint.schema import landings, nodes, task_events, task_secrets, tasks
from teeth.endpoint.secrets import redact
from teeth.endpoint.taskstate import Status, Task, TaskState, Verdict, json_digest
from teeth.errors import TeethError
from teeth_protocol.errors import ProblemError

_PROGRESS_KEPT = 200  # rows a task; enough to draw its curve, whatever it reports
_COLUMNS = tuple(column.name for column in tasks.columns)


class TaskStore:
    def __init__(self, engine: sa.Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
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
        agent (a landing URL is added on the way). Raises TeethError for the same id with other params.
        """
        now = self._clock()
        task = Task(
            task_id=task_id, node_id=node_id, method=method, params=redact(asked),
            params_digest=json_digest(dict(asked)), awaits_landing=landing_hash is not None,
            held=held, state=TaskState.QUEUED, created=now, updated=now,
        )  # fmt: skip
        with self._engine.begin() as connection:
            known = _load(connection, task_id)
            if known is not None:
                same = (known.node_id, known.method, known.params_digest) == (
                    node_id, method, task.params_digest,
                )  # fmt: skip
                if not same:
                    raise TeethError(f"task {task_id} exists already and asks for something else")
                return known, False
            connection.execute(tasks.insert().values(**_row(task)))
            connection.execute(task_secrets.insert().values(task_id=task_id, params=dict(sent)))
            if landing_hash is not None:
                connection.execute(
                    landings.insert().values(token_hash=landing_hash, task_id=task_id, created=now)
                )
            _record(connection, task, progress=False)
        return task, True

    def get(self, task_id: str) -> Task | None:
        with self._engine.begin() as connection:
            return _load(connection, task_id)

    def listing(self, node_id: str | None = None) -> list[Task]:
        """Every task (of one node), oldest first, without secrets."""
        query = sa.select(tasks).order_by(tasks.c.created)
        if node_id is not None:
            query = query.where(tasks.c.node_id == node_id)
        with self._engine.begin() as connection:
            return [_task(row) for row in connection.execute(query)]

    def sending(self, task_id: str, boot_id: str) -> dict[str, Any] | None:
        """Note that the task goes to this boot and return its whole params, None when it is over."""
        query = sa.select(task_secrets.c.params).where(task_secrets.c.task_id == task_id)
        with self._engine.begin() as connection:
            params: dict[str, Any] | None = connection.execute(query).scalar_one_or_none()
            if params is not None:
                connection.execute(tasks.update().where(tasks.c.task_id == task_id).values(boot_id=boot_id))
        return params

    def report(self, node_id: str, epoch: int, status: Status) -> tuple[Task, Verdict]:
        """Apply an agent's report. Raises ProblemError: unknown_task, stale_epoch, task_finished."""
        with self._engine.begin() as connection:
            current = connection.execute(
                sa.select(nodes.c.epoch).where(nodes.c.node_id == node_id)
            ).scalar_one_or_none()
            if current != epoch:
                raise ProblemError("stale_epoch", "a newer session of this node exists")
            task = _load(connection, status.task_id)
            if task is None or task.node_id != node_id:
                raise ProblemError(
                    "unknown_task", f"this endpoint knows no task {status.task_id} of this node"
                )
            changed, verdict = taskstate.report(task, status, self._clock())
            if verdict is Verdict.APPLIED:
                progress = (
                    status.state is TaskState.RUNNING and not status.phase and task.state == changed.state
                )
                _save(connection, changed)
                _record(connection, changed, progress=progress, fields=status.fields)
        return changed, verdict

    def change(self, task_id: str, step: Callable[[Task, float], Task]) -> tuple[Task, bool]:
        """Apply one of taskstate's functions; the flag says whether anything changed."""
        with self._engine.begin() as connection:
            task = _load(connection, task_id)
            if task is None:
                raise TeethError(f"there is no task {task_id}")
            return _apply(connection, task, step, self._clock())

    def change_open(self, node_id: str, step: Callable[[Task, float], Task]) -> list[Task]:
        """Apply ``step`` to every task of a node that is not over; returns those that changed."""
        with self._engine.begin() as connection:
            results = [
                _apply(connection, task, step, self._clock()) for task in _open_tasks(connection, node_id)
            ]
        return [task for task, changed in results if changed]

    def resume(
        self, node_id: str, *, boot_id: str, listed: frozenset[str] | None
    ) -> tuple[list[Task], list[Task]]:
        """A session began: (tasks that changed by that, tasks whose command is to be sent), oldest first."""
        changed: list[Task] = []
        send: list[Task] = []
        with self._engine.begin() as connection:
            now = self._clock()
            for task in _open_tasks(connection, node_id):
                after, again = taskstate.reconnected(task, boot_id=boot_id, listed=listed, now=now)
                if after != task:
                    _save(connection, after)
                    _record(connection, after, progress=False)
                    changed.append(after)
                if again:
                    send.append(after)
        return changed, send

    def events(self, task_id: str) -> list[dict[str, Any]]:
        """What happened to a task, in order; of plain progress only the newest 200 are kept."""
        query = sa.select(task_events).where(task_events.c.task_id == task_id).order_by(task_events.c.id)
        with self._engine.begin() as connection:
            return [{"at": row.at, "state": row.state, **row.body} for row in connection.execute(query)]

    def land(self, token_hash: str, body_digest: str, facts: Mapping[str, Any]) -> tuple[Task, bool]:
        """Spend a landing token. The flag is False for a repetition of the same report.

        Raises ProblemError: landing_unknown, or landing_used when something else was reported before.
        """
        where = landings.c.token_hash == token_hash
        now = self._clock()
        with self._engine.begin() as connection:
            row = connection.execute(sa.select(landings).where(where)).one_or_none()
            if row is None:
                raise ProblemError("landing_unknown", "nothing is awaited here")
            task = _load(connection, row.task_id)
            assert task is not None
            if row.used is not None:
                if row.body_digest == body_digest:
                    return task, False
                raise ProblemError("landing_used", "this landing was already reported")
            connection.execute(
                landings.update().where(where).values(used=now, body_digest=body_digest, facts=dict(facts))
            )
            task, _ = _apply(connection, task, lambda old, at: taskstate.landed(old, facts, at), now)
        return task, True


def _apply(
    connection: sa.Connection, task: Task, step: Callable[[Task, float], Task], now: float
) -> tuple[Task, bool]:
    changed = step(task, now)
    if changed == task:
        return task, False
    _save(connection, changed)
    _record(connection, changed, progress=False)
    return changed, True


def _open_tasks(connection: sa.Connection, node_id: str) -> list[Task]:
    over = [state.value for state in TaskState if state.over]
    query = sa.select(tasks).where(tasks.c.node_id == node_id, tasks.c.state.not_in(over))
    return [_task(row) for row in connection.execute(query.order_by(tasks.c.created))]


def _load(connection: sa.Connection, task_id: str) -> Task | None:
    row = connection.execute(sa.select(tasks).where(tasks.c.task_id == task_id)).one_or_none()
    return None if row is None else _task(row)


def _task(row: sa.Row[Any]) -> Task:
    values = {name: getattr(row, name) for name in _COLUMNS}
    return Task(**{**values, "state": TaskState(row.state)})


def _row(task: Task) -> dict[str, Any]:
    values = {name: getattr(task, name) for name in _COLUMNS}
    return {**values, "state": task.state.value}


def _save(connection: sa.Connection, task: Task) -> None:
    connection.execute(tasks.update().where(tasks.c.task_id == task.task_id).values(**_row(task)))
    if task.state.over:
        connection.execute(task_secrets.delete().where(task_secrets.c.task_id == task.task_id))


def _record(
    connection: sa.Connection, task: Task, *, progress: bool, fields: Mapping[str, Any] | None = None
) -> None:
    body: dict[str, Any] = {"percent": task.percent, "eta": task.eta, "step": task.step, "phase": task.phase}
    if task.code:
        body |= {"code": task.code, "msg": task.msg}
    if fields:
        body["fields"] = dict(fields)
    connection.execute(
        task_events.insert().values(
            task_id=task.task_id, at=task.updated, progress=progress, state=task.state.value, body=body
        )
    )
    if progress:
        mine = sa.and_(task_events.c.task_id == task.task_id, task_events.c.progress)
        newest = sa.select(task_events.c.id).where(mine).order_by(task_events.c.id.desc())
        oldest_kept = newest.limit(1).offset(_PROGRESS_KEPT).scalar_subquery()
        connection.execute(task_events.delete().where(mine, task_events.c.id <= oldest_kept))
