"""Time that passes only when everybody who could do something waits: hours in no time, and in order."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# How long it is looked, in true seconds, whether a thread that waits for another one outside this clock does
# something by itself; then time goes on.
_PATIENCE = 0.02
_JOIN_SECONDS = 10.0


class PowerCutError(SystemExit):
    """The machine lost its power under whoever gets this: nothing that it does afterwards has an effect.

    A SystemExit, so that no ``except Exception`` keeps the dead alive.
    """


@contextmanager
def quiet_deaths() -> Iterator[None]:
    """Threads may die of a power cut without a word meanwhile."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not issubclass(arguments.exc_type, PowerCutError):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


class VirtualClock:
    """``clock()`` in seconds. Threads that wait, wait here; the last one that would run moves time on.

    ``lock`` is held while simulated things are looked at or changed: one world, one lock. A thread belongs
    to the world from its first call to its end; the one that made the clock watches, and does not.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.lock = threading.Condition(threading.RLock())
        self.now = now
        # Called once when the time comes; moves itself on or sets infinity.
        self.alarm = math.inf
        self.on_alarm: Callable[[], None] = lambda: None
        self._watcher = threading.get_ident()
        self._members: dict[int, threading.Thread] = {}
        self._waiting: dict[int, float] = {}
        # Members that wait for something outside this clock: another thread's end, mostly.
        self._elsewhere: set[int] = set()

    def __call__(self) -> float:
        with self.lock:
            self._enter()
            return self.now

    def pause(self, seconds: float) -> None:
        with self.lock:
            until = self.now + max(0.0, seconds)
            self.wait(until, lambda: False)

    def spend(self, seconds: float) -> None:
        """What a command takes: time goes on without anybody else having a turn. The lock is held."""
        self._enter()
        to = self.now + seconds
        if self._waiting or self.alarm <= to:
            self._move(to)
        else:
            self.now = to

    def wait(self, until: float, ready: Callable[[], bool]) -> None:
        """Until that time, or until something is so. The lock is held, and given up meanwhile."""
        me = self._enter()
        try:
            while self.now < until and not ready():
                self._waiting[me] = until
                if self._all_wait():
                    self._move(min(self._waiting.values()))
                elif not self.lock.wait(_PATIENCE):
                    self._elsewhere.update(ident for ident in self._members if ident not in self._waiting)
        finally:
            self._waiting.pop(me, None)
            self.lock.notify_all()

    def outlive(self) -> None:
        """Wait for the end of every other thread of this world; after a power cut they end at once."""
        with self.lock:
            self.lock.notify_all()
            others = [one for one in self._members.values() if one is not threading.current_thread()]
        for thread in others:
            thread.join(_JOIN_SECONDS)

    def _enter(self) -> int:
        me = threading.get_ident()
        if me != self._watcher and self._members.get(me) is not (current := threading.current_thread()):
            self._members[me] = current  # the ident of a thread that has ended may come again
        self._elsewhere.discard(me)
        return me

    def _all_wait(self) -> bool:
        for ident, thread in list(self._members.items()):
            if not thread.is_alive():
                del self._members[ident]
                self._waiting.pop(ident, None)
            elif ident in self._elsewhere:
                continue
            elif self._waiting.get(ident, -math.inf) <= self.now:
                return False  # it has something to do, or its time has come
        return True

    def _move(self, to: float) -> None:
        if math.isinf(to):
            raise AssertionError("everybody waits for ever: a wait without a timeout")
        to = max(to, self.now)
        if self.alarm <= to:
            self.now, self.alarm = max(self.now, self.alarm), math.inf
            self.on_alarm()
        else:
            self.now = to
        self.lock.notify_all()
