"""mount(8), read-only and harmless, and umount(8)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from teeth_agent.run import run

# The image's files are read as data: nothing in them may act.
_HARMLESS = "ro,nosuid,nodev,noexec"
# A gigabyte of files may still be in memory when a slow disk is unmounted.
_WRITE_OUT = 3600.0
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


@contextmanager
def mounted_for_writing(source: str, point: Path, kind: str) -> Iterator[Path]:
    """``source`` at the existing folder ``point``; device nodes and programs in it do nothing.

    Leaving the block writes everything out. Raises ToolError.
    """
    run(["mount", "-t", kind, "-o", "rw,nosuid,nodev,noexec,noatime", source, str(point)])
    try:
        yield point
    finally:
        run(["umount", str(point)], timeout=_WRITE_OUT)


def mount_pstore(point: Path) -> None:
    """The firmware's crash dumps as files at ``point``, for as long as this boot. Raises ToolError."""
    if not any(point.iterdir()) and not point.is_mount():
        run(["mount", "-t", "pstore", "-o", "nosuid,nodev,noexec", "pstore", str(point)])
