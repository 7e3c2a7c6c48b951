"""Archives that the kernel unpacks as an initramfs, in the newc format."""

from __future__ import annotations

import gzip
from collections.abc import Iterable

FILE, FOLDER = 0o100000, 0o040000  # the kinds in a mode; inode(7)


def archive(members: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A gzip'ed archive (every kernel configuration can unpack gzip) of (path, mode, content), all root's.

    A folder stands in front of what is in it. Appended to another archive, it adds to it and replaces in it.
    """
    body = b"".join(_entry(*member) for member in members)
    # The kernel looks for the next archive at a multiple of four; gzip's own padding is zeroes behind it.
    packed = gzip.compress(body + _entry("TRAILER!!!", 0, b""), mtime=0)
    return _pad(packed)


def _entry(name: str, mode: int, data: bytes) -> bytes:
    """One member (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    fields = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return _pad(head) + _pad(data)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
