"""The files of a system as digests: what an archive said, and whether a mounted file system has just that.

About 170 bytes of memory for each file.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from teeth_agent.errors import AgentError, DeviceError

VERIFY_METHOD = (
    "every file read back from a fresh mount past the page cache: content (blake2b), type, owner, mode, "
    "links, extended attributes"
)
FILE, FOLDER, LINK, CHAR, BLOCK, FIFO = b"f", b"d", b"l", b"c", b"b", b"p"
# Real systems have 30,000 to 500,000 files.
_MOST = 1_000_000
_STEP = 1 << 20
_DIGEST = 16
_TYPES = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFLNK: LINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK,
    stat.S_IFIFO: FIFO,
}
# The kernel's own form of ACLs: in the archive they have this form, or another one, or both.
NOT_COMPARED = "system."


def digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=_DIGEST)


def record(
    kind: bytes,
    *,
    mode: int,
    uid: int,
    gid: int,
    extra: bytes = b"",
    xattrs: Mapping[str, bytes] | None = None,
) -> bytes:
    """One entry: its kind and a digest of the rest.

    ``extra``: a file's digest, a link's target, a device's numbers as "major:minor".
    """
    # A symbolic link has no mode of its own.
    mode = 0 if kind == LINK else mode & 0o7777
    said = digest()
    said.update(repr((mode, uid, gid, extra, sorted((xattrs or {}).items()))).encode())
    return kind + said.digest()


class Expected:
    """What must be in the file system; paths are relative to its root, in bytes, without "." and ".."."""

    def __init__(self) -> None:
        self._records: dict[bytes, bytes] = {}
        self.bytes = 0  # of the content of all files

    def __len__(self) -> int:
        return len(self._records)

    def add(self, path: bytes, entry: bytes) -> None:
        """Raises AgentError(image_corrupt) for a path that is there already or leads through a link."""
        if len(self._records) >= _MOST:
            raise AgentError(f"the image has more than {_MOST} files", code="image_too_many_files")
        self._add_folders(path)
        key, before = _key(path), self._records.get(_key(path))
        if before is not None and (before[:1], entry[:1]) != (FOLDER, FOLDER):
            raise AgentError(f"the image has {_shown(path)} twice", code="image_corrupt")
        self._records[key] = entry

    def replace(self, path: bytes, entry: bytes) -> None:
        """What is written on top of the image."""
        self._add_folders(path)
        self._records[_key(path)] = entry

    def get(self, path: bytes) -> bytes | None:
        """None: not there; a lone FOLDER: a folder that only the paths of others name."""
        return self._records.get(_key(path))

    def left(self) -> dict[bytes, bytes]:
        return dict(self._records)

    def _add_folders(self, path: bytes) -> None:
        parts = path.split(b"/")
        for depth in range(1, len(parts)):
            above = b"/".join(parts[:depth])
            if self._records.setdefault(_key(above), FOLDER)[:1] != FOLDER:
                raise AgentError(
                    f"the image's {_shown(path)} leads through {_shown(above)}, which is no folder",
                    code="image_corrupt",
                )


def compare(root: Path, expected: Expected, *, tick: Callable[[int], None]) -> None:
    """Read everything below ``root`` and compare. ``tick(bytes)`` after each step may raise to stop.

    Raises DeviceError(verify_failed) naming what differs.
    """
    left, done = expected.left(), 0
    for path, name in _walk(os.fsencode(root)):
        entry = left.pop(_key(name), None)
        if entry is None:
            if name == b"lost+found":  # mke2fs's own
                continue
            raise DeviceError(f"{_shown(name)} is on the disk and not in the image", code="verify_failed")
        try:
            found, size = _read(path, lambda count, before=done: tick(before + count))  # type: ignore[misc]
        except OSError as error:
            raise DeviceError(
                f"{_shown(name)} cannot be read back: {error.strerror}", code="verify_failed"
            ) from error
        done += size
        if found != entry and not (entry == FOLDER and found[:1] == FOLDER):
            raise DeviceError(f"{_shown(name)} does not read back as it was written", code="verify_failed")
    if left:
        raise DeviceError(f"{len(left)} files of the image are not on the disk", code="verify_failed")


def _walk(root: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(path, path below ``root``) of everything, in no order; links are not followed."""
    pending = [b""]
    while pending:
        below = pending.pop()
        with os.scandir(os.path.join(root, below)) as entries:  # noqa: PTH118 - bytes, as the names are
            for entry in entries:
                name = below + b"/" + entry.name if below else entry.name
                yield entry.path, name
                if entry.is_dir(follow_symlinks=False) and name != b"lost+found":
                    pending.append(name)


def _read(path: bytes, tick: Callable[[int], None]) -> tuple[bytes, int]:
    """(record, bytes of content)."""
    status = os.lstat(path)
    kind = _TYPES.get(stat.S_IFMT(status.st_mode), b"?")
    extra, size = b"", 0
    if kind == FILE:
        extra, size = _digest_of(path, tick)
    elif kind == LINK:
        extra = os.readlink(path)  # noqa: PTH115 - bytes
    elif kind in (CHAR, BLOCK):
        extra = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}".encode()
    names = [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith(NOT_COMPARED)]
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    entry = record(
        kind, mode=status.st_mode, uid=status.st_uid, gid=status.st_gid, extra=extra, xattrs=xattrs
    )
    return entry, size


def _digest_of(path: bytes, tick: Callable[[int], None]) -> tuple[bytes, int]:
    said, size = digest(), 0
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while data := os.read(descriptor, _STEP):
            said.update(data)
            size += len(data)
            tick(size)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return said.digest(), size


def _key(path: bytes) -> bytes:
    return hashlib.blake2b(path, digest_size=_DIGEST).digest()


def _shown(path: bytes) -> str:
    return repr(path[:200].decode(errors="replace"))
