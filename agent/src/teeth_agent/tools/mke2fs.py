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


def make_for_large_files(path: str, *, label: str) -> None:
    """ext4 for a few large files of one user over the whole of ``path``. Raises ToolError."""
    # Nothing is kept for root, who is the only user; nothing goes on being written after the mount; a drive
    # that lies about what it discards is not asked to.
    options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-T", "largefile4", "-m", "0", "-L", label, "-E", options]
    run([*argv, path], timeout=_TIMEOUT)
