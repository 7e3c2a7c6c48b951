"""Drives one sans-IO Connection over one byte stream, asyncio's or another that looks like it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

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
from teeth_protocol.errors import LocalProtocolError, Problem, ProblemError, UnsendableError
from teeth_protocol.fields import FieldError
from teeth_protocol.limits import Limits

_log = logging.getLogger(__name__)
_READ = 64 << 10
_CLOSE_TIMEOUT = 5.0  # for the last words to leave; a peer that does not read them is cut off

Handler = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]


class Reader(Protocol):
    """What a Peer reads from: asyncio.StreamReader is one."""

    async def read(self, n: int = -1, /) -> bytes:
        """At least one byte and at most ``n``; nothing at the end of the stream. May raise OSError."""
        ...


class Transport(Protocol):
    """What lies below a Writer."""

    def get_write_buffer_size(self) -> int:
        """Bytes that were written and have not left yet."""
        ...

    def abort(self) -> None:
        """Drop the connection at once; what has not left never will."""
        ...


class Writer(Protocol):
    """What a Peer writes to: asyncio.StreamWriter is one."""

    @property
    def transport(self) -> Transport: ...

    def write(self, data: bytes, /) -> None: ...

    def is_closing(self) -> bool: ...

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


class RemoteError(Exception):
    """The peer answered a command with an error, or never answered; ``problem.code`` says which.

    The codes of our own side: ``connection_lost``, ``timeout``, ``busy`` (too many wait already) and
    ``unsendable`` (the message breaks a bound of the wire; it will not do better on another connection).
    ``unsent``: the command never left this side, whatever its code.
    """

    def __init__(self, problem: Problem, *, unsent: bool = False) -> None:
        super().__init__(problem.msg)
        self.problem = problem
        self.unsent = unsent


class Peer:
    """The other side of one connection.

    ``handler`` answers the peer's commands, one at a time and in their order; pings are answered even
    while it is busy. It raises ProblemError for an error response (FieldError: bad_params). It is
    cancelled when the connection ends. ``jitter`` gives numbers in [0, 1) and spreads the pings.
    """

    def __init__(
        self,
        role: Role,
        reader: Reader,
        writer: Writer,
        handler: Handler,
        *,
        limits: Limits | None = None,
        tap: Tap | None = None,
        close_timeout: float = _CLOSE_TIMEOUT,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._limits = limits or Limits()
        self._close_timeout = close_timeout
        self.connection = Connection(role, self._loop.time(), limits=self._limits, jitter=jitter, tap=tap)
        self._commands: asyncio.Queue[CommandReceived] = asyncio.Queue()
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._changed = asyncio.Event()
        self._sleeps_until = 0.0
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
            # Closed before anything is cancelled: a job that misses its cancellation ends all the same.
            self._take(self.connection.close("this side ended it"))
            for job in jobs:
                job.cancel()
            try:
                await asyncio.gather(*jobs, return_exceptions=True)
                await self._close_stream()
            finally:
                _abort(self._writer)  # nothing to do after an orderly end
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
        except UnsendableError as error:
            problem = Problem(code="unsendable", msg=f"{method}: {error}")
            raise RemoteError(problem, unsent=True) from None
        except LocalProtocolError as error:
            code = "busy" if self.connection.state is State.READY else "connection_lost"
            raise RemoteError(Problem(code=code, msg=str(error)), unsent=True) from None
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._waiting[identity] = future
        self._take([])  # the answer has a deadline, which may be the next one
        self._flush()
        try:
            return await future
        finally:
            self._waiting.pop(identity, None)
            if future.done() and not future.cancelled():
                future.exception()  # seen, also when the caller was cancelled in the same moment

    def fatal(self, message: str) -> None:
        """End the connection and tell the peer why."""
        self._take(self.connection.send_fatal(message))
        self._flush()

    def hang_up(self) -> None:
        """End the connection without a word (its last answers are still sent)."""
        self._take(self.connection.close("this side hung up"))
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
            self._sleeps_until = deadline
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            self._take(self.connection.tick(self._loop.time()))
            self._flush()

    async def _answer_commands(self) -> None:
        while self.connection.state is not State.CLOSED:
            command = await self._commands.get()
            try:
                result = await self._handler(command.method, command.params)
                self._take(self.connection.send_result(command.id, result))
            except ProblemError as error:
                self._refuse(command, error.problem)
            except FieldError as error:
                self._refuse(command, Problem(code="bad_params", msg=str(error)))
            except UnsendableError as error:
                _log.error("the answer to %s cannot be sent: %s", command.method, error)
                self._refuse(command, Problem(code="unsendable", msg=f"the answer cannot be sent: {error}"))
            except Exception:
                _log.exception("handler of %s failed", command.method)
                self._refuse(
                    command, Problem(code="internal", msg=f"{command.method} failed inside this side")
                )
            self._flush()

    def _refuse(self, command: CommandReceived, problem: Problem) -> None:
        try:
            self._take(self.connection.send_problem(command.id, problem))
        except UnsendableError as error:
            _log.error("the refusal of %s cannot be sent whole: %s", command.method, error)
            short = Problem(code="unspecified", msg="refused, and the reason cannot be sent")
            self._take(self.connection.send_problem(command.id, short))

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, CommandReceived):
                self._commands.put_nowait(event)
            elif isinstance(event, Answered):
                self._resolve(event)
            elif isinstance(event, Closed):
                self.closed = event
        # A deadline that moved further away is noticed when the old one has come.
        deadline = self.connection.next_deadline()
        if deadline is None or deadline < self._sleeps_until:
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
            self._take(self.connection.close("the peer does not read what it is sent"))
            _abort(self._writer)

    async def _close_stream(self) -> None:
        self._flush()
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._close_timeout):
                await self._writer.wait_closed()


def _abort(writer: Writer) -> None:
    """Drop the connection at once."""
    # The asyncio of Python 3.11.2, which is Debian 12's, trips over a TLS transport that has ended already.
    with contextlib.suppress(AttributeError):
        writer.transport.abort()
