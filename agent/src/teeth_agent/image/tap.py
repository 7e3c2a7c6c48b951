"""Bytes of an image from wherever they are to be had, one after another, over breaks and refusals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from teeth_agent.errors import Cancelled
from teeth_agent.image import connect
from teeth_agent.image.connect import Broken, Cut, UrlFailed
from teeth_agent.image.hosts import HostLimits
from teeth_agent.image.http import MAX_REDIRECTS, Ask, Body, get
from teeth_agent.image.origins import Origin, Origins, delay
from teeth_agent.image.source import Deadline

# Thrown away in pieces of this size where a server has no ranges.
_SKIP = 256 << 10


class Tally:
    """What came over the network for one source. Any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.fetched = 0
        self.from_peers = 0
        self.restarts = 0

    def add(self, count: int, *, peer: bool) -> None:
        with self._lock:
            self.fetched += count
            self.from_peers += count if peer else 0

    def restarted(self) -> None:
        with self._lock:
            self.restarts += 1


class Brakes:
    """What ends a fetch from outside, and how it waits. Any thread may ``stop``."""

    def __init__(self, deadline: Deadline, pause: Callable[[float], None] | None = None) -> None:
        self.cut = Cut()
        self.deadline = deadline
        self._stopped = threading.Event()
        self._pause = pause

    def stop(self) -> None:
        self._stopped.set()
        self.cut()

    def check(self) -> None:
        """Raises Cancelled once stopped, AgentError(fetch_deadline) once it is too late."""
        if self._stopped.is_set():
            raise Cancelled("the fetch was stopped")
        self.deadline.check()

    def wait(self, seconds: float) -> None:
        """That long, less if stopped or too late; then as ``check``."""
        if self._pause is not None:
            self._pause(seconds)
        else:
            self._stopped.wait(self.deadline.bound(seconds))
        self.check()


class _Slow(Broken):
    """Bytes come, but so few that it counts as a failure that brought nothing."""


class Tap:
    """Reads on from ``position`` to ``end``, from one origin as long as that goes well, else the next.

    To be closed. Raises AgentError when no origin is left, and what ``Brakes.check`` raises.
    ``ranges_only``: a server that answers with the whole file is given up (no_ranges).
    """

    def __init__(
        self,
        origins: Origins,
        *,
        size: int,
        position: int,
        end: int,
        verified: bool,
        brakes: Brakes,
        tally: Tally,
        limits: HostLimits,
        ranges_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.position = position
        self._origins = origins
        self._size = size
        self._end = end
        self._verified = verified
        self._brakes = brakes
        self._tally = tally
        self._limits = limits
        self._ranges_only = ranges_only
        self._clock = clock
        self._open = ExitStack()
        self._body: Body | None = None
        self._origin: Origin | None = None
        self._moved = False
        self._window = _Window(0.0, 0)
        # Whoever gave some of the chunk under way, and whom not to ask for it again.
        self._givers: list[Origin] = []
        self._avoid: Origin | None = None

    def read_into(self, buffer: memoryview) -> int:
        """At least one byte, at most what is left and fits."""
        room = buffer[: self._end - self.position]
        while True:
            self._brakes.check()
            origin = self._origin or self._origins.choose(but=self._avoid)
            try:
                count = self._some(origin, room)
            except Broken as error:
                self._broken(origin, error)
            except UrlFailed as error:
                self.close()
                origin.failure = error
            else:
                self.position += count
                self._moved = True
                return count

    def accept(self) -> None:
        """What came since the last call was right."""
        self._givers.clear()
        self._avoid = None

    def reject(self, position: int) -> None:
        """What came from ``position`` on was not right: go back, and to another origin for it."""
        self.close()
        self.position = position
        self._tally.restarted()
        guilty = self._givers[-1]
        if all(giver is guilty for giver in self._givers):
            guilty.lied()
        # With several, nobody knows whose bytes they were; the next time they are all of one.
        self._givers.clear()
        self._avoid = guilty

    def close(self) -> None:
        self._open.close()
        self._body = self._origin = None

    def _some(self, origin: Origin, room: memoryview) -> int:
        body = self._body or self._connect(origin)
        count = self._receive(body, origin, room)
        if not self._givers or self._givers[-1] is not origin:
            self._givers.append(origin)
        return count

    def _connect(self, origin: Origin) -> Body:
        self._moved = False
        host = connect.host_of(origin.url, origin.proxy)
        self._open.enter_context(self._limits.place(host, self._brakes.check))
        ask = Ask(
            url=origin.url,
            offset=self.position,
            size=self._size,
            end=self._end if self._end < self._size else None,
            # Chunks speak for themselves.
            validator=None if self._verified else origin.validator,
            proxy=origin.proxy,
            silence=self._brakes.deadline.bound(origin.patience.silence),
            cut=self._brakes.cut,
            # A machine of the same segment has no business to send this one elsewhere.
            redirects=0 if origin.peer else MAX_REDIRECTS,
        )
        body = self._open.enter_context(get(ask))
        self._window = _Window(origin.patience.window, origin.patience.least)
        self._body, self._origin = body, origin
        origin.validator = body.validator or origin.validator
        self._skip(body, origin)
        return body

    def _skip(self, body: Body, origin: Origin) -> None:
        """Read what was not asked for: this server has no ranges."""
        left = self.position - body.start
        if left and self._ranges_only:
            raise UrlFailed("the server gives no ranges", code="no_ranges")
        scrap = memoryview(bytearray(min(left, _SKIP)))
        while left:
            self._brakes.check()
            left -= self._receive(body, origin, scrap[:left])

    def _receive(self, body: Body, origin: Origin, room: memoryview) -> int:
        self._window.check(origin)
        began = self._clock()
        count = body.read_into(room)
        self._window.add(self._clock() - began, count)
        if count == 0:
            raise Broken("the connection was closed early")
        self._tally.add(count, peer=origin.peer)
        return count

    def _broken(self, origin: Origin, error: Broken) -> None:
        self.close()
        self._brakes.check()
        self._tally.restarted()
        fruitless = origin.broke(str(error), moved=self._moved and not isinstance(error, _Slow))
        self._moved = False
        if origin.failure is None:
            self._brakes.wait(delay(fruitless, error.retry_after))


class _Window:
    """Whether enough comes: counts only the time spent waiting for bytes, not what is done with them."""

    def __init__(self, seconds: float, least: int) -> None:
        self._seconds = seconds
        self._least = least
        self._waited = 0.0
        self._bytes = 0

    def add(self, seconds: float, count: int) -> None:
        self._waited += seconds
        self._bytes += count

    def check(self, origin: Origin) -> None:
        """Raises UrlFailed for a peer that is too slow, _Slow for a server."""
        if self._waited <= self._seconds:
            return
        if self._bytes < self._least:
            slow = f"only {self._bytes} bytes in {self._waited:.0f} s"
            raise UrlFailed(slow) if origin.peer else _Slow(slow)
        self._waited, self._bytes = 0.0, 0
