"""mkfs.vfat(8) from dosfstools."""

from __future__ import annotations

from teeth_agent.run import run


def make(path: str, *, label: str, sector: int) -> None:
    """A FAT file system over the whole of ``path``. Raises ToolError."""
    run(["mkfs.vfat", "-S", str(sector), "-n", label, path])


def make_fat32(path: str, *, label: str, sector: int, volume: int) -> None:
    """FAT32 with clusters of 4096 bytes over all of ``path``; ``volume``: its number. Raises ToolError."""
    clusters = f"{4096 // sector}"
    run(
        [
            "mkfs.vfat",
            *("-F", "32"),
            *("-S", str(sector)),
            *("-s", clusters),
            *("-i", f"{volume:08x}"),
            *("-n", label),
            path,
        ]
    )
