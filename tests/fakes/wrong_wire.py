"""A relay between the conformance kit and an endpoint or agent that keeps to the protocol: it makes it wrong.

A Fault sees every line of both directions and says what goes on instead of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

_LIMIT = 4 << 20
Change = Callable[[bytes], list[bytes] | None]


def _as_it_is(line: bytes) -> list[bytes] | None:
    return [line]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """``said``: lines of whom is tested; ``heard``: lines of the kit, before it gets them. None: hang up.

    ``greeting``: what whom is tested says first. ``deaf_to_end``: the connection stays when it has ended.
    """

    said: Change = _as_it_is
    heard: Change = _as_it_is
    greeting: tuple[bytes, ...] = ()
    deaf_to_end: bool = False


def when(test: Callable[[dict[str, Any]], object], change: Callable[[dict[str, Any]], object]) -> Change:
    """Change the messages that ``test`` finds: to what ``change`` gives (an object, bytes, several, None)."""

    def one(line: bytes) -> list[bytes] | None:
        try:
            message = json.loads(line)
        except ValueError:
            return [line]
        if not isinstance(message, dict) or not test(message):
            return [line]
        changed = change(message)
        if changed is None:
            return None
        many = changed if isinstance(changed, list) else [changed]
        return [item if isinstance(item, bytes) else json.dumps(item).encode() for item in many]

    return one


@contextlib.asynccontextmanager
async def relay(port: int, fault: Fault, *, tested_dials: bool = False) -> AsyncIterator[int]:
    """A port of 127.0.0.1 that leads to ``port``. ``tested_dials``: whom is tested comes in (an agent)."""
    jobs: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        job = asyncio.current_task()
        assert job is not None
        jobs.add(job)
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", port, limit=_LIMIT)
        except OSError:
            writer.close()
            return
        kit, tested = (
            ((there, to_there), (reader, writer)) if tested_dials else ((reader, writer), (there, to_there))
        )
        for line in fault.greeting:
            kit[1].write(line + b"\n")
        await asyncio.gather(
            _pass_on(tested[0], kit[1], fault.said, stay=fault.deaf_to_end),
            _pass_on(kit[0], tested[1], fault.heard),
            return_exceptions=True,
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_LIMIT)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await server.wait_closed()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Change, *, stay: bool = False
) -> None:
    try:
        while line := await reader.readline():
            changed = change(line.removesuffix(b"\n")) if line.endswith(b"\n") else [line]
            if changed is None:
                break
            for one in changed:
                writer.write(one + b"\n")
            await writer.drain()
        else:
            if stay:
                await asyncio.Event().wait()
    except OSError:
        pass
    finally:
        writer.close()
