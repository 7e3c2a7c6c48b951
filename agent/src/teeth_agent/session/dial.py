"""One dial: from a host and a port to a stream whose other end is who the boot server said it would be."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from teeth_agent.errors import AgentError
from teeth_agent.session.clock import ClockError, SystemClock, ask_time
from teeth_agent.session.enrol import Credential
from teeth_agent.session.trust import TrustError, fetch_authority, ignoring_time, pinned_context
from teeth_stream import Reader, Writer

_TLS_TIMEOUT = 10.0
_TIME_TIMEOUT = 15.0
_TCP_USER_TIMEOUT_MS = 30_000
# x509_vfy.h: X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_TIME_ALONE = frozenset({9, 10})

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class DialError(AgentError):
    """No connection: ``code`` says why (endpoint_unreachable, wrong_ca, ...), the message names the place."""

    code = "endpoint_unreachable"


class Dialer(Protocol):
    """Makes connections. The simulation has one without TLS and without a network."""

    async def dial(self, host: str, port: int, credential: Credential | None) -> tuple[Reader, Writer]:
        """A connection to one endpoint, by which it knows us when there is a ``credential``.

        Raises DialError.
        """
        ...


class TlsDialer:
    """TLS 1.3 to the one authority that this boot was told to trust, by digest or by a file.

    With a ``clock``, a certificate that fails on its time alone has the time asked for and the clock set,
    once a dial; ``say`` tells a person.
    """

    def __init__(
        self,
        *,
        ca_digest: str | None,
        ca_file: Path | None,
        clock: SystemClock | None = None,
        say: Callable[[str], None] = lambda text: None,  # noqa: ARG005
        timeout: float = _TLS_TIMEOUT,
    ) -> None:
        self._ca_digest = ca_digest
        self._ca_file = ca_file
        self._clock = clock
        self._say = say
        self._timeout = timeout
        self._authorities: dict[tuple[str, int], bytes | Path] = {}

    async def dial(self, host: str, port: int, credential: Credential | None) -> _Streams:
        where = f"{host}:{port}"
        try:
            authority = await self._authority(host, port)
            context = pinned_context(authority)
            if credential is not None:
                context.load_cert_chain(credential.handle.certificate, credential.handle.key)
            try:
                return await self._connect(host, port, context)
            except ssl.SSLCertVerificationError as error:
                if self._clock is None or error.verify_code not in _TIME_ALONE:
                    raise
                await self._ask_time(host, port, authority, self._clock)
            return await self._connect(host, port, context)
        except TrustError as error:
            raise DialError(str(error), code=error.code) from None
        except ClockError as error:
            raise DialError(f"{where}: {error}", code=error.code) from None
        except ssl.SSLCertVerificationError as error:
            raise _not_verified(where, error) from None
        except TimeoutError:
            raise DialError(f"{where}: no answer within {self._timeout:g} s") from None
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot even be asked for
            reason = getattr(error, "strerror", None) or str(error)
            raise DialError(f"{where}: {reason}") from None

    async def _authority(self, host: str, port: int) -> bytes | Path:
        """What to pin. Fetched once for each endpoint: its digest vouches for it, whatever the time is."""
        if self._ca_digest is None:
            assert self._ca_file is not None
            return self._ca_file
        key = (host, port)
        if key not in self._authorities:
            self._authorities[key] = await asyncio.to_thread(fetch_authority, host, port, self._ca_digest)
        return self._authorities[key]

    async def _ask_time(self, host: str, port: int, authority: bytes | Path, clock: SystemClock) -> None:
        """Never with our certificate: who is there is not yet known well enough to be told who we are."""
        streams = await self._connect(host, port, ignoring_time(pinned_context(authority)))
        async with asyncio.timeout(_TIME_TIMEOUT):
            told = await ask_time(*streams)
        self._say(f"{clock.step(told)}, as {host}:{port} says")

    async def _connect(self, host: str, port: int, context: ssl.SSLContext) -> _Streams:
        async with asyncio.timeout(self._timeout):
            reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
        sock: socket.socket | None = writer.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TCP_USER_TIMEOUT_MS)
        return reader, writer


def _not_verified(where: str, error: ssl.SSLCertVerificationError) -> DialError:
    if error.verify_code in _TIME_ALONE:
        return DialError(
            f"{where}: {error.verify_message}, as this machine's clock has it", code="certificate_time"
        )
    return DialError(f"{where}: {error.verify_message}", code="wrong_ca")
