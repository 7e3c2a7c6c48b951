"""Server-sent events: what is new in the store, each time a bell rings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from teeth.api.bells import Bells, Key

HEARTBEAT = 15.0  # seconds of silence after which a comment says that the stream lives
BATCH = 100  # entries of one look
DOC: dict[int | str, dict[str, Any]] = {
    200: {"description": "server-sent events", "content": {"text/event-stream": {}}}
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One event of a stream. ``id`` None: not a place to go on from."""

    event: str
    data: BaseModel
    id: int | None = None

    def encode(self) -> bytes:
        place = "" if self.id is None else f"id: {self.id}\n"
        return f"{place}event: {self.event}\ndata: {self.data.model_dump_json()}\n\n".encode()


# What is new since the last look, and whether that was the last of it. It bounds what it returns.
Look = Callable[[], Awaitable[tuple[Sequence[Message], bool]]]


class EventStream(StreamingResponse):
    """Looks at once and after each ring of ``key``. Nothing is kept for a reader that is slow."""

    media_type = "text/event-stream"
    heartbeat = HEARTBEAT

    def __init__(self, bells: Bells, key: Key, look: Look) -> None:
        self._bells = bells
        self._key = key
        self._look = look
        self._bell = asyncio.Event()
        super().__init__(self._messages(), headers={"cache-control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._bells.listen(self._key) as self._bell:
            await super().__call__(scope, receive, send)

    async def _messages(self) -> AsyncIterator[bytes]:
        last = False
        while not last and not self._bells.closed:
            self._bell.clear()
            messages, last = await self._look()
            for message in messages:
                yield message.encode()
            if messages or last:
                continue  # there may be more than one look returns
            try:
                await asyncio.wait_for(self._bell.wait(), self.heartbeat)
            except TimeoutError:
                yield b": heartbeat\n\n"


def going_on(last_event_id: str | None, after: int | None) -> int | None:
    """Where a stream goes on: what a browser says by itself counts more than what the address says."""
    if last_event_id is not None and last_event_id.isdecimal() and len(last_event_id) < 16:
        return int(last_event_id)
    return after
