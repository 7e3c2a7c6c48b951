"""Connections to HTTP servers: straight or through an HTTP proxy, and cut off from another thread."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

# Worth another try at the same URL; every other refusal is the server's last word.
PASSING = (408, 425, 429, 500, 502, 503, 504)
_TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: (\d{3})")
_PORTS = {"http": 80, "https": 443}


class UrlFailed(Exception):
    """This URL will not give the image: go to the next one."""

    def __init__(self, message: str, *, code: str = "fetch_failed") -> None:
        super().__init__(message)
        self.code = code


class Broken(Exception):
    """The connection or the server failed in a way that may pass. ``retry_after`` in seconds if told."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An open connection and what to ask for on it: ``target`` is the whole URL for a proxy."""

    connection: http.client.HTTPConnection
    target: str
    headers: dict[str, str]


class Cut:
    """Ends whatever a connection waits for, and every later one at once. Any thread may ask for it.

    ``once`` ends only the connection that there is now.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._done = False

    def watch(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._socket = connection.sock
            if self._done:
                self._shut()

    def __call__(self) -> None:
        with self._lock:
            self._done = True
            self._shut()

    def once(self) -> None:
        with self._lock:
            self._shut()

    def forget(self) -> None:
        with self._lock:
            self._socket = None

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Past SSLSocket.shutdown, which takes away what another thread reads from.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def host_of(url: str, proxy: str | None) -> str:
    """Host and port that a request for ``url`` connects to."""
    parts = urlsplit(proxy or url)
    return f"{parts.hostname}:{parts.port or _PORTS.get(parts.scheme, 0)}"


@contextmanager
def line(url: str, *, proxy: str | None, timeout: float, cut: Cut) -> Iterator[Line]:
    """An open connection for ``url``; closed with the block. Raises UrlFailed and Broken."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers: dict[str, str] = {}
    if proxy is None:
        connection = _plain(parts, timeout)
    elif parts.scheme == "https":
        connection = _tunnel(parts, urlsplit(proxy), timeout)
    else:
        through = urlsplit(proxy)
        connection = _plain(through, timeout)
        headers, target = _credentials(through), _absolute(parts, target)
    try:
        _open(connection, timeout)
        cut.watch(connection)
        yield Line(connection=connection, target=target, headers=headers)
    finally:
        cut.forget()
        connection.close()


def reason(error: Exception, timeout: float) -> str:
    """What went wrong on a connection, in a few words."""
    if isinstance(error, TimeoutError):
        return f"silent for {timeout:g} s"
    if isinstance(error, socket.gaierror):
        return f"name not found: {error.strerror}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"broken answer ({type(error).__name__})"


def _plain(parts: SplitResult, timeout: float) -> http.client.HTTPConnection:
    assert parts.hostname is not None
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)


def _tunnel(parts: SplitResult, proxy: SplitResult, timeout: float) -> http.client.HTTPConnection:
    """To an https server through a proxy's CONNECT: the proxy sees the name, nothing else."""
    assert proxy.hostname is not None
    assert parts.hostname is not None
    if proxy.scheme == "https":
        raise UrlFailed("an https server cannot be reached through an https proxy")
    connection = http.client.HTTPSConnection(
        proxy.hostname, proxy.port or 80, timeout=timeout, context=ssl.create_default_context()
    )
    connection.set_tunnel(parts.hostname, parts.port or 443, headers=_credentials(proxy))
    return connection


def _absolute(parts: SplitResult, target: str) -> str:
    """RFC 9112, 3.2.2. Without user and password: those are for the server's own header, never in a log."""
    assert parts.hostname is not None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"http://{host}{f':{parts.port}' if parts.port else ''}{target}"


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _open(connection: http.client.HTTPConnection, timeout: float) -> None:
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        raise UrlFailed(f"certificate not accepted: {error.verify_message}") from error
    except (OSError, http.client.HTTPException) as error:
        refused = _TUNNEL_REFUSED.match(str(error))
        if refused and int(refused[1]) not in PASSING:
            raise UrlFailed(f"the proxy answers {refused[1]}") from error
        raise Broken(f"the proxy answers {refused[1]}" if refused else reason(error, timeout)) from error
