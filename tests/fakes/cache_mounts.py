"""The cache's file systems as folders: what is "mounted" is moved to where it is seen."""

from __future__ import annotations

from pathlib import Path

from teeth_agent.errors import ToolError


class FolderMounts:
    """teeth_agent.image.cache.place.Mounts over folders. ``disks``: device path -> folder with its files, or
    None for a partition without a cache; ``refuse``: every attempt to mount a disk fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.disks: dict[str, Path | None] = {}
        self.refuse = False
        self.keep = False  # what is mounted cannot be unmounted
        self.attached: list[str] = []
        self.made: list[str] = []
        self.memory_sizes: list[int] = []

    def add(self, path: str) -> Path:
        """A partition with an empty cache."""
        self._folder.mkdir(exist_ok=True)
        folder = self.disks[path] = self._folder / path.replace("/", "_")
        folder.mkdir()
        return folder

    def attach_disk(self, path: str, point: Path, *, make: bool) -> bool:
        if self.refuse:
            raise ToolError(f"mount: {path} is busy")
        if self.disks[path] is None:
            if not make:
                return False
            self.made.append(path)
            self.add(path)
        folder = self.disks[path]
        assert folder is not None
        assert not self.attached, "one at a time"
        folder.replace(point)
        self.attached.append(path)
        return True

    def attach_memory(self, point: Path, size: int) -> None:
        self.memory_sizes.append(size)

    def detach(self, point: Path) -> None:
        if self.keep:
            raise ToolError(f"umount: {point} is busy")
        folder = self.disks[self.attached.pop()]
        assert folder is not None
        point.replace(folder)
