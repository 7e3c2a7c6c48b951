"""One dial: from a host and a port to a stream whose other end is who the boot server said it would be."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path
from typing import Protocol

from teeth_agent.errors import AgentError
from teeth_agent.session.enrol import Credential
from teeth_agent.session.trust import TrustError, fetch_authority, pinned_context

_TLS_TIMEOUT = 10.0
_TCP_USER_TIMEOUT_MS = 30_000


class DialError(AgentError):
    """No connection: ``code`` says why (endpoint_unreachable, wrong_ca, ...), the message names the place."""

    code = "endpoint_unreachable"


class Dialer(Protocol):
    """Makes connections. The simulation has one without TLS and without a network."""

    async def dial(
        self, host: str, port: int, credential: Credential | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to one endpoint, by which it knows us when there is a ``credential``.

        Raises DialError.
        """
        ...


class TlsDialer:
    """TLS 1.3 to the one authority that this boot was told to trust, by digest or by a file."""

    def __init__(self, *, ca_digest: str | None, ca_file: Path | None, timeout: float = _TLS_TIMEOUT) -> None:
        self._ca_digest = ca_digest
        self._ca_file = ca_file
        self._timeout = timeout
        self._authorities: dict[tuple[str, int], bytes | Path] = {}

    async def dial(
        self, host: str, port: int, credential: Credential | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        where = f"{host}:{port}"
        try:
            context = pinned_context(await self._authority(host, port))
            if credential is not None:
                context.load_cert_chain(credential.handle.certificate, credential.handle.key)
            return await self._connect(host, port, context)
        except TrustError as error:
            raise DialError(str(error), code=error.code) from None
        except ssl.SSLCertVerificationError as error:
            raise DialError(f"{where}: {error.verify_message}", code="wrong_ca") from None
        except TimeoutError:
            raise DialError(f"{where}: no answer within {self._timeout:g} s") from None
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot even be asked for
            reason = getattr(error, "strerror", None) or str(error)
            raise DialError(f"{where}: {reason}") from None

    async def _authority(self, host: str, port: int) -> bytes | Path:
        """What to pin. Fetched once for each endpoint: its digest vouches for it."""
        if self._ca_digest is None:
            assert self._ca_file is not None
            return self._ca_file
        key = (host, port)
        if key not in self._authorities:
            self._authorities[key] = await asyncio.to_thread(fetch_authority, host, port, self._ca_digest)
        return self._authorities[key]

    async def _connect(
        self, host: str, port: int, context: ssl.SSLContext
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(self._timeout):
            reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
        sock: socket.socket | None = writer.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TCP_USER_TIMEOUT_MS)
        return reader, writer
