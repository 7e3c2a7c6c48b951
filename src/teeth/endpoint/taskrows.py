"""The rows that tasks are made of, in one open transaction: the only place that says SQL about them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from teeth.endpoint.schema import landings, nodes, task_events, task_secrets, tasks
from teeth.endpoint.taskstate import Task, TaskState

_PROGRESS_KEPT = 200  # rows a task; enough to draw its curve, whatever it reports
_COLUMNS = tuple(column.name for column in tasks.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """A landing that is awaited, or was: ``body_digest`` is of the report that spent it."""

    task_id: str
    body_digest: str | None


class TaskRows(Protocol):
    """One transaction: what is read is as it stands, what is written is durable once the block was left."""

    def load(self, task_id: str) -> Task | None: ...

    def listing(self, node_id: str | None, *, open_only: bool = False) -> list[Task]:
        """Tasks (of one node, that are not over), oldest first."""
        ...

    def add(self, task: Task, params: Mapping[str, Any], landing_hash: str | None) -> None:
        """A new task and its params with their secrets."""
        ...

    def save(self, task: Task) -> None: ...

    def params(self, task_id: str) -> dict[str, Any] | None:
        """What ``add`` was given, None once it was wiped."""
        ...

    def replace_params(self, task_id: str, params: Mapping[str, Any]) -> None: ...

    def wipe(self, task_id: str) -> None:
        """Forget the params with their secrets."""
        ...

    def record(self, task: Task, body: Mapping[str, Any], *, progress: bool) -> None:
        """Keep what happened; of plain progress only the newest 200 a task."""
        ...

    def events(self, task_id: str) -> list[dict[str, Any]]: ...

    def epoch(self, node_id: str) -> int | None:
        """The newest session's; None for a node that was never here."""
        ...

    def landing(self, token_hash: str) -> Landing | None: ...

    def spend_landing(
        self, token_hash: str, body_digest: str, facts: Mapping[str, Any], now: float
    ) -> None: ...


Begin = Callable[[], AbstractContextManager[TaskRows]]


def sql_rows(engine: sa.Engine) -> Begin:
    """Transactions of a database."""

    @contextlib.contextmanager
    def begin() -> Iterator[TaskRows]:
        with engine.begin() as connection:
            yield _SqlRows(connection)

    return begin


class _SqlRows:
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def load(self, task_id: str) -> Task | None:
        row = self._connection.execute(sa.select(tasks).where(tasks.c.task_id == task_id)).one_or_none()
        return None if row is None else _task(row)

    def listing(self, node_id: str | None, *, open_only: bool = False) -> list[Task]:
        query = sa.select(tasks).order_by(tasks.c.created)
        if node_id is not None:
            query = query.where(tasks.c.node_id == node_id)
        if open_only:
            query = query.where(tasks.c.state.not_in([state.value for state in TaskState if state.over]))
        return [_task(row) for row in self._connection.execute(query)]

    def add(self, task: Task, params: Mapping[str, Any], landing_hash: str | None) -> None:
        self._connection.execute(tasks.insert().values(**_row(task)))
        self._connection.execute(task_secrets.insert().values(task_id=task.task_id, params=dict(params)))
        if landing_hash is not None:
            self._connection.execute(
                landings.insert().values(token_hash=landing_hash, task_id=task.task_id, created=task.created)
            )

    def save(self, task: Task) -> None:
        self._connection.execute(tasks.update().where(tasks.c.task_id == task.task_id).values(**_row(task)))

    def params(self, task_id: str) -> dict[str, Any] | None:
        query = sa.select(task_secrets.c.params).where(task_secrets.c.task_id == task_id)
        params: dict[str, Any] | None = self._connection.execute(query).scalar_one_or_none()
        return params

    def replace_params(self, task_id: str, params: Mapping[str, Any]) -> None:
        mine = task_secrets.c.task_id == task_id
        self._connection.execute(task_secrets.update().where(mine).values(params=dict(params)))

    def wipe(self, task_id: str) -> None:
        self._connection.execute(task_secrets.delete().where(task_secrets.c.task_id == task_id))

    def record(self, task: Task, body: Mapping[str, Any], *, progress: bool) -> None:
        self._connection.execute(
            task_events.insert().values(
                task_id=task.task_id, at=task.updated, progress=progress, state=task.state.value, body=body
            )
        )
        if progress:
            mine = sa.and_(task_events.c.task_id == task.task_id, task_events.c.progress)
            newest = sa.select(task_events.c.id).where(mine).order_by(task_events.c.id.desc())
            oldest_kept = newest.limit(1).offset(_PROGRESS_KEPT).scalar_subquery()
            self._connection.execute(task_events.delete().where(mine, task_events.c.id <= oldest_kept))

    def events(self, task_id: str) -> list[dict[str, Any]]:
        query = sa.select(task_events).where(task_events.c.task_id == task_id).order_by(task_events.c.id)
        return [{"at": row.at, "state": row.state, **row.body} for row in self._connection.execute(query)]

    def epoch(self, node_id: str) -> int | None:
        query = sa.select(nodes.c.epoch).where(nodes.c.node_id == node_id)
        epoch: int | None = self._connection.execute(query).scalar_one_or_none()
        return epoch

    def landing(self, token_hash: str) -> Landing | None:
        query = sa.select(landings).where(landings.c.token_hash == token_hash)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else Landing(task_id=row.task_id, body_digest=row.body_digest)

    def spend_landing(self, token_hash: str, body_digest: str, facts: Mapping[str, Any], now: float) -> None:
        self._connection.execute(
            landings.update()
            .where(landings.c.token_hash == token_hash)
            .values(used=now, body_digest=body_digest, facts=dict(facts))
        )


def _task(row: sa.Row[Any]) -> Task:
    values = {name: getattr(row, name) for name in _COLUMNS}
    return Task(**{**values, "state": TaskState(row.state)})


def _row(task: Task) -> dict[str, Any]:
    values = {name: getattr(task, name) for name in _COLUMNS}
    return {**values, "state": task.state.value}
