"""Every bound of the wire, with where its number comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one connection. Lengths in bytes, times in seconds.

    The line lengths are asymmetric on purpose: an agent is the less trusted side and there are thousands
    of it, while an endpoint may have to send a config drive.
    """

    line_unauthenticated: int = 4 << 10
    line_from_agent: int = 256 << 10
    line_from_endpoint: int = 1 << 20
    depth: int = 16
    # 900 KB of `{}` costs CPython 24 times its size in memory; 10,000 values bound that to a few MiB.
    values: int = 10_000
    pending: int = 256
    # 256 of the longest lines would be far more than a machine can spare; this is eight of the longest.
    pending_memory: int = 32 << 20
    handshake_timeout: float = 5.0
    line_timeout: float = 10.0
    ping_interval: float = 15.0
    # Spread, so that a fleet that connected together does not ping together.
    ping_jitter: float = 0.2
    silent_pings: int = 3
    command_timeout: float = 30.0
    # What we may owe the peer before we call it too slow and drop the session.
    write_backlog: int = 1 << 20
