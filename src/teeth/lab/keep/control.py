"""Telling a keeper what to do: JSON over a Unix socket, one request and one answer a connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from teeth.errors import TeethError
from teeth.lab.unixpath import short

_LINE_MAX = 4 << 20
Answer = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class GoneError(TeethError):
    """Nobody answers where a keeper should."""


def listening(path: Path) -> socket.socket:
    """A listening socket at ``path``, ours alone; an old one there is replaced. Raises TeethError.

    The path may be longer than a socket's address: it goes by way of its folder.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        with short(path) as address:
            made.bind(address)
        path.chmod(0o600)
        made.listen(16)
    except OSError as error:
        made.close()
        raise TeethError(f"socket {path}: {error.strerror or error}") from error
    return made


@asynccontextmanager
async def served(path: Path, answer: Answer) -> AsyncIterator[None]:
    """Let ``answer`` answer requests while the block runs; what it raises as TeethError is the answer then.

    A request whose asker has gone is cancelled.
    """

    talks: dict[asyncio.Task[None], None] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        talks[me] = None
        try:
            with contextlib.suppress(OSError, ValueError, EOFError, asyncio.LimitOverrunError):
                await _talk(reader, writer, answer)
        finally:
            writer.close()
            del talks[me]

    server = await asyncio.start_unix_server(connected, sock=listening(path), limit=_LINE_MAX)
    try:
        yield
    finally:
        server.close()
        under_way = list(talks)
        for talk in under_way:
            talk.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
    request = json.loads(await reader.readuntil(b"\n"))
    work = asyncio.ensure_future(_answered(answer, request))
    gone = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            writer.write(json.dumps(work.result()).encode() + b"\n")
            await writer.drain()
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _answered(answer: Answer, request: Any) -> dict[str, Any]:
    try:
        if not isinstance(request, dict):
            raise TeethError("a request is a JSON object")
        return {"ok": True, **await answer(request)}
    except TeethError as error:
        return {"ok": False, "error": error.message, "hint": error.hint}


def ask(path: Path, request: Mapping[str, Any], *, within: float) -> dict[str, Any]:
    """Send one request and wait for its answer. Raises TeethError for a refusal, GoneError for silence."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.settimeout(within)
        try:
            with short(path) as address:
                made.connect(address)
            made.sendall(json.dumps(dict(request)).encode() + b"\n")
            line = _read_line(made)
        except TimeoutError:
            raise GoneError(f"{path} did not answer within {within:g} s") from None
        except OSError as error:
            raise GoneError(f"nobody answers at {path}: {error.strerror or error}") from error
    if not line:
        raise GoneError(f"{path} went away without an answer")
    answer: dict[str, Any] = json.loads(line)
    if not answer.pop("ok"):
        raise TeethError(str(answer.get("error")), hint=str(answer.get("hint", "")))
    return answer


def _read_line(made: socket.socket) -> bytes:
    with made.makefile("rb") as stream:
        return stream.readline(_LINE_MAX)
