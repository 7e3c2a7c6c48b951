"""How many connections this machine has open to one server at a time, all its tasks together."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A fleet of machines that opens more than a few connections each is what brings an image server down.
CONNECTIONS_PER_HOST = 4
# How late a stopped or overdue fetch stops to wait for its turn.
_LOOK = 0.5


class HostLimits:
    """At most ``most`` places for each host and port. Any thread may ask."""

    def __init__(self, most: int = CONNECTIONS_PER_HOST) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def place(self, host: str, check: Callable[[], object]) -> Iterator[None]:
        """Wait for a place and hold it; ``check`` is called meanwhile, to raise when that has no point."""
        with self._changed:
            while self._taken[host] >= self._most:
                check()
                self._changed.wait(_LOOK)
            self._taken[host] += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken[host] -= 1
                if not self._taken[host]:
                    del self._taken[host]
                self._changed.notify_all()


STREAMS = HostLimits()
# Apart from the streams: a stream may wait for what such a short read brings, and must not be in its way.
READS = HostLimits()
