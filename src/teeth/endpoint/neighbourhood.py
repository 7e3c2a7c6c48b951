"""Who shares images now: kept up to date by what happens, in memory only, found out anew after a restart."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from teeth.endpoint.dispatch import Seat
from teeth.endpoint.events import NodeConnected, NodeDisconnected, Subscription, TaskChanged
from teeth.endpoint.hub import Hub
from teeth.endpoint.logs import note
from teeth.endpoint.nearby import Nearby, Sharers, brought_nearer
from teeth.endpoint.taskstate import Task, TaskState
from teeth.endpoint.taskstore import Fit
from teeth_protocol.methods import CACHE_IMAGES, PREPARE_IMAGE

_log = logging.getLogger(__name__)


class Neighbourhood:
    """Use it from the endpoint's loop only; what ``fit`` returns may be called anywhere."""

    def __init__(self, nearby: Nearby, own: str) -> None:
        """``own``: the base of the endpoint's own image URLs."""
        self._nearby = nearby
        self._own = own
        self.sharers = Sharers(networks=nearby.peers)

    def fit(self, session: Seat, task: Task) -> Fit | None:
        """What the params of a task become for the machine of this session, None if nothing else."""
        if task.method not in (PREPARE_IMAGE, CACHE_IMAGES) or not (
            self._nearby.caches or self._nearby.peers
        ):
            return None
        host, sharers = host_of(session.address), self.sharers

        def fitted(params: Mapping[str, Any]) -> dict[str, Any]:
            return brought_nearer(
                task.method, params, node_id=task.node_id, host=host, nearby=self._nearby, sharers=sharers,
                own=self._own,
            )  # fmt: skip

        return fitted

    async def follow(self, hub: Hub, watcher: Subscription) -> None:
        """Until the subscription is closed."""
        async for event in watcher:
            match event:
                case TaskChanged(task=Task(method=method, state=TaskState.COMPLETE) as task):
                    if method == CACHE_IMAGES:
                        self._heard(hub, task)
                case NodeConnected():
                    await self._returned(hub, event)
                case NodeDisconnected():
                    self.sharers = self.sharers.gone(event.node_id)
                case _:
                    pass

    async def _returned(self, hub: Hub, event: NodeConnected) -> None:
        """Its connection broke, or we were restarted: within one boot it goes on sharing."""
        try:
            tasks = await hub.db.call(hub.tasks.listing, event.node_id)
        except Exception:  # the disk is full, say: it is not asked by others, no more than that
            _log.exception("what a node shares could not be looked up")
            return
        done = [
            task
            for task in tasks
            if task.method == CACHE_IMAGES
            and task.state is TaskState.COMPLETE
            and task.boot_id == event.boot_id
        ]
        if done:
            self._heard(hub, max(done, key=lambda task: task.finished or 0.0))

    def _heard(self, hub: Hub, task: Task) -> None:
        session = hub.seat(task.node_id)
        if session is None or session.boot_id != task.boot_id:
            return
        before = self.sharers
        self.sharers = before.heard(task.node_id, host_of(session.address), task.params, task.result)
        if task.node_id in self.sharers.nodes:
            note(_log, logging.INFO, "node shares images", node=task.node_id)


def host_of(address: str) -> str:
    """The host of HOST:PORT or [HOST]:PORT."""
    host, _, _ = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]")
