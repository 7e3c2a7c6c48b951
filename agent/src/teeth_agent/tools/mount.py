"""mount(8), harmless, and umount(8)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from teeth_agent.run import run

# The image's files are read as data: nothing in them may act.
_INERT = "nosuid,nodev,noexec"
_HARMLESS = f"ro,{_INERT}"
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


def mount_kept(source: str, point: Path, kind: str) -> None:
    """A file system of our own, to be written, at the existing folder ``point``. Raises ToolError."""
    run(["mount", "-t", kind, "-o", f"rw,noatime,nosymfollow,{_INERT}", source, str(point)])


def mount_memory(point: Path, size: int) -> None:
    """A file system in memory of ``size`` bytes; one that is there gets this size. Raises ToolError."""
    again = "remount," if point.is_mount() else ""
    run(["mount", "-t", "tmpfs", "-o", f"{again}size={size},mode=0700,{_INERT}", "teeth-cache", str(point)])


def unmount(point: Path) -> None:
    """Everything is written out first. Raises ToolError."""
    run(["umount", str(point)], timeout=_WRITE_OUT)
