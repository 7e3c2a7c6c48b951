"""What an operator looks at, in bounded pieces: ids, so that each store reads its own rows."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from teeth.endpoint.schema import logs, nodes, task_events, tasks
from teeth.endpoint.taskstate import TaskState

_OVER = [state.value for state in TaskState if state.over]
_OPEN_SHOWN = 1000  # open tasks of one page of nodes
_CANDIDATES = 1000  # ids among which a mistyped one is looked for
_NEAR = 5
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTask:
    """A task that is not over."""

    task_id: str
    node_id: str
    state: TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One entry of a task's history. ``body`` as the task store wrote it."""

    id: int
    at: float
    state: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """One record of a node's log: its place in the log, when it came, what it says."""

    id: int
    received: float
    record: dict[str, Any]


class Pages:
    """Each method is one transaction: it blocks, and any thread may call it. ``limit`` is obeyed as given."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def node_ids(self, *, after: str | None, limit: int) -> list[str]:
        """In the order of ids, those behind ``after``."""
        query = sa.select(nodes.c.node_id).order_by(nodes.c.node_id).limit(limit)
        if after is not None:
            query = query.where(nodes.c.node_id > after)
        return self._rows(query, lambda row: str(row.node_id))

    def named(self, name: str, mac: str | None) -> list[str]:
        """Nodes that ``name`` may mean: the one of that id, else those with ``mac``, else by its beginning.

        At most 11: more than ten are as good as any number.
        """
        wanted = [nodes.c.node_id == name]
        if mac is not None:
            # MACs are a JSON list of texts: the quotes make it the whole address.
            wanted.append(sa.cast(nodes.c.macs, sa.String).contains(f'"{mac}"', autoescape=True))
        wanted.append(nodes.c.node_id.startswith(name, autoescape=True))
        for where in wanted:
            query = sa.select(nodes.c.node_id).where(where).order_by(nodes.c.node_id).limit(11)
            if found := self._rows(query, lambda row: str(row.node_id)):
                return found
        return []

    def near(self, name: str) -> list[str]:
        """A few ids that look like ``name``, the likest first; else the first few that there are."""
        query = sa.select(nodes.c.node_id).order_by(nodes.c.last_seen.desc()).limit(_CANDIDATES)
        known = self._rows(query, lambda row: str(row.node_id))
        return difflib.get_close_matches(name, known, n=_NEAR, cutoff=0.5) or sorted(known[:_NEAR])

    def open_tasks(self, node_ids: Collection[str]) -> list[OpenTask]:
        """Tasks of these nodes that are not over, oldest first, at most 1000."""
        query = (
            sa.select(tasks.c.task_id, tasks.c.node_id, tasks.c.state)
            .where(tasks.c.node_id.in_(node_ids), tasks.c.state.not_in(_OVER))
            .order_by(tasks.c.created)
            .limit(_OPEN_SHOWN)
        )
        return self._rows(
            query,
            lambda row: OpenTask(task_id=row.task_id, node_id=row.node_id, state=TaskState(row.state)),
        )

    def task_ids(
        self,
        *,
        node_id: str | None,
        method: str | None,
        states: Sequence[TaskState],
        after: str | None,
        limit: int,
    ) -> list[str]:
        """Newest first; ``after``: those older than this task. No ``states`` means any."""
        query = sa.select(tasks.c.task_id).order_by(tasks.c.created.desc(), tasks.c.task_id.desc())
        if node_id is not None:
            query = query.where(tasks.c.node_id == node_id)
        if method is not None:
            query = query.where(tasks.c.method == method)
        if states:
            query = query.where(tasks.c.state.in_([state.value for state in states]))
        if after is not None:
            last = sa.select(tasks.c.created).where(tasks.c.task_id == after).scalar_subquery()
            older = sa.and_(tasks.c.created == last, tasks.c.task_id < after)
            query = query.where(sa.or_(tasks.c.created < last, older))
        return self._rows(query.limit(limit), lambda row: str(row.task_id))

    def events(self, task_id: str, *, after: int, limit: int) -> list[EventRow]:
        """A task's history behind entry ``after``, in order."""
        query = (
            sa.select(task_events)
            .where(task_events.c.task_id == task_id, task_events.c.id > after)
            .order_by(task_events.c.id)
            .limit(limit)
        )
        return self._rows(
            query, lambda row: EventRow(id=row.id, at=row.at, state=row.state, body=dict(row.body))
        )

    def last_event(self, task_id: str) -> int:
        """The newest entry of a task's history, 0 when there is none."""
        query = sa.select(sa.func.coalesce(sa.func.max(task_events.c.id), 0).label("last"))
        return int(self._rows(query.where(task_events.c.task_id == task_id), lambda row: row.last)[0])

    def logs(self, node_id: str, *, after: int | None, since: float, limit: int) -> list[LogRow]:
        """Records that came at ``since`` or later, in order: behind ``after``, or the newest if None."""
        query = sa.select(logs).where(logs.c.node_id == node_id, logs.c.received >= since).limit(limit)
        if after is not None:
            query = query.where(logs.c.id > after).order_by(logs.c.id)
        else:
            query = query.order_by(logs.c.id.desc())
        rows = self._rows(
            query, lambda row: LogRow(id=row.id, received=row.received, record=dict(row.record))
        )
        return rows if after is not None else rows[::-1]

    def _rows(self, query: sa.Select[Any], read: Callable[[sa.Row[Any]], T]) -> list[T]:
        with self._engine.begin() as connection:
            return [read(row) for row in connection.execute(query)]
