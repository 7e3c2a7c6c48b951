"""The agent's watch over itself: a loop that does not turn any more is ended, so that init starts another.

Tasks run in threads of their own and may take days: only the loop is watched, and only by whether it turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

EXIT_STUCK = 70  # EX_SOFTWARE of sysexits.h
# The loop turns several times a second. Two minutes without are no slowness of any machine, and shorter than
# what an endpoint waits before it calls a node lost.
_LIMIT = 120.0
_TICKS = 24  # looks within that time
_MAX_REPORT = 64 << 10
_MAX_WORDS = 900  # of them, for one log record


@dataclass(slots=True)
class Silence:
    """How long the loop has not turned while this machine was awake: a pure count.

    A machine that was suspended, or a process that was stopped, finds a late look and a loop that had no time
    either. So no look counts for more than twice its ``interval``, however late it comes.
    """

    interval: float
    seconds: float = 0.0
    seen: int = -1
    looked: float | None = None

    def look(self, now: float, turns: int) -> float:
        """Seconds of silence; ``turns`` counts the loop's, ``now`` is any clock that is never set."""
        passed = 0.0 if self.looked is None else min(now - self.looked, 2 * self.interval)
        self.looked = now
        self.seconds = 0.0 if turns != self.seen else self.seconds + passed
        self.seen = turns
        return self.seconds


@contextlib.contextmanager
def watching(report: Path, *, limit: float = _LIMIT, end: Callable[[int], None] = os._exit) -> Iterator[None]:
    """Watch the running loop while the block runs.

    When it has not turned for ``limit`` seconds, every thread's stack goes to the console and into ``report``
    for the next process, and ``end`` is called. A thread of Python sees a loop that waits for what never
    comes. One that computes for ever inside one call, and lets no other thread run, is seen by its processor
    time: the kernel then ends this process, after twice the limit of it.
    """
    loop = asyncio.get_running_loop()
    interval = limit / _TICKS
    turns = 0
    over = threading.Event()
    handle: asyncio.Handle | None = None

    def turn() -> None:
        nonlocal turns, handle
        turns += 1
        signal.setitimer(signal.ITIMER_PROF, 2 * limit)
        handle = loop.call_later(interval, turn)

    def watch() -> None:
        silence = Silence(interval)
        while not over.wait(interval):
            if silence.look(time.monotonic(), turns) >= limit:
                _tell(report, f"the agent's loop has not turned for {limit:g} s: it is started again")
                end(EXIT_STUCK)
                return

    faulthandler.register(signal.SIGPROF, file=sys.stderr, all_threads=True, chain=True)
    turn()
    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        if handle is not None:
            handle.cancel()
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.unregister(signal.SIGPROF)
        thread.join()


def _tell(report: Path, why: str) -> None:
    """Straight to the descriptors: whoever hangs may hold the lock of a file object or of the log."""
    with contextlib.suppress(OSError):
        os.write(1, f"teeth: problem agent_stuck: {why}\n".encode())
    faulthandler.dump_traceback(2, all_threads=True)
    with contextlib.suppress(OSError):
        descriptor = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, f"{why}\n".encode())
            faulthandler.dump_traceback(descriptor, all_threads=True)
        finally:
            os.close(descriptor)


def last_words(report: Path) -> str | None:
    """What an earlier process wrote when it was ended, cut to one log record; None if none was. Read once."""
    try:
        with report.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_REPORT)
        report.unlink()
    except OSError:
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines)[:_MAX_WORDS] or None
