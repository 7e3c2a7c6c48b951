"""The endpoint's server certificate, and TLS contexts that go on with a new one when it is renewed."""

from __future__ import annotations

import datetime as dt
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from teeth.endpoint import ca
from teeth.endpoint.ca import Authority


class ServerTls:
    """Certificate and contexts of one endpoint, reachable under ``names`` (DNS names and IP addresses)."""

    def __init__(
        self,
        authority: Authority,
        folder: Path,
        names: Sequence[str],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._authority = authority
        self._folder = folder
        self._names = tuple(names)
        self._clock = clock
        self._contexts: list[ssl.SSLContext] = []
        self._chain = self._ensure()
        self._loaded = self._chain.read_bytes()

    def context(self, *, mutual: bool = False) -> ssl.SSLContext:
        """A context to listen with; ``mutual`` asks the other side for a certificate of our CA."""
        context = ca.server_context(self._chain, clients=self._authority if mutual else None)
        self._contexts.append(context)
        return context

    def renew(self) -> bool:
        """Make a new certificate when fewer than 30 days are left of the present one. True when it did.

        From then on every context shows the new one; connections that stand are not touched. Call it from
        the thread that accepts connections, at least daily.
        """
        self._ensure()
        now = self._chain.read_bytes()
        if now == self._loaded:
            return False
        for context in self._contexts:
            context.load_cert_chain(self._chain)
        self._loaded = now
        return True

    def _ensure(self) -> Path:
        now = dt.datetime.fromtimestamp(self._clock(), dt.UTC)
        return ca.ensure_server_certificate(self._authority, self._folder, self._names, now=now)
