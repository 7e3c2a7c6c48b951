"""Reads of /sys and /proc under a root that tests can replace."""

from __future__ import annotations

from pathlib import Path

# Attributes are a page at the most; /proc/cpuinfo of a large machine is what needs the rest.
_MAX_READ = 1 << 20


def read_text(root: Path, path: str, default: str | None = None) -> str | None:
    """The stripped text of ``path`` (absolute, taken below ``root``), or ``default`` if unreadable."""
    try:
        with (root / path.lstrip("/")).open("rb") as stream:
            return stream.read(_MAX_READ).decode(errors="replace").strip()
    except OSError:
        return default


def read_int(root: Path, path: str) -> int | None:
    """The decimal number in ``path``, or None if unreadable or not a number."""
    text = read_text(root, path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def names(root: Path, path: str) -> list[str]:
    """The sorted names in a folder, [] if there is none."""
    try:
        return sorted(entry.name for entry in (root / path.lstrip("/")).iterdir())
    except OSError:
        return []


def write_text(root: Path, path: str, text: str) -> None:
    """Write a kernel attribute. Raises OSError as the kernel gives it."""
    (root / path.lstrip("/")).write_text(text)
