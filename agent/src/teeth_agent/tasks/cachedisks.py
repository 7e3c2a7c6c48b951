"""The partitions that this machine has set aside for images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from teeth_agent import sysfs
from teeth_agent.erase.protect import SHARED
from teeth_agent.image.cache.cache import FOLDER
from teeth_agent.image.cache.place import LABEL, CachePartition
from teeth_agent.inventory.block import Disk, Partition, list_disks


def cache_partitions(root: Path = Path("/")) -> Sequence[CachePartition]:
    """Those named ``teeth-cache`` in the GPT of one of the machine's own drives."""
    return partitions_of(list_disks(root), root)


def partitions_of(disks: Sequence[Disk], root: Path) -> Sequence[CachePartition]:
    """``cache_partitions`` among given disks."""
    return [
        CachePartition(
            path=f"/dev/{partition.name}",
            identity=disk.identity,
            size=partition.size,
            in_use=_in_use(partition),
        )
        for disk in disks
        if _is_own(disk)
        for partition in disk.partitions
        if _name(root, partition) == LABEL
    ]


def _is_own(disk: Disk) -> bool:
    # Another machine may have mounted a shared one too: its file system would not survive that.
    own = disk.out_of_scope is None and disk.virtual_media is None and disk.transport not in SHARED
    return own and not disk.read_only


def _in_use(partition: Partition) -> tuple[str, ...]:
    """By somebody else than the cache itself."""
    mounts = [point for point in partition.mounts if not Path(point).is_relative_to(FOLDER)]
    reasons = [f"it is mounted at {point}" for point in mounts]
    reasons += [f"it is held by {holder}" for holder in partition.holders]
    return (*reasons, *(["it is used as swap"] if partition.swap else []))


def _name(root: Path, partition: Partition) -> str | None:
    """As the kernel has read it from the GPT; MBR partitions have none."""
    for line in (sysfs.read_text(root, f"/sys/class/block/{partition.name}/uevent", "") or "").splitlines():
        key, _, value = line.partition("=")
        if key == "PARTNAME":
            return value
    return None
