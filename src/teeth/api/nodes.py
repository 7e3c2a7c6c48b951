"""``/v1/nodes``: machines, what they are, what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from starlette.responses import StreamingResponse

from teeth.api.bells import LOG, Bells
from teeth.api.guard import StrictRoute
from teeth.api.problems import ApiError
from teeth.api.shapes import (
    Done,
    LogPage,
    NodeBrief,
    NodeInventory,
    NodePage,
    NodeStatus,
    Record,
)
from teeth.api.stream import BATCH, DOC, EventStream, Message, going_on
from teeth.api.views import exact_node, find_node, node_briefs
from teeth.endpoint.pages import LogRow
from teeth.service import Endpoint
from teeth_protocol import methods

_NOW = "The agent is asked now: 409 when it is not connected."
Name = Annotated[
    str, Path(max_length=128, description="a node's id, the beginning of it that no other has, or a MAC")
]
Force = Annotated[
    bool, Query(description="although tasks of it are open: those end, or become unknown if they were begun")
]
Limit = Annotated[int, Query(ge=1, le=500)]
Place = Annotated[int | None, Query(ge=0, lt=1 << 53)]
Since = Annotated[float, Query(ge=0, description="seconds since the epoch")]


class Nodes:
    """The handlers, over one endpoint."""

    def __init__(self, endpoint: Endpoint, bells: Bells) -> None:
        self._endpoint = endpoint
        self._bells = bells

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1/nodes", tags=["nodes"], route_class=StrictRoute)
        add = router.add_api_route
        add("", self.listing, methods=["GET"], summary="Every node, by id")
        add("/{name}", self.one, methods=["GET"], summary="One node")
        add("/{name}", self.forget, methods=["DELETE"], summary="Forget a node (by its whole id)")
        add("/{name}/inventory", self.inventory, methods=["GET"], summary="What the node is made of")
        add("/{name}/status", self.status, methods=["GET"], summary="The agent's state", description=_NOW)
        add("/{name}/logs", self.logs, methods=["GET"], summary="What the node logged")
        add(
            "/{name}/logs/follow",
            self.follow,
            methods=["GET"],
            summary="What the node logs from now on (or from `after` on), as events named `log`",
            responses=DOC,
            response_class=StreamingResponse,
            response_model=None,
        )
        return router

    async def listing(
        self, after: Annotated[str | None, Query(max_length=128)] = None, limit: Limit = 100
    ) -> NodePage:
        ids = await self._endpoint.look(lambda pages: pages.node_ids(after=after, limit=limit + 1))
        found = [await self._endpoint.node(node_id) for node_id in ids[:limit]]
        nodes = await node_briefs(self._endpoint, [node for node in found if node is not None])
        return NodePage(nodes=nodes, next=ids[limit - 1] if len(ids) > limit else None)

    async def one(self, name: Name) -> NodeBrief:
        node = await find_node(self._endpoint, name)
        return (await node_briefs(self._endpoint, [node]))[0]

    async def forget(self, name: Name, force: Force = False) -> Done:
        """Its session ends, another machine may take its id; its tasks stay on record."""
        node = await exact_node(self._endpoint, name)
        await self._endpoint.forget_node(node.node_id, force=force)
        return Done()

    async def inventory(self, name: Name) -> NodeInventory:
        node = await find_node(self._endpoint, name)
        facts = node.inventory
        return NodeInventory(id=node.node_id, inventory=None if facts is None else dict(facts))

    async def status(self, name: Name) -> NodeStatus:
        node = await find_node(self._endpoint, name)
        if self._endpoint.session(node.node_id) is None:
            raise ApiError(409, "node_not_connected", f"node {node.node_id} is not connected")
        return NodeStatus(id=node.node_id, status=await self._endpoint.call(node.node_id, methods.STATUS))

    async def logs(self, name: Name, after: Place = None, since: Since = 0.0, limit: Limit = 100) -> LogPage:
        """The newest ones, or those behind ``after``; only those that came at ``since`` or later."""
        node = await find_node(self._endpoint, name)
        rows = await self._endpoint.look(
            lambda pages: pages.logs(node.node_id, after=after, since=since, limit=limit)
        )
        return LogPage(logs=_records(rows), next=rows[-1].id if rows else after)

    async def follow(
        self,
        name: Name,
        after: Place = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> EventStream:
        node_id = (await find_node(self._endpoint, name)).node_id
        place = going_on(last_event_id, after)
        if place is None:
            newest = await self._endpoint.look(
                lambda pages: pages.logs(node_id, after=None, since=0.0, limit=1)
            )
            place = newest[-1].id if newest else 0

        async def look() -> tuple[Sequence[Message], bool]:
            nonlocal place
            rows = await self._endpoint.look(
                lambda pages: pages.logs(node_id, after=place, since=0.0, limit=BATCH)
            )
            place = rows[-1].id if rows else place
            return [Message(event="log", data=record, id=record.id) for record in _records(rows)], False

        return EventStream(self._bells, (LOG, node_id), look)


def _records(rows: Sequence[LogRow]) -> list[Record]:
    return [Record(id=row.id, received=row.received, record=row.record) for row in rows]
