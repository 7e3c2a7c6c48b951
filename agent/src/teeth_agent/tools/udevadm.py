"""udevadm(8), as far as pyudev has no word for it."""

from __future__ import annotations

from teeth_agent.errors import ToolError
from teeth_agent.run import run


def settle(timeout: float = 30.0) -> bool:
    """Wait until udev has handled all events, at most ``timeout`` seconds (whole ones count, at least 1).

    False where it is missing or still busy: what follows looks for itself. Never raises.
    """
    seconds = max(1, int(timeout))
    try:
        done = run(["udevadm", "settle", f"--timeout={seconds}"], timeout=seconds + 5, check=False)
    except ToolError:
        return False
    return done.returncode == 0
