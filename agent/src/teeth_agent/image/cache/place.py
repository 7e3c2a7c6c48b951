"""Where the cache is: on a partition named ``teeth-cache``, else in memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from teeth_agent import sysfs
from teeth_agent.errors import AgentError, DeviceError, ToolError
from teeth_agent.image.cache import budget

_log = logging.getLogger(__name__)

# The name in the GPT (and, of the file system there, its label) by which a partition is given to the cache.
LABEL = "teeth-cache"
# Kept free on the partition for the file system itself. Of its size.
_SPARE_PARTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePartition:
    """A partition with our name. ``identity`` of its disk; ``in_use``: why it cannot be had, if so."""

    path: str
    identity: str
    size: int
    in_use: tuple[str, ...] = ()


Look = Callable[[], Sequence[CachePartition]]
Kind = Literal["disk", "memory"]


class Mounts(Protocol):
    """The file systems of the cache; tests stand in. Every method raises ToolError."""

    def attach_disk(self, path: str, point: Path, *, make: bool) -> bool:
        """Mount the partition's own file system; if it has none of ours make one, or say False."""
        ...

    def attach_memory(self, point: Path, size: int) -> None:
        """A file system in memory of at most ``size`` bytes, kept if it is there already."""
        ...

    def detach(self, point: Path) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of the machine, in bytes."""

    total: int
    available: int


def read_memory(root: Path) -> Memory:
    """From /proc/meminfo; 0 where it says nothing."""
    found = {}
    for line in (sysfs.read_text(root, "/proc/meminfo", "") or "").splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            found[words[0].rstrip(":")] = int(words[1]) << 10
    return Memory(total=found.get("MemTotal", 0), available=found.get("MemAvailable", 0))


def choose(partitions: Sequence[CachePartition]) -> CachePartition | None:
    """The largest; of equal ones the one whose disk's identity comes first: the same at every boot."""
    return min(partitions, key=lambda one: (-one.size, one.identity, one.path), default=None)


class Places:
    """Attaches the places while they are used: what is mounted cannot be erased or written.

    A place on disk is detached when its last user leaves it; the one in memory stays for this boot.
    """

    def __init__(self, look: Look, mounts: Mounts, folder: Path, root: Path) -> None:
        self._look = look
        self._mounts = mounts
        self._disk_point = folder / "disk"
        self._memory_point = folder / "memory"
        self._root = root

    def disk(self) -> CachePartition | None:
        """The partition for the cache if there is one."""
        return choose(self._look())

    @contextmanager
    def on_disk(self, partition: CachePartition, *, make: bool) -> Iterator[Path | None]:
        """Its folder; None if there is no cache on it and none was to be made.

        Raises DeviceError(device_busy), ToolError. Not for two users at a time: see ImageCache.
        """
        if partition.in_use:
            raise DeviceError(f"{partition.path}: {'; '.join(partition.in_use)}", code="device_busy")
        self._disk_point.mkdir(parents=True, exist_ok=True)
        if not self._mounts.attach_disk(partition.path, self._disk_point, make=make):
            yield None
            return
        try:
            yield self._disk_point
        finally:
            try:
                self._mounts.detach(self._disk_point)
            except ToolError as error:
                # What was done is done. Whoever wants the disk is told that it is mounted, and where.
                _log.warning("the cache on %s stays mounted: %s", partition.path, error)

    def in_memory(self, *, make: bool) -> Path | None:
        """The folder in memory; None if there is none yet and none was to be made."""
        if not make:
            return self._memory_point if self._memory_point.is_dir() else None
        self._memory_point.mkdir(parents=True, exist_ok=True)
        return self._memory_point

    def disk_budget(self, folder: Path, held: int) -> int:
        """Bytes for images there, those held included. Raises AgentError(cache_failed)."""
        try:
            found = os.statvfs(folder)
        except OSError as error:
            raise AgentError(f"the cache's disk does not answer: {error}", code="cache_failed") from error
        spare = found.f_blocks * found.f_frsize // _SPARE_PARTS
        return max(0, found.f_bavail * found.f_frsize + held - spare)

    def memory_budget(self, held: int) -> tuple[int, Memory]:
        """Bytes for images in memory, those held included, and what it was reckoned from."""
        memory = read_memory(self._root)
        found = budget.memory_budget(available=memory.available, total=memory.total, held=held)
        return found, memory

    def limit_memory(self, size: int) -> None:
        """Nothing beyond ``size`` gets into the place in memory, whatever the arithmetic missed."""
        self._mounts.attach_memory(self._memory_point, size)
