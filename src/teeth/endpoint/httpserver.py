"""Sockets and uvicorn: an ASGI application served inside our own event loop, silently, with bounds on how
long and how many may keep it waiting."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from teeth.endpoint.accept import Acceptor, Arrival
from teeth.endpoint.admission import Admission, AdmissionLimits, network_of
from teeth.endpoint.zerocopy import ZeroCopy
from teeth.errors import TeethError

_BACKLOG = 1024  # what a fleet that starts together may have waiting until we accept


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """What one HTTP door takes on."""

    # Three quarters for one address, as for agents: a laboratory boots its machines through one. A client
    # that asks for nothing makes room for one that comes: no number of idle connections fills the door.
    admission: AdmissionLimits = field(
        default_factory=lambda: AdmissionLimits(
            connections=256, strangers=256, connections_of_one=192, strangers_of_one=192
        )
    )
    # Seconds from the connection, or from the last answer, to the end of the next request's head.
    idle: float = 15.0
    # An answer of which less than this many bytes leave within so many seconds is given up: at half a KiB a
    # second a machine would load its ramdisk for days.
    least_progress: int = 16 << 10
    progress_within: float = 30.0


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


class _Door:
    """Who waits at one door without a request: ended for others when it is full, the longest waiting first.

    Also its limits, for those who come in.
    """

    def __init__(self, limits: DoorLimits, threads: Executor) -> None:
        self.limits = limits
        self.threads = threads
        self.admission = Admission(limits.admission)
        self._idle: dict[_Quiet, Arrival] = {}

    def waits(self, client: _Quiet, arrival: Arrival) -> None:
        self._idle.setdefault(client, arrival)

    def is_busy(self, client: _Quiet) -> None:
        self._idle.pop(client, None)

    def make_room(self, host: str) -> bool:
        """End a connection that asks for nothing, of the same network first. False: there is none."""
        network = network_of(host)
        same = (client for client, at in self._idle.items() if network_of(at.host) == network)
        client = next(same, None)
        if client is None and self.admission.open >= self.limits.admission.connections:
            client = next(iter(self._idle), None)
        if client is None:
            return False
        self.admission.leave(self._idle.pop(client).entry)
        client.transport.abort()
        return True


class Progress:
    """Gives up an answer of which too little leaves. ``later`` as a loop's ``call_later``."""

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        limits: DoorLimits,
        later: Callable[..., asyncio.TimerHandle],
    ) -> None:
        self._transport = transport
        self._limits = limits
        self._later = later
        self._timer: asyncio.TimerHandle | None = None

    def blocked(self) -> None:
        """The other side does not take more for the moment; nothing is added until it does."""
        self.flowing()
        size = self._transport.get_write_buffer_size()
        self._timer = self._later(self._limits.progress_within, self._look, size)

    def flowing(self) -> None:
        """It takes more, or it is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, before: int) -> None:
        if before - self._transport.get_write_buffer_size() < self._limits.least_progress:
            self._transport.abort()
        else:
            self.blocked()


class _Quiet(H11Protocol):
    """HTTP/1.1 without an access log: a landing's address is a secret. (uvicorn's own switch for it turns the
    logger off for the whole process, and only until somebody gives it a handler.) And without patience."""

    def __init__(self, door: _Door, arrival: Arrival, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False
        self._door = door
        self._arrival = arrival
        self._idle_until: asyncio.TimerHandle | None = None
        self._progress: Progress | None = None
        self.lost = asyncio.Event()
        self._files: ZeroCopy | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limits = self._door.limits
        self._progress = Progress(transport, limits, self.loop.call_later)
        if transport.get_extra_info("ssl_object") is None:  # what is encrypted must be seen by us
            self._files = ZeroCopy(
                self.app, self, self.lost, threads=self._door.threads, least=limits.least_progress,
                within=limits.progress_within,
            )  # fmt: skip
            self.app = self._files
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        self._is_busy()  # a new wait begins, however short the one before it was
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._progress is not None:
            self._progress.blocked()

    def resume_writing(self) -> None:
        if self._progress is not None:
            self._progress.flowing()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_busy()
        if self._progress is not None:
            self._progress.flowing()
        super().connection_lost(exc)
        self.lost.set()
        if self._files is not None:
            self._files.stop()

    def _look(self) -> None:
        """Whether a request is being answered, or one is waited for, however many bytes of it came."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._is_busy()
        elif self._idle_until is None and not self.transport.is_closing():
            self._door.waits(self, self._arrival)
            self._idle_until = self.loop.call_later(self._door.limits.idle, self.transport.abort)

    def _is_busy(self) -> None:
        self._door.is_busy(self)
        if self._idle_until is not None:
            self._idle_until.cancel()
            self._idle_until = None


class _Server(uvicorn.Server):
    """uvicorn without its own sockets and its own signal handling: connections come from an Acceptor, signals
    belong to the program."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None, door: _Door) -> None:
        super().__init__(config)
        self._tls = tls
        self._door = door
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets == []
        await super().startup(sockets)
        self.up.set()

    async def handle(self, arrival: Arrival) -> None:
        """Serve one connection to its end."""

        def make() -> _Quiet:
            return _Quiet(self._door, arrival, self.config, self.server_state, self.lifespan.state)

        with contextlib.suppress(OSError):  # no TLS handshake: a scanner, or a client that is not for us
            _, protocol = await arrival.connect(make, self._tls)
            await protocol.lost.wait()


@contextlib.asynccontextmanager
async def serve(
    app: ASGIApp,
    sock: socket.socket,
    tls: ssl.SSLContext | None = None,
    *,
    purpose: str = "http",
    limits: DoorLimits | None = None,
) -> AsyncIterator[None]:
    """Serve ``app`` on a listening socket while the block runs; transfers still open get 1 s to end.

    ``purpose`` names the door in the log.
    """
    limits = limits or DoorLimits()
    # As many as there may be connections: a transfer never waits for another one's thread.
    threads = ThreadPoolExecutor(limits.admission.connections, thread_name_prefix=f"{purpose}-file")
    door = _Door(limits, threads)
    config = uvicorn.Config(
        app,
        loop="none",
        lifespan="off",
        ws="none",
        http=_Quiet,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=int(door.limits.idle) + 1,  # ours comes first
        h11_max_incomplete_event_size=16 << 10,
    )
    server = _Server(config, tls, door)
    acceptor = Acceptor(door.admission, server.handle, purpose, make_room=door.make_room)
    running = asyncio.create_task(server.serve([]))
    up = asyncio.create_task(server.up.wait())
    try:
        await asyncio.wait([running, up], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
            raise TeethError("the HTTP server ended before it had begun")
        async with acceptor.accepting(sock):
            yield
    finally:
        up.cancel()
        server.should_exit = True
        await asyncio.gather(running, up, return_exceptions=True)
        for task in list(acceptor.tasks):
            task.cancel()
        await asyncio.gather(*acceptor.tasks, return_exceptions=True)
        threads.shutdown(wait=False, cancel_futures=True)
        sock.close()
