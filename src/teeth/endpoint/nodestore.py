"""Nodes, their sessions and what they logged, on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from teeth.endpoint.schema import logs, nodes, sessions
from teeth.endpoint.secrets import redact

_LOGS_KEPT = 10_000  # records a node: some MiB, and days of an ordinary machine
_SESSIONS_KEPT = 1000  # a node; weeks of one that has a bad line
_LOG_SIZE = 16 << 10  # letters of one record as JSON; our agent's have at most a fifth of that
_LOG_TEXT = 1024
_LOG_NAME = 64
_LOG_MEMBERS = 12
_LOGS_SLACK = 256  # how many more may gather before the oldest are removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine as last seen. Times in seconds since the epoch."""

    node_id: str
    macs: tuple[str, ...]
    first_seen: float
    last_seen: float
    epoch: int
    boot_id: str
    agent: str
    inventory: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A session's identity in the store."""

    session_id: int
    epoch: int


class NodeStore:
    def __init__(self, engine: sa.Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock
        self._since_trim: dict[str, int] = {}

    def open_session(
        self,
        node_id: str,
        *,
        macs: tuple[str, ...],
        boot_id: str,
        agent: str,
        peer: str,
        ramdisk: str | None = None,
    ) -> Opened:
        """Note an accepted handshake: the node's epoch rises by one."""
        now = self._clock()
        seen = {
            "macs": list(macs), "last_seen": now, "boot_id": boot_id, "agent": agent, "ramdisk": ramdisk,
        }  # fmt: skip
        with self._engine.begin() as connection:
            where = nodes.c.node_id == node_id
            epoch = connection.execute(sa.select(nodes.c.epoch).where(where)).scalar_one_or_none()
            if epoch is None:
                connection.execute(nodes.insert().values(node_id=node_id, first_seen=now, epoch=1, **seen))
            else:
                connection.execute(nodes.update().where(where).values(epoch=epoch + 1, **seen))
            opened = connection.execute(
                sessions.insert().values(
                    node_id=node_id, epoch=(epoch or 0) + 1, boot_id=boot_id, peer=peer, opened=now
                )
            )
            key = opened.inserted_primary_key
        assert key is not None
        return Opened(session_id=key[0], epoch=(epoch or 0) + 1)

    def close_session(self, session_id: int, reason: str) -> None:
        now = self._clock()
        with self._engine.begin() as connection:
            where = sessions.c.id == session_id
            connection.execute(sessions.update().where(where).values(closed=now, reason=reason[:1024]))
            node_id = connection.execute(sa.select(sessions.c.node_id).where(where)).scalar_one_or_none()
            if node_id is None:
                return  # the node was forgotten meanwhile
            connection.execute(nodes.update().where(nodes.c.node_id == node_id).values(last_seen=now))
            newest = (
                sa.select(sessions.c.id).where(sessions.c.node_id == node_id).order_by(sessions.c.id.desc())
            )
            oldest_kept = newest.limit(1).offset(_SESSIONS_KEPT).scalar_subquery()
            connection.execute(
                sessions.delete().where(sessions.c.node_id == node_id, sessions.c.id <= oldest_kept)
            )

    def close_stale_sessions(self) -> None:
        """What was open when the endpoint last ended without a word is not open now."""
        with self._engine.begin() as connection:
            connection.execute(
                sessions.update()
                .where(sessions.c.closed.is_(None))
                .values(closed=self._clock(), reason="the endpoint ended")
            )

    def set_inventory(self, node_id: str, epoch: int, inventory: Mapping[str, Any]) -> bool:
        """Keep a node's facts; False when a newer session exists."""
        with self._engine.begin() as connection:
            done = connection.execute(
                nodes.update()
                .where(nodes.c.node_id == node_id, nodes.c.epoch == epoch)
                .values(inventory=redact(inventory), inventory_at=self._clock())
            )
        return done.rowcount == 1

    def node(self, node_id: str) -> Node | None:
        with self._engine.begin() as connection:
            row = connection.execute(sa.select(nodes).where(nodes.c.node_id == node_id)).one_or_none()
        return None if row is None else _node(row)

    def listing(self) -> list[Node]:
        with self._engine.begin() as connection:
            return [_node(row) for row in connection.execute(sa.select(nodes).order_by(nodes.c.first_seen))]

    def silent_since(self, moment: float) -> list[str]:
        """Nodes without a session whose last word is older than ``moment``."""
        busy = sa.select(sessions.c.node_id).where(sessions.c.closed.is_(None))
        query = sa.select(nodes.c.node_id).where(nodes.c.last_seen < moment, nodes.c.node_id.not_in(busy))
        with self._engine.begin() as connection:
            return list(connection.execute(query).scalars())

    def add_log(self, node_id: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keep one record, the oldest beyond 10,000 a node go; returns it as it was kept.

        Of one that is far longer than any of our agent's only the short texts and the numbers are kept.
        """
        kept: dict[str, Any] = _short(redact(record))
        with self._engine.begin() as connection:
            connection.execute(logs.insert().values(node_id=node_id, received=self._clock(), record=kept))
            since = self._since_trim.get(node_id, _LOGS_SLACK) + 1
            if since > _LOGS_SLACK:
                since = 0
                newest = sa.select(logs.c.id).where(logs.c.node_id == node_id).order_by(logs.c.id.desc())
                oldest_kept = newest.limit(1).offset(_LOGS_KEPT).scalar_subquery()
                connection.execute(logs.delete().where(logs.c.node_id == node_id, logs.c.id <= oldest_kept))
            self._since_trim[node_id] = since
        return kept

    def logs(self, node_id: str) -> list[dict[str, Any]]:
        query = sa.select(logs.c.record).where(logs.c.node_id == node_id).order_by(logs.c.id)
        with self._engine.begin() as connection:
            return list(connection.execute(query).scalars())


def _short(record: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(record, ensure_ascii=False))
    if size <= _LOG_SIZE:
        return record
    short = {
        name: value[:_LOG_TEXT] if isinstance(value, str) else value
        for name, value in record.items()
        if isinstance(value, int | float | str) and len(name) <= _LOG_NAME
    }
    few = list(short.items())[:_LOG_MEMBERS]
    return {**dict(few), "left_out": f"the record had {size} letters"}


def _node(row: sa.Row[Any]) -> Node:
    return Node(
        node_id=row.node_id, macs=tuple(row.macs), first_seen=row.first_seen, last_seen=row.last_seen,
        epoch=row.epoch, boot_id=row.boot_id, agent=row.agent, inventory=row.inventory,
    )  # fmt: skip
