"""Images that this machine has cached, for other machines of its network segment: read-only, by plain HTTP.

Nobody needs to trust it: whoever fetches verifies each chunk by the manifest that its own session named.
What it must not do is to harm its own machine: connections, rate and time are bounded, and it knows no paths
but ``/images/sha256-HEX``. It is Python's own HTTP server with sendfile (docs/adr/0029).
"""

from __future__ import annotations

import http.server
import ipaddress
import logging
import os
import re
import select
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from teeth_agent.errors import AgentError
from teeth_agent.image.held import HeldImage

_log = logging.getLogger(__name__)
# Of the request's own text, not of anything decoded: there is no way to say another path.
_PATH = re.compile(r"/images/sha256-([0-9a-f]{64})\Z")
_RANGE = re.compile(r"bytes=(\d{1,16})-(\d{0,16})\Z")
_PIECE = 1 << 20
_CLOSING = 5.0
_BUSY = b"HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

# The image of this sha256 (hex) while the block runs, None if it is not held whole or must not be shared.
Find = Callable[[str], AbstractContextManager[HeldImage | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareLimits:
    """What others may cost this machine. Rates in bytes per second, times in seconds."""

    # Each is a thread that waits most of the time: 50 KiB.
    connections: int = 64
    connections_of_one: int = 4
    # Of all together. Half of what 10 GbE carries: this machine has images to write itself.
    rate: float = 500e6
    # The next request's head must come within this, and a MiB of the body must leave.
    idle: float = 10.0
    piece: float = 30.0


class ImageShare:
    """The server. ``open`` makes it listen; it ends with ``close`` or with the ramdisk.

    ``address`` is this machine's on the provisioning network, with its prefix length ("10.0.0.7/24"): it
    listens there and nowhere else, and answers nobody outside.
    """

    def __init__(self, address: str, *, limits: ShareLimits | None = None) -> None:
        self._interface = ipaddress.ip_interface(address)
        self._limits = limits or ShareLimits()
        self._guard = threading.Lock()
        self._server: _Server | None = None

    def open(self, find: Find) -> str:
        """Serve what ``find`` finds; returns ``http://HOST:PORT``. A second call returns the same.

        Raises AgentError(share_failed) if nothing can listen there.
        """
        with self._guard:
            if self._server is None:
                try:
                    self._server = _Server(self._interface, self._limits, find)
                except OSError as error:
                    raise AgentError(
                        f"images cannot be shared: {error.strerror}", code="share_failed"
                    ) from None
                # Its end is the process's: a task may leave by kexec, which waits for nobody.
                threading.Thread(target=self._server.serve_forever, name="share", daemon=True).start()
            host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def close(self) -> bool:
        """Listen no more, break off what is under way; whether it has ended within 5 s."""
        with self._guard:
            server, self._server = self._server, None
        if server is None:
            return True
        server.shutdown()
        server.server_close()
        return server.break_off(_CLOSING)


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self,
        interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface,
        limits: ShareLimits,
        find: Find,
    ) -> None:
        self.address_family = socket.AF_INET6 if interface.version == 6 else socket.AF_INET
        self.limits = limits
        self.find = find
        self.throttle = Throttle(limits.rate)
        self._network = interface.network
        self._changed = threading.Condition()
        self._open: Counter[str] = Counter()
        self._sockets: set[socket.socket] = set()
        super().__init__((str(interface.ip), 0), _Request)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's own asks the name service who we are

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether this connection gets a thread."""
        host = str(client_address[0])
        if ipaddress.ip_address(host.partition("%")[0]) not in self._network:
            return False
        with self._changed:
            limits = self.limits
            if self._open.total() < limits.connections and self._open[host] < limits.connections_of_one:
                self._open[host] += 1
                self._sockets.add(request)
                return True
        with suppress(OSError):
            request.setblocking(False)
            request.send(_BUSY)
        return False

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            host = str(client_address[0])
            with self._changed:
                self._sockets.discard(request)
                self._open[host] -= 1
                if not self._open[host]:
                    del self._open[host]
                self._changed.notify_all()

    def break_off(self, seconds: float) -> bool:
        """End every connection; whether all were over within ``seconds``."""
        with self._changed:
            for sock in self._sockets:
                with suppress(OSError):  # its thread was quicker
                    sock.shutdown(socket.SHUT_RDWR)
            return self._changed.wait_for(lambda: not self._sockets, seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request
        _log.info("a transfer to %s broke off", client_address[0], exc_info=True)


class _Request(http.server.BaseHTTPRequestHandler):
    """One connection, request after request."""

    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "teeth-agent"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.limits.idle)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        named = _PATH.match(self.path)
        with self.server.find(named[1]) if named else nullcontext() as image:
            if image is None:
                self._head(404, 0)
                return
            size = image.chunks.size
            start, end = 0, size
            wanted = _RANGE.match(self.headers.get("Range", ""))
            if wanted is None:
                self._head(200, end, Accept_Ranges="bytes")
            else:
                start = int(wanted[1])
                end = min(end, int(wanted[2] or end) + 1)
                if start >= end:
                    self._head(416, 0, Content_Range=f"bytes */{size}")
                    return
                self._head(206, end - start, Content_Range=f"bytes {start}-{end - 1}/{size}")
            if body:
                self._send(image, start, end)

    def _head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(self, image: HeldImage, start: int, end: int) -> None:
        """A chunk that is not right ends the connection short of its length, before a byte of it has left."""
        try:
            while start < end:
                verified = min(end, image.chunks.verified_to(image.descriptor, start))
                while start < verified:
                    piece = min(_PIECE, verified - start)
                    self.server.throttle.take(piece)
                    self._send_piece(image.descriptor, start, piece)
                    start += piece
        except (AgentError, OSError) as error:
            _log.warning("image for %s: broken off at byte %d: %s", self.client_address[0], start, error)
            self.close_connection = True

    def _send_piece(self, descriptor: int, offset: int, count: int) -> None:
        out, within = self.connection.fileno(), time.monotonic() + self.server.limits.piece
        poller = select.poll()
        poller.register(out, select.POLLOUT)
        while count:
            left = within - time.monotonic()
            if left <= 0 or not poller.poll(left * 1000):
                raise TimeoutError(f"less than {_PIECE} bytes in {self.server.limits.piece:g} s")
            with suppress(BlockingIOError):
                sent = os.sendfile(out, descriptor, offset, count)
                if not sent:
                    raise OSError("the cached file is shorter than the image")
                offset += sent
                count -= sent

    def log_message(self, format: str, *args: Any) -> None:
        """Not each request: the log goes to the endpoint."""


class Throttle:
    """At most ``rate`` bytes a second, whoever takes them, in the order of the asking."""

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._guard = threading.Lock()
        self._free = 0.0

    def take(self, amount: int) -> None:
        """Waits until ``amount`` bytes may go."""
        with self._guard:
            now = self._clock()
            wait = max(0.0, self._free - now)
            self._free = max(self._free, now) + amount / self._rate
        if wait:
            self._sleep(wait)
