"""QEMU's block graph of a disk: its file, what is put between to fail, and the node that the guest sees."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from teeth.errors import UsageError


class Op(Enum):
    """What a guest asks of a disk."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    DISCARD = "discard"


# The guest's writes of zeroes are a kind of their own to QEMU.
_KINDS = {Op.WRITE: ("write", "write-zeroes")}
_ERRNO_MAX = 4095  # include/linux/err.h: MAX_ERRNO


@dataclass(frozen=True, slots=True, kw_only=True)
class IoError:
    """Requests of the kinds ``ops`` fail with ``number`` (errno): those that touch the 512-byte sector
    ``sector``, or all of them; ``once``: only the first."""

    ops: tuple[Op, ...] = (Op.READ, Op.WRITE)
    sector: int | None = None
    number: int = errno.EIO
    once: bool = False

    def __post_init__(self) -> None:
        if not self.ops:
            raise UsageError("an I/O error needs at least one of read, write, flush, discard")
        if self.sector is not None and self.sector < 0:
            raise UsageError(f"an I/O error at sector {self.sector}: sectors are counted from 0")
        if not 0 < self.number <= _ERRNO_MAX:
            raise UsageError(f"an I/O error of {self.number}: an error number is 1 to {_ERRNO_MAX}")


def nodes(
    index: int, path: Path, *, errors: Sequence[IoError] = (), read_only: bool = False
) -> list[dict[str, object]]:
    """The nodes of disk ``index``, lowest first; the guest's device hangs on the last, ``disk{index}``."""
    found: list[dict[str, object]] = [
        {
            "driver": "file",
            "node-name": file_name(index),
            "filename": str(path),
            "discard": "unmap",
            "cache": _cache(),
            "read-only": read_only,
        }
    ]
    if errors:
        found.append(failing(index, errors))
    return [*found, top(index, failing=bool(errors), read_only=read_only)]


def file_name(index: int) -> str:
    """The node with the disk's content."""
    return f"disk{index}-file"


def failing_name(index: int) -> str:
    """The node that fails, when there is one."""
    return f"disk{index}-failing"


def failing(index: int, errors: Sequence[IoError]) -> dict[str, object]:
    """A node over the content in which these errors are met; one rule for each kind of request."""
    rules = [
        {
            "event": "none",  # it holds from the start, not from some event on
            "iotype": kind,
            "errno": error.number,
            "once": error.once,
            "immediately": False,
            **({} if error.sector is None else {"sector": error.sector}),
        }
        for error in errors
        for op in error.ops
        for kind in _KINDS.get(op, (op.value,))
    ]
    return {
        "driver": "blkdebug",
        "node-name": failing_name(index),
        "image": file_name(index),
        "inject-error": rules,
        "discard": "unmap",
        "cache": _cache(),
    }


def top(index: int, *, failing: bool, read_only: bool = False) -> dict[str, object]:
    """The node that the guest's device hangs on, over the failing one or over the content itself.

    Also what QMP's blockdev-reopen takes to change from one to the other.
    """
    # Discards reach the file as holes, so that an erased disk is small and quickly scanned.
    return {
        "driver": "raw",
        "node-name": f"disk{index}",
        "file": failing_name(index) if failing else file_name(index),
        "discard": "unmap",
        "detect-zeroes": "off",
        "cache": _cache(),
        "read-only": read_only,
    }


def _cache() -> dict[str, object]:
    # Flushes are dropped: no lab disk outlives a crash of the host, and host and QEMU share one page cache.
    return {"direct": False, "no-flush": True}
