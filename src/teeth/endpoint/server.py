"""The listener that agents dial: TLS, who the peer is, and a session on each connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator

from teeth.endpoint.accept import Acceptor, Arrival
from teeth.endpoint.admission import Admission, Pass
from teeth.endpoint.enrol import Registrar
from teeth.endpoint.hub import Hub
from teeth.endpoint.identity import IdentityError, PeerIdentity, peer_identity
from teeth.endpoint.logs import note
from teeth.endpoint.session import Session

_log = logging.getLogger(__name__)
_READ_BUFFER = 64 << 10


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
    """Runs a Session on each connection."""

    def __init__(
        self, hub: Hub, enrol: Registrar, *, admission: Admission | None = None, plain: bool = False
    ) -> None:
        """``plain``: a listener for development, without TLS and without authority."""
        self._hub = hub
        self._registrar = enrol
        self._admission = admission or Admission()
        self._plain = plain
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._numbers = 0

    @contextlib.asynccontextmanager
    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None) -> AsyncIterator[None]:
        """Serve a listening socket while the block runs; at its end every session is closed in order."""
        purpose = "plaintext" if self._plain else "agents"
        acceptor = Acceptor(self._admission, lambda arrival: self._serve(arrival, tls), purpose)
        try:
            async with acceptor.accepting(sock):
                yield
        finally:
            for task in list(acceptor.tasks):
                if (session := self._sessions.get(task)) is not None:
                    session.peer.hang_up()
                else:
                    task.cancel()
            while acceptor.tasks:
                await asyncio.gather(*acceptor.tasks, return_exceptions=True)

    async def _serve(self, arrival: Arrival, tls: ssl.SSLContext | None) -> None:
        try:
            reader, writer = await _streams(arrival, tls)
        except OSError as error:  # SSLError and TimeoutError are
            reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
            # It cost a TLS handshake and a line here, and came to nothing.
            self._admission.failed(arrival.entry, asyncio.get_running_loop().time())
            note(_log, logging.INFO, "connection without TLS", peer=arrival.where, reason=reason)
            return
        try:
            identity = _identity(writer)
        except IdentityError as error:
            note(_log, logging.WARNING, "connection refused", peer=arrival.where, reason=str(error))
            writer.transport.abort()
            return
        self._numbers += 1
        session = Session(
            self._hub, self._numbers, arrival.where, reader, writer, identity=identity, plain=self._plain,
            enrol=self._registrar, gate=_Gate(self._admission, arrival.entry),
        )  # fmt: skip
        task = asyncio.current_task()
        assert task is not None
        self._sessions[task] = session
        try:
            await session.run()
        except Exception:
            _log.exception("a session with %s failed", arrival.where)
        finally:
            del self._sessions[task]


async def _streams(
    arrival: Arrival, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_READ_BUFFER, loop=loop)
    transport, protocol = await arrival.connect(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), tls)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def _identity(writer: asyncio.StreamWriter) -> PeerIdentity | None:
    """By the certificate that TLS has verified; None when the peer showed none. Raises IdentityError."""
    tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    der = None if tls is None else tls.getpeercert(binary_form=True)
    return None if der is None else peer_identity(der)
