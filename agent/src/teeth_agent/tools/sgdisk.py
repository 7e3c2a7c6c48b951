"""sgdisk(8): changes to a GUID partition table. It also works on regular files."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from teeth_agent.run import run

# It writes some 70 blocks; a disk that takes longer than this is broken.
_TIMEOUT = 60.0
# What other partitioners give a FAT file system, and what no installed system mounts by itself.
_BASIC_DATA = "0700"


def move_backup_to_end(path: str) -> None:
    """Put the backup table at the end of the disk and let the usable range reach there. Raises ToolError."""
    run(["sgdisk", "--move-second-header", path], timeout=_TIMEOUT)


def delete_partition(path: str, number: int) -> None:
    run(["sgdisk", f"--delete={number}", path], timeout=_TIMEOUT)


def rename_partition(path: str, number: int, name: str) -> None:
    run(["sgdisk", f"--change-name={number}:{name}", path], timeout=_TIMEOUT)


def new_partition(path: str, *, number: int, first: int, last: int, name: str) -> None:
    """A partition at exactly these logical blocks, ``last`` included. Raises ToolError."""
    run(
        [
            "sgdisk",
            "--set-alignment=1",
            f"--new={number}:{first}:{last}",
            f"--typecode={number}:{_BASIC_DATA}",
            f"--change-name={number}:{name}",
            path,
        ],
        timeout=_TIMEOUT,
    )


def new_table(path: str, partitions: Sequence[tuple[int, uuid.UUID, uuid.UUID, int, int, str]]) -> None:
    """A new table in place of whatever is there, with exactly these partitions. Raises ToolError.

    Each is (number, type, own GUID, first logical block, last one included, name).
    """
    argv = ["sgdisk", "--clear", "--set-alignment=1"]
    for number, kind, unique, first, last, name in partitions:
        argv += [
            f"--new={number}:{first}:{last}",
            f"--typecode={number}:{kind}",
            f"--partition-guid={number}:{unique}",
            f"--change-name={number}:{name}",
        ]
    run([*argv, path], timeout=_TIMEOUT)
