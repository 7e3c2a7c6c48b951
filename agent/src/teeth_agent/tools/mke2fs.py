"""mke2fs(8): an ext4 file system that every kernel, fsck and GRUB of the last ten years reads."""

from __future__ import annotations

import uuid

from teeth_agent.run import run

# Writing the group descriptors of a large disk takes seconds; the inode tables are left to the kernel.
_TIMEOUT = 600.0
# Newer than the fsck of systems that are still deployed, which then would refuse to start.
_WITHOUT = "^orphan_file,^metadata_csum_seed"


def make(path: str, *, unique: uuid.UUID) -> None:
    """ext4 over the whole of ``path``. Raises ToolError."""
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", _WITHOUT, "-U", str(unique), path], timeout=_TIMEOUT)
