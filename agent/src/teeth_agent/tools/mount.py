"""mount(8), read-only and harmless, and umount(8)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from teeth_agent.run import run

# The image's files are read as data: nothing in them may act.
_HARMLESS = "ro,nosuid,nodev,noexec"
# Even a read-only mount replays these journals, which writes to the disk, unless told not to.
_NO_REPLAY = {
    "ext3": "noload",
    "ext4": "noload",
    "xfs": "norecovery",
    "btrfs": "rescue=nologreplay",
}


@contextmanager
def mounted(source: str, point: Path, kind: str, *, options: str = "") -> Iterator[Path]:
    """``source`` at the existing folder ``point``, not replaying a journal. Raises ToolError."""
    parts = [_HARMLESS, _NO_REPLAY.get(kind, ""), options]
    run(["mount", "-t", kind, "-o", ",".join(part for part in parts if part), source, str(point)])
    try:
        yield point
    finally:
        run(["umount", str(point)])


def mount_pstore(point: Path) -> None:
    """The firmware's crash dumps as files at ``point``, for as long as this boot. Raises ToolError."""
    if not any(point.iterdir()) and not point.is_mount():
        run(["mount", "-t", "pstore", "-o", "nosuid,nodev,noexec", "pstore", str(point)])
