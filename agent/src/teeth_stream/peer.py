"""Drives one sans-IO Connection over one asyncio stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from teeth_protocol.connection import (
    Answered,
    Closed,
    CommandReceived,
    Connection,
    Event,
    Role,
    State,
    Tap,
)
from teeth_protocol.errors import LocalProtocolError, Problem, ProblemError
from teeth_protocol.limits import Limits

_log = logging.getLogger(__name__)
_READ = 64 << 10

Handler = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]


class RemoteError(Exception):
    """The peer answered a command with an error, or never answered; ``problem.code`` says which."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.msg)
        self.problem = problem


class Peer:
    """The other side of one connection.

    ``handler`` answers the peer's commands, one at a time and in their order; pings are answered even
    while it is busy. It raises ProblemError for an error response.
    """

    def __init__(
        self,
        role: Role,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handler: Handler,
        *,
        limits: Limits | None = None,
        tap: Tap | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._limits = limits or Limits()
        self.connection = Connection(
            role, self._loop.time(), limits=self._limits, jitter=random.random, tap=tap
        )
        self._commands: asyncio.Queue[CommandReceived] = asyncio.Queue()
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._changed = asyncio.Event()
        self.closed: Closed | None = None

    async def run(self) -> Closed:
        """Until the connection is over. Returns why; never raises for what the peer does."""
        jobs = [
            asyncio.create_task(job) for job in (self._read(), self._keep_time(), self._answer_commands())
        ]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in jobs:
                if job.done() and not job.cancelled() and (error := job.exception()) is not None:
                    raise error
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            self._take(self.connection.receive_data(b"", self._loop.time()))
            await self._close_stream()
        assert self.closed is not None
        return self.closed

    async def call(
        self,
        method: str,
        params: dict[str, Any],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the protocol's deadline, kept by the Connection
    ) -> dict[str, Any]:
        """Ask the peer and wait for its answer, at most ``timeout`` seconds. Raises RemoteError."""
        try:
            identity = self.connection.send_command(method, params, self._loop.time(), timeout=timeout)
        except LocalProtocolError as error:
            raise RemoteError(Problem(code="connection_lost", msg=str(error))) from None
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._waiting[identity] = future
        self._flush()
        try:
            return await future
        finally:
            self._waiting.pop(identity, None)

    def fatal(self, message: str) -> None:
        """End the connection and tell the peer why."""
        self._take(self.connection.send_fatal(message))
        self._flush()

    def hang_up(self) -> None:
        """End the connection without a word (its last answers are still sent)."""
        self._take(self.connection.receive_data(b"", self._loop.time()))
        self._flush()

    async def _read(self) -> None:
        while self.connection.state is not State.CLOSED:
            try:
                data = await self._reader.read(_READ)
            except OSError:
                data = b""
            self._take(self.connection.receive_data(data, self._loop.time()))
            self._flush()

    async def _keep_time(self) -> None:
        while (deadline := self.connection.next_deadline()) is not None:
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(0.0, deadline - self._loop.time()))
            self._take(self.connection.tick(self._loop.time()))
            self._flush()

    async def _answer_commands(self) -> None:
        while True:
            command = await self._commands.get()
            try:
                result = await self._handler(command.method, command.params)
            except ProblemError as error:
                self._take(self.connection.send_problem(command.id, error.problem))
            except Exception:
                _log.exception("handler of %s failed", command.method)
                problem = Problem(code="internal", msg=f"{command.method} failed inside this side")
                self._take(self.connection.send_problem(command.id, problem))
            else:
                self._take(self.connection.send_result(command.id, result))
            self._flush()

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, CommandReceived):
                self._commands.put_nowait(event)
            elif isinstance(event, Answered):
                self._resolve(event)
            elif isinstance(event, Closed):
                self.closed = event
        self._changed.set()

    def _resolve(self, event: Answered) -> None:
        future = self._waiting.get(event.id)
        if future is None or future.done():
            return
        if event.problem is not None:
            future.set_exception(RemoteError(event.problem))
        else:
            future.set_result(event.result or {})

    def _flush(self) -> None:
        data = self.connection.data_to_send()
        if not data or self._writer.is_closing():
            return
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > self._limits.write_backlog:
            self._take(self.connection.receive_data(b"", self._loop.time()))
            self._writer.transport.abort()

    async def _close_stream(self) -> None:
        self._flush()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            self._writer.close()
            await asyncio.wait_for(self._writer.wait_closed(), self._limits.line_timeout)
