"""How long an erase will take, as far as anybody can say before it has begun."""

from __future__ import annotations

from teeth_agent.erase.capabilities import Capabilities, PlainCapabilities
from teeth_agent.erase.model import Method, Rung, Unit
from teeth_agent.erase.policy import Verification

# Bytes a second that a healthy drive of its kind reaches over its whole length; only ever used to guess.
_SPINNING = 150e6
_FLASH = 400e6
_SAMPLED = 0.1


def estimate(unit: Unit, capabilities: Capabilities, rung: Rung, verification: Verification) -> float | None:
    """Seconds for one rung with its proof; None when a drive is to work alone and does not say how long."""
    said = {} if isinstance(capabilities, PlainCapabilities) else capabilities.seconds
    speed = _SPINNING if unit.first.rotational else _FLASH
    whole = unit.size / speed
    seconds = 0.0
    for method in rung.methods:
        if method is Method.OVERWRITE:
            seconds += 2 * whole
        elif method in said:
            seconds += said[method]
        else:
            return None
    if rung.methods[0].by_device:
        seconds += whole * (_SAMPLED if verification is Verification.SAMPLED else 1.0)
    return seconds
