"""Mounts that an agent process which died has left: the kernel would go on writing to a disk by them."""

from __future__ import annotations

import logging
import re
import tempfile
from pathlib import Path

from teeth_agent.errors import ToolError
from teeth_agent.run import run

_log = logging.getLogger(__name__)
# What rootinstall and rootfs call their folders.
PREFIXES = ("teeth-root-", "teeth-image-")
_ESCAPED = re.compile(r"\\([0-7]{3})")
_PATIENCE = 600.0


def clear(folder: Path | None = None, *, mounts: Path = Path("/proc/mounts")) -> None:
    """Unmount what lies in this agent's folders below ``folder`` (of temporary files), the last first.

    To be called before any task, when no tool of the dead process runs any more. Never raises: what stays
    mounted keeps its disk busy, and tasks refuse it.
    """
    folder = Path(tempfile.gettempdir()) if folder is None else folder
    for source, point in reversed(_mounted(mounts)):
        if not any(point.startswith(f"{folder}/{prefix}") for prefix in PREFIXES):
            continue
        try:
            run(["umount", point], timeout=_PATIENCE)
            if source.startswith("/dev/loop"):
                # Attached by losetup, it outlives the mount; one that mount(8) attached is gone already.
                run(["losetup", "--detach", source], check=False)
            _log.warning("unmounted %s, which an earlier agent process has left", source)
        except ToolError as error:
            _log.error("%s of an earlier agent process stays mounted: %s", source, error)


def _mounted(mounts: Path) -> list[tuple[str, str]]:
    """(source, mount point) in the order they were mounted; proc(5) writes blanks as octal numbers."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return []
    fields = [line.split(" ") for line in lines]
    return [(_plain(one[0]), _plain(one[1])) for one in fields if len(one) > 1]


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)
