"""A tar archive into a mounted folder: GNU tar makes the files, a second reader says what must be there.

Both read the same stream once. Python's tarfile refuses what no system's archive has (names that lead out,
names twice, paths through links) and takes the digest of each file; afterwards the file system is compared
with that (``tree.compare``), so what the two understand differently is found, too.
"""

from __future__ import annotations

import contextlib
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from teeth_agent.errors import AgentError, ToolError
from teeth_agent.image import tree
from teeth_agent.image.decompress import Stream
from teeth_agent.run import filter_process
from teeth_agent.tools import tar

_STEP = 1 << 20
# Long names and extended attributes: the kernel takes 64 KiB for one attribute.
_MAX_HEADER = 1 << 20
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_XATTR = "SCHILY.xattr."
_KEPT_WORDS = 4096


def unpack(stream: Stream, folder: Path, *, room: int, tick: Callable[[int], None]) -> tree.Expected:
    """Returns what must be in ``folder`` now. ``room``: bytes that the files may have in all.

    ``tick(bytes)``: how far the archive is; may raise to stop. Raises AgentError: image_corrupt,
    image_hostile, disk_too_small, no_space, and whatever the stream raises.
    """
    words = bytearray()
    try:
        with filter_process(tar.extract_argv(str(folder))) as (sink, said):
            drain = threading.Thread(target=_drain, args=(said, words), name="tar-words", daemon=True)
            drain.start()
            tee = _Tee(stream, sink, tick)
            try:
                expected = _read(tee, room)
            except _TarEnded:
                sink.close()
                drain.join()
                raise ToolError("tar ended early") from None
            sink.close()
            drain.join()
    except ToolError as error:
        raise _explained(words, error) from error
    return expected


class _TarEnded(Exception):
    """GNU tar does not read on: what it said tells why."""


class _Tee:
    """The file that tarfile reads: whatever passes through goes to GNU tar as well."""

    def __init__(self, stream: Stream, sink: IO[bytes], tick: Callable[[int], None]) -> None:
        self._stream = stream
        self._sink = sink
        self._tick = tick
        self._buffer = memoryview(bytearray(_STEP))
        self._done = 0

    def read(self, size: int) -> bytes:
        block = self._buffer[: min(size, _STEP)]
        block = block[: self._stream.fill(block)]
        left = block
        try:
            while left:
                left = left[self._sink.write(left) :]
        except BrokenPipeError:
            raise _TarEnded from None
        self._done += len(block)
        self._tick(self._done)
        return bytes(block)


class _Member(tarfile.TarInfo):
    """A header whose extension cannot ask for any amount of memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADERS and member.size > _MAX_HEADER:
            raise AgentError(f"the tar has a header of {member.size} bytes", code="image_corrupt")
        return member


def _read(tee: _Tee, room: int) -> tree.Expected:
    expected = tree.Expected()
    try:
        # Mode r|: one pass, no seeking.
        with tarfile.open(
            fileobj=tee,  # type: ignore[call-overload]  # of a file only read() is used in this mode
            mode="r|",
            bufsize=_STEP,
            tarinfo=_Member,
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            while (member := archive.next()) is not None:
                _take(archive, member, expected, room)
                archive.members = []  # tarfile would keep them all
            _check_end(archive)
    except (tarfile.TarError, RecursionError, ValueError, EOFError) as error:
        raise AgentError(f"the tar is damaged: {str(error)[:200]}", code="image_corrupt") from error
    if not len(expected):
        raise AgentError("the tar has no files", code="image_corrupt")
    return expected


def _check_end(archive: tarfile.TarFile) -> None:
    """tarfile takes a header that it cannot read for the end: behind the true one there are only zeros."""
    assert archive.fileobj is not None
    while data := archive.fileobj.read(_STEP):
        if data.strip(b"\0"):
            raise AgentError("the tar is damaged: something follows its end", code="image_corrupt")


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, expected: tree.Expected, room: int) -> None:
    path = _path(member.name)
    if not path:
        return  # the root folder itself: its mode is set by tar, and nothing hangs on it
    if member.islnk():
        target = expected.get(_path(member.linkname))
        if target is None or target[:1] == tree.FOLDER:
            raise AgentError(
                f"the tar's {member.name[:200]!r} is a link to {member.linkname[:200]!r}, no file before it",
                code="image_corrupt",
            )
        expected.add(path, target)
        return
    kind, extra = _content(archive, member, expected, room)
    xattrs = {
        name.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
        for name, value in member.pax_headers.items()
        if name.startswith(_XATTR) and not name.startswith(_XATTR + tree.NOT_COMPARED)
    }
    expected.add(
        path, tree.record(kind, mode=member.mode, uid=member.uid, gid=member.gid, extra=extra, xattrs=xattrs)
    )


def _content(
    archive: tarfile.TarFile, member: tarfile.TarInfo, expected: tree.Expected, room: int
) -> tuple[bytes, bytes]:
    """(kind, what ``tree.record`` calls extra)."""
    if member.isreg():
        expected.bytes += member.size
        if expected.bytes > room:
            raise AgentError(
                f"the image's files have more than the {room} bytes of the file system", code="disk_too_small"
            )
        return tree.FILE, _digest(archive, member)
    if member.isdir():
        return tree.FOLDER, b""
    if member.issym():
        return tree.LINK, member.linkname.encode("utf-8", "surrogateescape")
    if member.ischr() or member.isblk():
        kind = tree.CHAR if member.ischr() else tree.BLOCK
        return kind, f"{member.devmajor}:{member.devminor}".encode()
    if member.isfifo():
        return tree.FIFO, b""
    raise AgentError(f"the tar's {member.name[:200]!r} is of an unknown type", code="image_corrupt")


def _digest(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    said, left = tree.digest(), member.size
    content = archive.extractfile(member)
    assert content is not None  # a regular file
    while data := content.read(_STEP):
        said.update(data)
        left -= len(data)
    if left:
        raise AgentError("the tar ends in the middle of a file", code="image_truncated")
    return said.digest()


def _path(name: str) -> bytes:
    """A member's name below the root. Raises AgentError(image_hostile) for one that leads out of it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise AgentError(f"the tar has a name that leads out of it: {name[:200]!r}", code="image_hostile")
    return "/".join(parts).encode("utf-8", "surrogateescape")


def _drain(pipe: IO[bytes], words: bytearray) -> None:
    """Read to the end whatever comes, keep the first of it."""
    with contextlib.suppress(OSError, ValueError):  # closed, as tar was killed
        while data := pipe.read(_STEP):
            words += data[: max(0, _KEPT_WORDS - len(words))]


def _explained(words: bytearray, error: ToolError) -> AgentError:
    text = words.decode(errors="replace").strip()
    first = text.splitlines()[0][:300] if text else str(error)
    # A write that fits in part is told by how much of it did.
    if "No space left on device" in text or "Wrote only" in text:
        return AgentError(f"the image's files do not fit on the disk: {first}", code="no_space")
    if "Input/output error" in text:
        return AgentError(f"the disk fails: {first}", code="write_failed")
    return AgentError(f"the tar cannot be unpacked: {first}", code="image_corrupt")
