"""What two sides may agree on in the handshake, beyond what the seed's protocol has.

What is not agreed on is not used: a side that says nothing of capabilities is served as the seed describes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PROTOCOLS = ("v1",)

RETRY_AFTER = "retry_after"
ERROR_DETAIL = "error_detail"
RENEW = "renew"
PLAN = "plan"

CAPABILITIES: Mapping[str, str] = {
    RETRY_AFTER: 'the phase `prepared` may be answered `{"go": false, "retry_after": S}`: ask again then',
    ERROR_DETAIL: "an error response may carry `detail`",
    RENEW: "the agent gets a new certificate by `enroll` within its session",
    PLAN: "`decom.disk_erase` with `plan: true` says what it would do and touches nothing",
}


def offer(methods: Iterable[str] = ()) -> dict[str, Any]:
    """What an agent adds to its handshake's params; ``methods`` are the task methods that it serves."""
    return {"protocols": list(PROTOCOLS), "capabilities": list(CAPABILITIES), "methods": list(methods)}


def common_version(protocols: Sequence[str] | None) -> str | None:
    """The newest version that both sides speak, None if there is none. A side that names none speaks v1."""
    offered = PROTOCOLS[:1] if protocols is None else protocols
    return next((ours for ours in reversed(PROTOCOLS) if ours in offered), None)


def no_common_version() -> str:
    """The last words to a peer of another time."""
    return f"no_common_version: this side speaks {', '.join(PROTOCOLS)}"


def agreed(capabilities: Iterable[str]) -> list[str]:
    """Of what the peer knows, what this side knows too, in a fixed order."""
    theirs = frozenset(capabilities)
    return [name for name in CAPABILITIES if name in theirs]
