"""Who watches is woken; what there is to see is read from the store."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Iterator

from teeth.api.problems import ApiError
from teeth.endpoint.events import LogReceived, TaskChanged
from teeth.service import Endpoint

_WATCHERS = 64  # of the 256 connections that one door takes
TASK = "task"
LOG = "log"
Key = tuple[str, str]


class Bells:
    """One subscription for all watchers of a door.

    A slow reader delays nobody and piles nothing up: however often it is rung, it looks once when it can.
    """

    def __init__(self) -> None:
        self._bells: dict[Key, set[asyncio.Event]] = collections.defaultdict(set)
        self._count = 0
        self.closed = False

    @contextlib.asynccontextmanager
    async def hung(self, endpoint: Endpoint) -> AsyncIterator[Bells]:
        """Ring for what happens at ``endpoint`` while the block runs; every watch ends with it."""
        with endpoint.subscribe() as events:

            async def pump() -> None:
                async for event in events:
                    if isinstance(event, TaskChanged):
                        self._ring((TASK, event.task_id))
                    elif isinstance(event, LogReceived):
                        self._ring((LOG, event.node_id))
                self.close()

            pumping = asyncio.create_task(pump())
            try:
                yield self
            finally:
                self.close()
                pumping.cancel()
                await asyncio.gather(pumping, return_exceptions=True)

    def close(self) -> None:
        """End every watch."""
        self.closed = True
        for key in list(self._bells):
            self._ring(key)

    @contextlib.contextmanager
    def listen(self, key: Key) -> Iterator[asyncio.Event]:
        """An event that is set whenever something happens to ``key``. Raises ApiError when too many watch."""
        if self._count >= _WATCHERS:
            raise ApiError(
                503, "too_many_watchers", f"{_WATCHERS} watch already", hint="end one, or ask again"
            )
        bell = asyncio.Event()
        self._bells[key].add(bell)
        self._count += 1
        try:
            yield bell
        finally:
            self._count -= 1
            self._bells[key].discard(bell)
            if not self._bells[key]:
                del self._bells[key]

    def _ring(self, key: Key) -> None:
        for bell in self._bells.get(key, ()):
            bell.set()
