"""How a thread wakes the loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys


class Bell:
    """An event that any thread may ring, and that costs the loop one turn however often it is rung.

    call_soon_threadsafe alone would not do: each call writes a byte into the loop's own pipe, which the loop
    empties before it does anything else. A thread that calls it all the time, and keeps Python's lock
    between, fills the pipe as fast as it is emptied: such a loop was seen to stand still for 18 s.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._rung = False

    def ring(self) -> None:
        """From any thread. Whoever waits is woken after this, never before."""
        if self._rung:
            return  # the loop has not come to it yet, and will see what this is about
        self._rung = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(self._sound)

    def set(self) -> None:
        """From the loop itself."""
        self._event.set()

    def clear(self) -> None:
        self._event.clear()

    async def wait(self) -> None:
        await self._event.wait()

    def _sound(self) -> None:
        # In this order: a ring in between sounds once more than is needed, never once less.
        self._rung = False
        self._event.set()


# Python's default is 5 ms. Answering a ping gives up Python's lock a dozen times, and each time a thread that
# computes may keep it for as long as this.
_SWITCH_SECONDS = 0.001


def favour_the_loop() -> None:
    """Let no thread of this process keep Python's lock for long: pings come before work."""
    sys.setswitchinterval(_SWITCH_SECONDS)
