"""The listener that agents dial: who is let in, TLS, and a session on each connection."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

from teeth.endpoint.admission import Admission, Pass
from teeth.endpoint.enrol import Registrar
from teeth.endpoint.hub import Hub
from teeth.endpoint.identity import IdentityError, PeerIdentity, peer_identity
from teeth.endpoint.logs import note
from teeth.endpoint.session import Session

_log = logging.getLogger(__name__)
_TLS_HANDSHAKE = 10.0
_TLS_SHUTDOWN = 5.0
_TCP_USER_TIMEOUT_MS = 30_000
_READ_BUFFER = 64 << 10
_ACCEPT_PAUSE = 0.2  # after accept() failed: out of open files, say; one connection's end may mend that
_REFUSALS_NOTED = 10.0  # seconds between two lines about refused connections: a flood must not fill the log


class _Gate:
    """One connection's standing with the admission, as its session sees it."""

    def __init__(self, admission: Admission, entry: Pass) -> None:
        self._admission = admission
        self._entry = entry
        self._now = asyncio.get_running_loop().time

    def known(self) -> None:
        self._admission.known(self._entry)

    def may_enrol(self) -> bool:
        return self._admission.enrol(self._entry, self._now())

    def enrolment_failed(self) -> None:
        self._admission.failed(self._entry, self._now())


class AgentListener:
    """Accepts connections and runs a Session on each.

    Accepts by itself rather than through a server of asyncio's: who is refused must cost no TLS handshake,
    and who is in one must be counted.
    """

    def __init__(
        self, hub: Hub, enrol: Registrar, *, admission: Admission | None = None, plain: bool = False
    ) -> None:
        """``plain``: a listener for development, without TLS and without authority."""
        self._hub = hub
        self._registrar = enrol
        self._admission = admission or Admission()
        self._plain = plain
        self._connections: dict[asyncio.Task[None], Session | None] = {}
        self._numbers = 0
        self._refused = 0
        self._refused_noted = float("-inf")

    @contextlib.asynccontextmanager
    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None) -> AsyncIterator[None]:
        """Serve a listening socket while the block runs; at its end every session is closed in order."""
        accepting = asyncio.create_task(self._accept(sock, tls))
        try:
            yield
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            sock.close()
            for task, session in list(self._connections.items()):
                if session is None:
                    task.cancel()
                else:
                    session.peer.hang_up()
            while self._connections:
                await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(sock)
            except OSError as error:
                note(_log, logging.ERROR, "no connection can be accepted", reason=error.strerror)
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            entry = self._admission.connect(address[0], loop.time())
            if isinstance(entry, str):
                connection.close()
                self._note_refused(address[0], entry)
                continue
            task = asyncio.create_task(self._serve(connection, address, tls, entry))
            self._connections[task] = None
            task.add_done_callback(functools.partial(self._done, entry))

    async def _serve(
        self, connection: socket.socket, address: Any, tls: ssl.SSLContext | None, entry: Pass
    ) -> None:
        where = f"{address[0]}:{address[1]}"
        try:
            reader, writer = await _streams(connection, tls)
        except OSError as error:  # SSLError and TimeoutError are
            reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
            note(_log, logging.INFO, "connection without TLS", peer=where, reason=reason)
            return
        try:
            identity = _identity(writer)
        except IdentityError as error:
            note(_log, logging.WARNING, "connection refused", peer=where, reason=str(error))
            writer.transport.abort()
            return
        await self._session(reader, writer, where, identity, _Gate(self._admission, entry))

    async def _session(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        where: str,
        identity: PeerIdentity | None,
        gate: _Gate,
    ) -> None:
        self._numbers += 1
        session = Session(
            self._hub, self._numbers, where, reader, writer,
            identity=identity, plain=self._plain, enrol=self._registrar, gate=gate,
        )  # fmt: skip
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = session
        try:
            await session.run()
        except Exception:
            _log.exception("a session with %s failed", where)

    def _note_refused(self, address: str, why: str) -> None:
        self._refused += 1
        now = asyncio.get_running_loop().time()
        if now - self._refused_noted >= _REFUSALS_NOTED:
            self._refused_noted = now
            note(
                _log, logging.WARNING, "connection refused", peer=address, reason=why, refused=self._refused,
                open=self._admission.open,
            )  # fmt: skip

    def _done(self, entry: Pass, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        self._admission.leave(entry)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a connection failed", exc_info=error)


async def _streams(
    connection: socket.socket, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Streams over an accepted socket, after its TLS handshake. Raises OSError when that fails."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TCP_USER_TIMEOUT_MS)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_READ_BUFFER, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    timeouts: dict[str, float] = {}
    if tls is not None:
        timeouts = {"ssl_handshake_timeout": _TLS_HANDSHAKE, "ssl_shutdown_timeout": _TLS_SHUTDOWN}
    try:
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection, ssl=tls, **timeouts)
    except BaseException:
        connection.close()
        raise
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def _identity(writer: asyncio.StreamWriter) -> PeerIdentity | None:
    """By the certificate that TLS has verified; None when the peer showed none. Raises IdentityError."""
    tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    der = None if tls is None else tls.getpeercert(binary_form=True)
    return None if der is None else peer_identity(der)
