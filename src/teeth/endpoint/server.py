"""The TLS listener that agents dial."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator

from teeth.endpoint.enrol import Registrar
from teeth.endpoint.hub import Hub
from teeth.endpoint.identity import IdentityError, PeerIdentity, peer_identity
from teeth.endpoint.logs import note
from teeth.endpoint.session import Session

_log = logging.getLogger(__name__)
_CONNECTIONS = 2048
# Not yet known to be a node of ours; each may hold 4 KiB for five seconds.
_STRANGERS = 256
_TLS_HANDSHAKE = 10.0
_TLS_SHUTDOWN = 5.0
_TCP_USER_TIMEOUT_MS = 30_000
_READ_BUFFER = 64 << 10


class AgentListener:
    """Accepts connections and runs a Session on each."""

    def __init__(self, hub: Hub, enrol: Registrar, *, plain: bool = False) -> None:
        """``plain``: a listener for development, without TLS and without authority."""
        self._hub = hub
        self._registrar = enrol
        self._plain = plain
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._numbers = 0

    @contextlib.asynccontextmanager
    async def listen(self, sock: socket.socket, tls: ssl.SSLContext) -> AsyncIterator[None]:
        """Serve a bound socket while the block runs; at its end every session is closed in order."""
        server = await asyncio.start_server(
            self._accept, sock=sock, ssl=tls, limit=_READ_BUFFER,
            ssl_handshake_timeout=_TLS_HANDSHAKE, ssl_shutdown_timeout=_TLS_SHUTDOWN,
        )  # fmt: skip
        try:
            yield
        finally:
            server.close()
            for session in list(self._sessions.values()):
                session.peer.hang_up()
            while self._sessions:
                await asyncio.gather(*self._sessions, return_exceptions=True)
            await server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        strangers = sum(1 for session in self._sessions.values() if session.hello is None)
        if len(self._sessions) >= _CONNECTIONS or strangers >= _STRANGERS:
            note(_log, logging.WARNING, "connection refused: too many", open=len(self._sessions))
            writer.transport.abort()
            return
        sock: socket.socket | None = writer.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TCP_USER_TIMEOUT_MS)
        peer = writer.get_extra_info("peername")
        self._numbers += 1
        address = f"{peer[0]}:{peer[1]}" if peer else "unknown"
        try:
            identity = _identity(writer)
        except IdentityError as error:
            note(_log, logging.WARNING, "connection refused", peer=address, reason=str(error))
            writer.transport.abort()
            return
        session = Session(
            self._hub, self._numbers, address, reader, writer,
            identity=identity, plain=self._plain, enrol=self._registrar,
        )  # fmt: skip
        task = asyncio.current_task()
        assert task is not None
        self._sessions[task] = session
        try:
            await session.run()
        except Exception:
            _log.exception("a session with %s failed", address)
        finally:
            del self._sessions[task]


def _identity(writer: asyncio.StreamWriter) -> PeerIdentity | None:
    """By the certificate that TLS has verified; None when the peer showed none. Raises IdentityError."""
    tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    der = None if tls is None else tls.getpeercert(binary_form=True)
    return None if der is None else peer_identity(der)
