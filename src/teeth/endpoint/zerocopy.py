"""Files that leave by sendfile: ASGI's extension ``http.response.zerocopysend`` for uvicorn's h11 protocol.

A transfer has a thread of its own: a page that is not in memory yet stops the thread that asks for it, never
the event loop in which agents are served.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

EXTENSION = "http.response.zerocopysend"
_AT_ONCE = 64 << 20  # bytes for one call; a socket takes what its buffer holds
Clock = Callable[[], float]


class TransferEnded(ConnectionError):
    """The other side is gone, takes too little, or the file is shorter than was said."""


class Transfer:
    """``count`` bytes of an open file to a connected socket, from a thread; ``stop`` from any other.

    The descriptor's position moves with what was sent. Less than ``least`` bytes in ``within`` seconds end
    it.
    """

    def __init__(
        self, sock: int, file: int, count: int, *, least: int, within: float, clock: Clock = time.monotonic
    ) -> None:
        # A descriptor of its own: whoever closes the connection must not have its number given to another.
        self._sock = socket.socket(fileno=os.dup(sock))
        self._file = file
        self._left = count
        self._least = least
        self._within = within
        self._clock = clock

    def stop(self) -> None:
        """End it, and the connection with it: half an answer cannot be mended."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Blocks until all was handed to the kernel. Raises TransferEnded."""
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        begun, since = self._clock(), 0
        try:
            while self._left > 0:
                sent = self._send()
                if sent:
                    since += sent
                    continue
                if (late := self._clock() - begun) >= self._within:
                    if since < self._least:
                        raise TransferEnded("too little of it is taken")
                    begun, since, late = self._clock(), 0, 0.0
                poll.poll((self._within - late) * 1000)
        finally:
            self._sock.close()

    def _send(self) -> int:
        """Bytes that went; 0: the socket takes none at the moment."""
        try:
            # Without an offset: the position moves, and tells whoever opened the file how far it came.
            sent = os.sendfile(self._sock.fileno(), self._file, None, min(self._left, _AT_ONCE))
        except BlockingIOError:
            return 0
        except OSError as error:
            raise TransferEnded(error.strerror) from error
        if sent == 0:
            raise TransferEnded("the file has become shorter")
        self._left -= sent
        return int(sent)


class _Placeholder:
    """Stands for bytes that h11 counts and never sees."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


class ZeroCopy:
    """One connection's application, with the extension: ``app`` may send parts of files by it."""

    def __init__(
        self,
        app: ASGIApp,
        protocol: H11Protocol,
        lost: asyncio.Event,
        *,
        threads: Executor,
        least: int,
        within: float,
    ) -> None:
        self._app = app
        self._protocol = protocol
        self._lost = lost
        self._threads = threads
        self._least = least
        self._within = within
        self._running: Transfer | None = None

    def stop(self) -> None:
        """The connection is lost: what is on its way ends."""
        if self._running is not None:
            self._running.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extended = {**scope, "extensions": {**scope.get("extensions", {}), EXTENSION: {}}}

        async def sending(message: Message) -> None:
            if message["type"] != EXTENSION:
                await send(message)
                return
            await self._send_file(message["file"], message["count"])
            if not message.get("more_body", False):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await self._app(extended, receive, sending)
        except TransferEnded:
            # Nobody is there to be told; uvicorn would log a failure of the application.
            self._protocol.transport.abort()
            await self._lost.wait()

    async def _send_file(self, file: int, count: int) -> None:
        transport, flow = self._protocol.transport, self._protocol.flow
        if self._lost.is_set():
            raise TransferEnded("the connection is lost")
        self._protocol.conn.send_with_data_passthrough(h11.Data(data=_Placeholder(count)))  # type: ignore[arg-type]
        # The head must have left before another descriptor writes to the same connection.
        transport.set_write_buffer_limits(high=0)
        await flow.drain()
        transport.set_write_buffer_limits()
        sock: Any = transport.get_extra_info("socket")
        if self._lost.is_set() or sock.fileno() < 0:
            raise TransferEnded("the connection is lost")
        flow.pause_reading()  # the next request waits in the kernel until this one is answered
        self._running = Transfer(sock.fileno(), file, count, least=self._least, within=self._within)
        job = asyncio.get_running_loop().run_in_executor(self._threads, self._running.run)
        try:
            await asyncio.shield(job)
        except asyncio.CancelledError:
            self._running.stop()
            await asyncio.gather(job, return_exceptions=True)
            raise
        finally:
            self._running = None
        flow.resume_reading()
