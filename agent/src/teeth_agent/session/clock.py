"""The machine's clock: never before the ramdisk was made, and where that is not enough, as an endpoint says.

A certificate is judged by the time. A machine whose battery is empty or whose clock is years ahead could not
judge any, so it may ask for the time, and for nothing else, over a connection whose certificate is checked in
everything but its time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from teeth_agent.errors import AgentError
from teeth_protocol import methods
from teeth_protocol.connection import Role
from teeth_protocol.errors import ProblemError
from teeth_protocol.fields import FieldError, Fields
from teeth_stream import Peer, Reader, RemoteError, Writer

_log = logging.getLogger(__name__)
_LATEST = 2**33  # the year 2242: whoever says a later one does not know the time either
_SHORT_CLOSE = 0.5


class ClockError(AgentError):
    """Nobody could say the time, or what was said cannot be true."""

    code = "certificate_time"


def set_system_clock(epoch: float) -> None:
    time.clock_settime(time.CLOCK_REALTIME, epoch)


class SystemClock:
    """``floor`` is the time, in seconds since the epoch, before which it cannot be: the ramdisk's making.

    ``stepped`` once it was set by what an endpoint said.
    """

    def __init__(
        self,
        floor: int,
        *,
        now: Callable[[], float] = time.time,
        set_to: Callable[[float], None] = set_system_clock,
    ) -> None:
        self.floor = floor
        self.stepped = False
        self._now = now
        self._set_to = set_to

    def raise_to_floor(self) -> None:
        """A clock before the ramdisk's making is wrong: certificates would not be valid yet."""
        if self._now() < self.floor:
            try:
                self._set_to(self.floor)
            except OSError as error:
                _log.warning("the clock could not be set: %s", error)

    def step(self, told: float) -> str:
        """Set the clock to what an endpoint has told; returns words for a person. Raises ClockError."""
        if told < self.floor:
            raise ClockError(f"the endpoint says it is {utc(told)}, before this ramdisk was made")
        before = self._now()
        try:
            self._set_to(told)
        except OSError as error:
            raise ClockError(f"the clock cannot be set: {error.strerror}") from None
        self.stepped = True
        return f"the clock stood at {utc(before)} and was set to {utc(told)}"


def utc(epoch: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(epoch))
    except (OverflowError, ValueError, OSError):
        return f"{epoch:g} s after 1970"


async def ask_time(reader: Reader, writer: Writer) -> float:
    """The endpoint's time in seconds since the epoch: the only word this connection carries.

    Raises ClockError.
    """
    peer = Peer(Role.AGENT, reader, writer, _refuse, close_timeout=_SHORT_CLOSE)
    running = asyncio.create_task(peer.run())
    try:
        answer = await peer.call(methods.ENROLL, {"only": "time"})
        told = float(Fields(answer, "the answer").number("time"))
    except (RemoteError, FieldError, OverflowError) as error:
        raise ClockError(f"the endpoint does not say the time: {error}") from None
    finally:
        peer.hang_up()
        await running
    if not (math.isfinite(told) and 0 <= told < _LATEST):
        raise ClockError(f"the endpoint says no time: {told:g}")
    return told


async def _refuse(method: str, params: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - a Handler
    raise ProblemError("not_enrolled", f"{method} is not for this connection")
