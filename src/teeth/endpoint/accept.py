"""Accepting connections: counted by the admission before they cost anything, refused ones noted sparingly."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from teeth.endpoint.admission import Admission, Pass
from teeth.endpoint.logs import note

_log = logging.getLogger(__name__)
_TLS_HANDSHAKE = 10.0
_TLS_SHUTDOWN = 5.0
_TCP_USER_TIMEOUT_MS = 30_000
_PAUSE = 0.2  # after accept() failed: out of open files, say; one connection's end may mend that
_REFUSALS_NOTED = 10.0  # seconds between two lines about refused connections: a flood must not fill the log
P = TypeVar("P", bound=asyncio.BaseProtocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A connection that was let in. ``address`` as accept() gave it: host, port and perhaps more."""

    socket: socket.socket
    address: Any
    entry: Pass

    @property
    def host(self) -> str:
        return str(self.address[0])

    @property
    def where(self) -> str:
        host, port = self.address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def connect(self, make: Callable[[], P], tls: ssl.SSLContext | None) -> tuple[asyncio.Transport, P]:
        """Let a protocol talk on it, after the TLS handshake. Raises OSError when that fails."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TCP_USER_TIMEOUT_MS)
        times: dict[str, float] = {}
        if tls is not None:
            times = {"ssl_handshake_timeout": _TLS_HANDSHAKE, "ssl_shutdown_timeout": _TLS_SHUTDOWN}
        loop = asyncio.get_running_loop()
        try:
            made: Any = await loop.connect_accepted_socket(make, self.socket, ssl=tls, **times)
        except BaseException:
            self.socket.close()
            raise
        transport, protocol = made
        return transport, protocol


class Acceptor:
    """Runs ``serve`` for each connection of a listening socket, in a task of its own.

    By itself rather than through a server of asyncio's: who is refused must cost no TLS handshake, and who is
    in one must be counted. ``make_room`` is asked when a connection would be refused: True when it has ended
    another one, for which this one may be tried again.
    """

    def __init__(
        self,
        admission: Admission,
        serve: Callable[[Arrival], Awaitable[None]],
        purpose: str,
        *,
        make_room: Callable[[str], bool] | None = None,
    ) -> None:
        self._admission = admission
        self._serve = serve
        self._purpose = purpose
        self._make_room = make_room or (lambda _: False)
        self.tasks: dict[asyncio.Task[None], Arrival] = {}
        self._refused = 0
        self._refused_noted = float("-inf")

    @contextlib.asynccontextmanager
    async def accepting(self, sock: socket.socket) -> AsyncIterator[None]:
        """While the block runs; then the socket is closed. What was accepted goes on: see ``tasks``."""
        job = asyncio.create_task(self._accept(sock))
        try:
            yield
        finally:
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)
            sock.close()

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(sock)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                note(_log, logging.ERROR, "no connection accepted", door=self._purpose, reason=reason)
                await asyncio.sleep(_PAUSE)
                continue
            entry = self._admit(address[0])
            if entry is None:
                connection.close()
            else:
                arrival = Arrival(socket=connection, address=address, entry=entry)
                task = asyncio.create_task(self._run(arrival))
                self.tasks[task] = arrival
                task.add_done_callback(functools.partial(self._done, entry))
            # While others wait to be accepted the loop would not be let go: everybody else has a turn now.
            await asyncio.sleep(0)

    def _admit(self, host: str) -> Pass | None:
        now = asyncio.get_running_loop().time()
        entry = self._admission.connect(host, now)
        if isinstance(entry, str) and self._make_room(host):
            entry = self._admission.connect(host, now)
        if isinstance(entry, str):
            self._note_refused(host, entry, now)
            return None
        return entry

    async def _run(self, arrival: Arrival) -> None:
        await self._serve(arrival)

    def _note_refused(self, host: str, why: str, now: float) -> None:
        self._refused += 1
        if now - self._refused_noted >= _REFUSALS_NOTED:
            self._refused_noted = now
            note(
                _log, logging.WARNING, "connection refused", door=self._purpose, peer=host, reason=why,
                refused=self._refused, open=self._admission.open,
            )  # fmt: skip

    def _done(self, entry: Pass, task: asyncio.Task[None]) -> None:
        del self.tasks[task]
        self._admission.leave(entry)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a connection failed", exc_info=error)
