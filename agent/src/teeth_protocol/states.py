"""The states of a connection and all that may happen to them, as a table."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Role(enum.Enum):
    AGENT = "agent"
    ENDPOINT = "endpoint"


class State(enum.Enum):
    HANDSHAKE = "handshake"
    READY = "ready"
    DRAINING = "draining"  # we answer what we owe and take nothing new
    CLOSED = "closed"


class Trigger(enum.Enum):
    HANDSHAKE_DONE = "handshake done"
    DRAIN = "drain"
    END = "end"  # fatal error on either side, end of stream, silence, deadline


# Everything that may happen to a connection's state; whatever is not here is a bug of the caller.
TRANSITIONS: Mapping[tuple[State, Trigger], State] = {
    (State.HANDSHAKE, Trigger.HANDSHAKE_DONE): State.READY,
    (State.HANDSHAKE, Trigger.DRAIN): State.CLOSED,
    (State.HANDSHAKE, Trigger.END): State.CLOSED,
    (State.READY, Trigger.DRAIN): State.DRAINING,
    (State.READY, Trigger.END): State.CLOSED,
    (State.DRAINING, Trigger.DRAIN): State.DRAINING,
    (State.DRAINING, Trigger.END): State.CLOSED,
    (State.CLOSED, Trigger.END): State.CLOSED,
    (State.CLOSED, Trigger.DRAIN): State.CLOSED,
}
