"""Sockets and uvicorn: an ASGI application served inside our own event loop, silently."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from teeth.errors import TeethError

_CONNECTIONS = 256  # at one door; beyond it uvicorn answers 503
_BACKLOG = 128


def listening_socket(host: str, port: int, purpose: str) -> socket.socket:
    """A bound, listening TCP socket; port 0 takes any free one. Raises TeethError in plain words."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError) as error:
        raise TeethError(f"{host}:{port} is no address to listen on for {purpose}") from error
    sock = socket.socket(family, kind, proto)
    try:
        # A port in TIME_WAIT after a restart is ours to take; one that somebody listens on is still refused.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            hint = "choose another port, or 0 for any free one"
            raise TeethError(f"port {port} on {host} ({purpose}) is taken", hint=hint) from error
        raise TeethError(f"cannot listen on {host}:{port} for {purpose}: {error.strerror}") from error
    sock.setblocking(False)
    return sock


class _Quiet(H11Protocol):
    """HTTP/1.1 without an access log: a landing's address is a secret. (uvicorn's own switch for it turns the
    logger off for the whole process, and only until somebody gives it a handler.)"""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling (signals belong to the program), that says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@contextlib.asynccontextmanager
async def serve(app: ASGIApp, sock: socket.socket, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Serve ``app`` on a listening socket while the block runs; transfers still open get 1 s to end."""
    config = uvicorn.Config(
        app,
        loop="none",
        lifespan="off",
        ws="none",
        http=_Quiet,
        log_config=None,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=16 << 10,
        ssl_context_factory=(lambda _config, _default: tls) if tls is not None else None,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve([sock]))
    up = asyncio.create_task(server.up.wait())
    try:
        await asyncio.wait([running, up], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
            raise TeethError("the HTTP server ended before it had begun")
        yield
    finally:
        up.cancel()
        server.should_exit = True
        await asyncio.gather(running, up, return_exceptions=True)
        sock.close()
