"""The last act: flush, then jump into the loaded kernel or restart the machine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from teeth_agent.blockio import open_device
from teeth_agent.errors import AgentError, ToolError
from teeth_agent.tools import kexec, reboot

_log = logging.getLogger(__name__)

# How "kexec" or "reboot" is carried out; returns only if it did not happen (or in a test).
Leave = Callable[[str], None]
# The key of this boot and its certificate: see the session.
_SECRETS = Path("/run/teeth")
# A kernel that was told to restart is gone within seconds.
_GONE_AFTER = 60.0


def flush(disk: str) -> None:
    """All file systems, then the disk's own cache: the next kernel finds everything. Raises DeviceError."""
    os.sync()
    with open_device(disk, write=True) as device:
        device.flush()


def forget(folder: Path) -> None:
    """Overwrite and remove the keys in a folder in memory. Never raises: leaving must not fail by it."""
    for path in folder.glob("*.pem"):
        try:
            with path.open("r+b") as stream:
                stream.write(bytes(path.stat().st_size))
            path.unlink()
        except OSError as error:
            _log.warning("%s cannot be overwritten: %s", path.name, error.strerror)


def leave(how: str, secrets: Path = _SECRETS) -> None:
    """Never returns, but for AgentError(still_here).

    A kexec that fails at the last moment becomes a reboot. The next kernel gets this one's memory as it is:
    the keys in the folder ``secrets`` are overwritten first, and this boot cannot prove itself any more.
    """
    forget(secrets)
    if how == "kexec":
        try:
            kexec.execute()
        except ToolError as error:
            _log.error("kexec failed at the last moment, rebooting: %s", error)
    reboot.reboot()
    time.sleep(_GONE_AFTER)
    raise AgentError(f"the machine is still running {_GONE_AFTER:g} s after its restart", code="still_here")
