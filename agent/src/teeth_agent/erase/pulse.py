"""What a run tells of itself while it goes on, and how it ends before its ladder does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from teeth_agent.erase.model import Outcome
from teeth_agent.errors import Cancelled, DeviceError


class Ending(DeviceError):
    """What no further rung can help against: the ladder ends here, with this outcome."""

    def __init__(self, message: str, *, code: str, outcome: Outcome) -> None:
        super().__init__(message, code=code)
        self.outcome = outcome


@dataclass(slots=True, kw_only=True)
class Pulse:
    """Signs of life of one run, in true time, and the word to end it. Any thread may look."""

    beaten: float = field(default_factory=time.monotonic)
    step: str = "waiting"
    given_up: bool = False

    def beat(self) -> None:
        """Called wherever the run could be ended; raises to end it once nobody waits for it any more."""
        if self.given_up:
            raise Cancelled("the drive did not answer for too long")
        self.beaten = time.monotonic()
