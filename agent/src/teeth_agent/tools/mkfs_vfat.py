"""mkfs.vfat(8) from dosfstools."""

from __future__ import annotations

from teeth_agent.run import run


def make(path: str, *, label: str, sector: int) -> None:
    """A FAT file system over the whole of ``path``. Raises ToolError."""
    run(["mkfs.vfat", "-S", str(sector), "-n", label, path])
