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
    argv = ["blkid", "--probe", "--output", "export", "--usages", "filesystem"]
    done = run([*argv, f"--offset={offset}", f"--size={length}", path], check=False)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return Content(kind=found.get("TYPE"), label=found.get("LABEL"))
