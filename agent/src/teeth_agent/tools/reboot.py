"""reboot(8) without asking anybody."""

from __future__ import annotations

from teeth_agent.run import run


def reboot() -> None:
    """Restart at once: no init, no flush. Raises ToolError."""
    run(["reboot", "-f"])
