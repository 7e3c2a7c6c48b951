"""THE KIT NEVER ERASES. What may be sent to an agent under test, and under which conditions.

An agent is a program on a machine with disks, and several of its commands destroy what is on them. Two gates
stand before every byte that goes to an agent, and no option opens them:

1. **What may be said.** Of commands, those below ``HARMLESS``, names that no agent has, and one task:
   ``decom.disk_erase`` as a plan (``plan: true``) that besides allows no disk there is (``allow`` names one
   that does not exist) and asks for a plan that cannot be (``plan_digest`` of zeros): whoever forgets one of
   the three is stopped by the next. All else that holds ``decom`` or ``standby`` in any way of writing it is
   refused, also in broken lines and in lines sent piece by piece. Checked when a transcript is read, and
   again on what leaves the socket.
2. **To whom.** An agent that knows only the seed knows none of the three members: to it, the command means
   erase. So it goes only to an agent that names the capability ``plan`` in its handshake, or for which the
   person who runs the kit vouches (``--plan-safe``).
"""

from __future__ import annotations

import json
import re
from typing import Any

NO_DISK = "conformance-kit-no-such-disk"
NO_DIGEST = f"sha256:{'0' * 64}"
CAPABILITY = "plan"
HARMLESS = frozenset(
    {"ping", "status", "inventory", "cancel_task", "log", "task_status", "handshake", "enroll"}
)
NO_METHOD = "no.such.method"  # and whatever begins so
_ERASE = "decom.disk_erase"
_FORBIDDEN = re.compile(r"decom|standby", re.IGNORECASE)
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")


class HarmfulError(ValueError):
    """The text must not go to an agent."""

    def __init__(self) -> None:
        super().__init__(
            "the kit never erases: to an agent go only "
            f"{', '.join(sorted(HARMLESS))}, {NO_METHOD}*, and {_ERASE} with "
            f'"plan": true, "allow": ["{NO_DISK}"], "plan_digest": "{NO_DIGEST}" in one plain line'
        )


class Guard:
    """Stands between the kit and an agent's socket."""

    def __init__(self) -> None:
        self._unended = b""

    def check(self, data: bytes) -> None:
        """Raises HarmfulError unless ``data``, after all that was sent before it, can go out."""
        *lines, unended = (self._unended + data).split(b"\n")
        for line in (*lines, unended):
            check_harmless(line.decode("utf-8", "replace"))
        self._unended = unended


def check_harmless(text: str) -> None:
    """Raises HarmfulError unless ``text``, a line for an agent or a part of one, can do no harm."""
    try:
        message = json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError):
        message = None
    method = message.get("method") if isinstance(message, dict) else None
    # The empty name is nobody's.
    if isinstance(method, str) and method and not (method in HARMLESS or method.startswith(NO_METHOD)):
        if not _is_empty_plan(message):
            raise HarmfulError
    elif is_task(text):
        raise HarmfulError


def is_task(text: str) -> bool:
    """Whether ``text`` names a task method in any way of writing it."""
    plain = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    return _FORBIDDEN.search(plain) is not None or _FORBIDDEN.search(text) is not None


def _is_empty_plan(message: Any) -> bool:
    params = message.get("params")
    return (
        message.get("method") == _ERASE
        and isinstance(params, dict)
        and params.get("plan") is True
        and params.get("allow") == [NO_DISK]
        and params.get("plan_digest") == NO_DIGEST
    )


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        # Of two equal keys the agent might believe the other one.
        raise ValueError("a key twice")
    return value
