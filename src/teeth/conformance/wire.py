"""One connection to whom is tested: bytes out, lines in, every wait with an end."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from teeth.conformance.wrong import Wrong

_READ = 64 << 10
_MOST_BUFFERED = 8 << 20
# Bytes sent apart must arrive apart, as far as that can be asked for.
_BETWEEN_PIECES = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line as it came, without its newline."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The peer closed. ``unended``: bytes after the last newline, which are no message."""

    unended: bytes = b""


class Wire:
    """A blocking socket (plain or TLS) with deadlines. ``check`` sees all bytes before they go out."""

    def __init__(self, sock: socket.socket, check: Callable[[bytes], None] | None = None) -> None:
        self._sock = sock
        self._check = check
        self._buffer = b""
        self._ended: End | None = None
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def sock(self) -> socket.socket:
        return self._sock

    def send(self, data: bytes, *, piece: int = 0, seconds: float = 10.0) -> None:
        """All of ``data``, ``piece`` bytes at a time (0: at once). A peer that has hung up is no error here.

        Raises Wrong when the peer does not take it in time.
        """
        if self._check is not None:
            self._check(data)
        deadline = time.monotonic() + seconds
        step = piece or max(1, len(data))
        for start in range(0, len(data), step):
            self._sock.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                self._sock.sendall(data[start : start + step])
            except TimeoutError:
                raise Wrong(f"it did not take {len(data)} bytes within {seconds:g} s") from None
            except OSError:
                return  # it has closed; what it said before that is still to be read
            if piece:
                time.sleep(_BETWEEN_PIECES)

    def receive(self, deadline: float, limit: int) -> Line | End | None:
        """The next line, the end of the stream, or None at the deadline (time.monotonic).

        Raises Wrong for a line of more than ``limit`` bytes. Blank lines are passed over.
        """
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if len(line) > limit:
                raise Wrong(f"it sent a line of more than {limit} bytes")
            if newline:
                self._buffer = rest
                if line.strip():
                    return Line(data=line.removesuffix(b"\r"))
                continue
            if self._ended is not None:
                return self._ended
            if not self._read(deadline):
                return None

    def close(self, *, abort: bool = False) -> None:
        """``abort``: as if the cable was pulled and the machine rebooted (a reset), else in order."""
        with contextlib.suppress(OSError):
            if abort:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            else:
                self._sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._sock.close()

    def _read(self, deadline: float) -> bool:
        wait = deadline - time.monotonic()
        if wait <= 0:
            return False
        self._sock.settimeout(wait)
        try:
            data = self._sock.recv(_READ)
        except (TimeoutError, ssl.SSLWantReadError):
            return False
        except OSError:
            data = b""
        if not data:
            self._ended = End(unended=self._buffer)
            self._buffer = b""
        elif len(self._buffer) + len(data) > _MOST_BUFFERED:
            raise Wrong(f"it sent more than {_MOST_BUFFERED} bytes that nobody asked for")
        self._buffer += data
        return True
