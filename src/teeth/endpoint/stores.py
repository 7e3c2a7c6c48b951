"""What the hub keeps things in, and how it asks for them: on disk, or on anything that keeps as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar

from teeth.endpoint.database import Database
from teeth.endpoint.nodestore import Node, NodeStore, Opened
from teeth.endpoint.taskrows import sql_rows
from teeth.endpoint.taskstore import TaskStore

P = ParamSpec("P")
T = TypeVar("T")


class Nodes(Protocol):
    """NodeStore, as far as the hub and its sessions use it. Every method is one transaction, and blocks."""

    def open_session(
        self,
        node_id: str,
        *,
        macs: tuple[str, ...],
        boot_id: str,
        agent: str,
        peer: str,
        ramdisk: str | None = None,
    ) -> Opened: ...

    def close_session(self, session_id: int, reason: str) -> None: ...

    def close_stale_sessions(self) -> None: ...

    def set_inventory(self, node_id: str, epoch: int, inventory: Mapping[str, Any]) -> bool: ...

    def node(self, node_id: str) -> Node | None: ...

    def listing(self) -> list[Node]: ...

    def silent_since(self, moment: float) -> list[str]: ...

    def add_log(self, node_id: str, record: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def logs(self, node_id: str) -> list[dict[str, Any]]: ...


class Stores(Protocol):
    """``call`` runs one of the stores' methods off the loop; calls are worked off in the order they came.

    When it has returned, what the method did is durable.
    """

    @property
    def nodes(self) -> Nodes: ...

    @property
    def tasks(self) -> TaskStore: ...

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


class SqlStores:
    """The stores of one database."""

    def __init__(self, db: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self.nodes = NodeStore(db.engine, clock=clock)
        self.tasks = TaskStore(sql_rows(db.engine), clock=clock)

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._db.call(function, *args, **kwargs)
