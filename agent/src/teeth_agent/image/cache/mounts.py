"""The cache's file systems on this machine."""

from __future__ import annotations

import logging
from pathlib import Path

from teeth_agent.errors import ToolError
from teeth_agent.image.cache.place import LABEL
from teeth_agent.tools import blkid, ext4, mke2fs, mount

_log = logging.getLogger(__name__)


class SystemMounts:
    """``Mounts`` with mount(8) and e2fsprogs."""

    def attach_disk(self, path: str, point: Path, *, make: bool) -> bool:
        if point.is_mount():  # of an agent process that was ended
            mount.unmount(point)
        content = blkid.probe_device(path)
        ours = content.kind == "ext4" and content.label == LABEL and ext4.settle(path)
        if ours:
            try:
                mount.mount_kept(path, point, "ext4")
            except ToolError as error:
                _log.warning("the cache on %s cannot be mounted: %s", path, error)
            else:
                return True
        if not make:
            return False
        # By its name the partition is the cache's: what else is in it was left there, or is broken.
        _log.warning("a new cache is made on %s, which held %s", path, content.kind or "nothing known")
        mke2fs.make_for_large_files(path, label=LABEL)
        mount.mount_kept(path, point, "ext4")
        return True

    def attach_memory(self, point: Path, size: int) -> None:
        mount.mount_memory(point, size)

    def detach(self, point: Path) -> None:
        mount.unmount(point)
