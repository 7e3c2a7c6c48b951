"""blkid(8): what a part of a disk holds."""

from __future__ import annotations

from dataclasses import dataclass

from teeth_agent.run import run


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """``kind`` is blkid's word for a file system ("ext4", "vfat"), None if nothing was recognised."""

    kind: str | None
    label: str | None


def probe(path: str, *, offset: int, length: int) -> Content:
    """Look at ``length`` bytes from ``offset``, past blkid's cache. Raises ToolError if it is missing."""
    return _read(path, ["--usages", "filesystem", f"--offset={offset}", f"--size={length}"])


def probe_device(path: str) -> Content:
    """Look at a whole block device, past blkid's cache, for members of volumes too. Raises ToolError if it is
    missing."""
    return _read(path, [])


def _read(path: str, options: list[str]) -> Content:
    done = run(["blkid", "--probe", "--output", "export", *options, path], check=False)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return Content(kind=found.get("TYPE"), label=found.get("LABEL"))
