"""e2fsck(8) and resize2fs(8): an ext2, ext3 or ext4 file system made as large as its partition, unmounted."""

from __future__ import annotations

from teeth_agent.errors import AgentError
from teeth_agent.run import run

# A check reads all inode tables of the image, growing writes group descriptors for all of the disk.
_TIMEOUT = 3600.0
# e2fsck(8): 1 is "errors were corrected", 2 adds "reboot", which is for mounted file systems.
_SOUND = (0, 1, 2)


def check(path: str) -> bool:
    """Whether it is sound, or was made so by what is safe to do without asking. Raises ToolError."""
    done = run(["e2fsck", "-f", "-p", path], timeout=_TIMEOUT, check=False)
    return done.returncode in _SOUND


def settle(path: str) -> bool:
    """Whether it can be mounted: its journal is replayed, and it is read whole only if it says it has to be.

    Raises ToolError if the tool is missing.
    """
    return run(["e2fsck", "-p", path], timeout=_TIMEOUT, check=False).returncode in _SOUND


def grow(path: str) -> bool:
    """To the end of ``path``; it must have been checked. Then it is looked at whole.

    False if it was as large before. Raises ToolError, AgentError(grow_failed).
    """
    done = run(["resize2fs", path], timeout=_TIMEOUT)
    if "Nothing to do!" in done.stdout + done.stderr:
        return False
    done = run(["e2fsck", "-f", "-n", path], timeout=_TIMEOUT, check=False)
    if done.returncode != 0:
        said = (done.stdout.strip().splitlines() or [""])[-1]
        raise AgentError(f"the file system was grown and is damaged: {said[:200]}", code="grow_failed")
    return True
