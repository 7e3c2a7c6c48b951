"""The wire by hand: lines in and out of a socket, whatever they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

DEADLINE = 20.0
Message = dict[str, Any]


class RawWire:
    """One connection. ``said`` are the messages that came, in order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.said: list[Message] = []
        self.ended = False

    async def send(self, data: bytes) -> None:
        """The peer may have hung up in the middle of it: that shows when it is read."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            async with asyncio.timeout(DEADLINE):
                await self._writer.drain()

    async def say(self, **members: Any) -> None:
        await self.send(json.dumps(members).encode() + b"\n")

    async def hear(self, wanted: Callable[[Message], bool]) -> Message | None:
        """The next message that is ``wanted``, None when the peer hung up first."""
        while (message := await self._next()) is not None:
            if wanted(message):
                return message
        return None

    async def to_the_end(self) -> list[Message]:
        """All that comes until the peer hangs up."""
        await self.hear(lambda message: False)
        return self.said

    async def answers(self, wanted: Mapping[str, int]) -> bool:
        """Until so many answers came to each of these ids; False when the peer hung up first."""
        while any(sum(m.get("id") == i for m in self.answered()) < count for i, count in wanted.items()):
            if await self._next() is None:
                return False
        return True

    def answered(self) -> list[Message]:
        return [message for message in self.said if "result" in message or "error" in message]

    def fatal(self) -> str | None:
        return next((message["fatal_error"] for message in self.said if "fatal_error" in message), None)

    async def _next(self) -> Message | None:
        try:
            async with asyncio.timeout(DEADLINE):
                line = await self._reader.readline()
        except ConnectionError:
            line = b""
        if not line:
            self.ended = True
            return None
        message: Message = json.loads(line)
        self.said.append(message)
        return message

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def code_of(message: Message) -> str:
    """The code of an answer, "" for a result."""
    return str(message.get("error", {}).get("code", ""))
