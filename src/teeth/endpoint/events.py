"""What an endpoint tells whoever watches it: typed events and bounded queues of them."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from teeth.endpoint.taskstate import Task, TaskState

_LIMIT = 1024  # events a watcher may lag behind before progress is thinned
_HARD_LIMIT = 16 * _LIMIT  # beyond that nobody is watching any more


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConnected:
    """A handshake was accepted. ``timings``: the agent's milestones in seconds since its kernel started."""

    node_id: str
    macs: tuple[str, ...]
    boot_id: str
    epoch: int
    agent: str
    at: float
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDisconnected:
    node_id: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRefused:
    """Somebody's handshake was refused. ``node_id`` is what it claimed to be."""

    node_id: str
    code: str
    msg: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryReceived:
    node_id: str
    inventory: Mapping[str, Any]
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChanged:
    """A task as it stands now. ``progress``: only its figures moved, so it may be skipped."""

    task: Task
    fields: Mapping[str, Any]
    progress: bool

    @property
    def task_id(self) -> str:
        return self.task.task_id

    @property
    def state(self) -> TaskState:
        return self.task.state

    @property
    def percent(self) -> float:
        return self.task.percent

    @property
    def eta(self) -> float | None:
        return self.task.eta

    @property
    def step(self) -> str:
        return self.task.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """The started system phoned home with these facts."""

    task_id: str
    node_id: str
    facts: Mapping[str, Any]
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BootServed:
    """A transfer from the boot door ended after ``bytes``."""

    file: str
    bytes: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LogReceived:
    node_id: str
    record: Mapping[str, Any]
    at: float


Event = (
    NodeConnected | NodeDisconnected | NodeRefused | InventoryReceived | TaskChanged | Landed | BootServed
    | LogReceived
)  # fmt: skip


class Subscription:
    """One watcher's queue, in order. ``async for`` ends when it is closed."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._events: collections.deque[Event] = collections.deque()
        self._arrived = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def put(self, event: Event) -> None:
        """Add an event. When full, the oldest mere progress gives way; nothing else is ever dropped."""
        if self._closed:
            return
        if len(self._events) >= _LIMIT:
            self._make_room()
        if len(self._events) >= _HARD_LIMIT:
            self.close()
            return
        self._events.append(event)
        self._arrived.set()

    async def get(self) -> Event | None:
        """The next event; None once the subscription is closed and empty."""
        while not self._events and not self._closed:
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft() if self._events else None

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self.get()) is not None:
            yield event

    def close(self) -> None:
        self._closed = True
        self._arrived.set()
        self._feed.forget(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_room(self) -> None:
        for index, event in enumerate(self._events):
            if isinstance(event, TaskChanged) and event.progress:
                del self._events[index]
                self.dropped += 1
                return


class Feed:
    """All watchers. Use it from the event loop only."""

    def __init__(self) -> None:
        self._watchers: list[Subscription] = []

    def subscribe(self) -> Subscription:
        """A queue of everything that happens from now on. Close it (or use ``with``)."""
        watcher = Subscription(self)
        self._watchers.append(watcher)
        return watcher

    def publish(self, event: Event) -> None:
        for watcher in list(self._watchers):
            watcher.put(event)

    def forget(self, watcher: Subscription) -> None:
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def close(self) -> None:
        for watcher in list(self._watchers):
            watcher.close()
