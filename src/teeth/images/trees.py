"""Files inside an image, read without mounting it: ext by debugfs, FAT by mtools, tar by Python.

An image is made by anybody: nothing of it is run, paths that a tool could take for something else are not
asked for, and what is read is bounded.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
from pathlib import Path
from typing import BinaryIO, Protocol

from teeth import proc
from teeth.images.errors import BadImage

MAX_TEXT = 1 << 20  # a grub.cfg has some 10 KiB
_MAX_FILE = 256 << 20  # of a kernel: only its beginning is wanted, but debugfs gives a file or nothing
_MAX_LINKS = 40  # the kernel's own bound on symbolic links in one path
_MAX_NAMES = 100_000
_MAX_MEMBERS = 1_000_000
_MAX_PATHS = 128 << 20  # letters of all paths in a tar: a whole distribution has some 10 million
_MAX_HEADER = 1 << 20  # of a tar member: names and attributes
_TIMEOUT = 60.0
_SAFE = re.compile(r'[^"\\\x00-\x1f\x7f]{1,4096}')


class Tree(Protocol):
    """A file system, or a tar. Paths begin with a slash; symbolic links are followed, and never lead out."""

    def names(self, folder: str) -> list[str]: ...

    def size(self, path: str) -> int | None:
        """Of a regular file, None if there is none."""

    def head(self, path: str, count: int) -> bytes:
        """The first bytes of a regular file, b"" if there is none."""


def text(tree: Tree, path: str) -> str | None:
    if tree.size(path) is None:
        return None
    return tree.head(path, MAX_TEXT).decode(errors="replace")


class _Linked:
    """Walks a path link by link: ``_link(path)`` gives a link's text, None for what is no link."""

    def _link(self, path: str) -> str | None:
        raise NotImplementedError

    def _real(self, path: str) -> str | None:
        """The same place without symbolic links, as the image's own system takes them; None in a loop."""
        left, found, links = [part for part in reversed(path.split("/")) if part], "", 0
        while left:
            part = left.pop()
            if part == ".":
                continue
            if part == "..":
                found = found.rpartition("/")[0]
                continue
            target = self._link(f"{found}/{part}")
            if target is None:
                found = f"{found}/{part}"
                continue
            links += 1
            if links > _MAX_LINKS:
                return None
            if target.startswith("/"):
                found = ""
            left += [step for step in reversed(target.split("/")) if step]
        return found or "/"


class ExtTree(_Linked):
    """An ext2, ext3 or ext4 file system at ``offset`` bytes of an image file."""

    _TYPE = re.compile(r"Type: (\w[\w ]*?)\s+Mode:")
    _SIZE = re.compile(r"^User:.*\bSize: (\d+)\s*$", re.MULTILINE)
    _FAST = re.compile(r'^Fast link dest: "(.*)"$', re.MULTILINE)
    _ENTRY = re.compile(r"^/(\d+)/(\d+)/\d+/\d+/([^/\n]+)/(\d*)/\s*$", re.MULTILINE)

    def __init__(self, image: Path, offset: int) -> None:
        self._image = image
        self._offset = offset
        self._facts: dict[str, tuple[str, int, str] | None] = {}

    def names(self, folder: str) -> list[str]:
        real = self._real(folder)
        if real is None or not _SAFE.fullmatch(real):
            return []
        said = self._ask(f'ls -p "{real}"')
        found = [match[3] for match in self._ENTRY.finditer(said) if match[1] != "0"]
        return sorted(name for name in found[:_MAX_NAMES] if name not in (".", ".."))

    def size(self, path: str) -> int | None:
        real = self._real(path)
        facts = None if real is None else self._stat(real)
        return facts[1] if facts is not None and facts[0] == "regular" else None

    def head(self, path: str, count: int) -> bytes:
        size, real = self.size(path), self._real(path)
        if size is None or size > _MAX_FILE:
            return b""
        with tempfile.TemporaryDirectory(prefix="look-", dir=self._image.parent) as folder:
            copy = Path(folder) / "file"
            self._ask(f'dump "{real}" {Path(folder).name}/file')
            if not copy.is_file():
                return b""
            with copy.open("rb") as stream:
                return stream.read(count)

    def _link(self, path: str) -> str | None:
        facts = self._stat(path)
        if facts is None or facts[0] != "symlink":
            return None
        if facts[2]:
            return facts[2]
        return self._ask(f'cat "{path}"')[:4096] if facts[1] <= 4096 else None

    def _stat(self, path: str) -> tuple[str, int, str] | None:
        """(type, size, target of a short link)."""
        if not _SAFE.fullmatch(path):
            return None
        if path not in self._facts:
            said = self._ask(f'stat "{path}"')
            kind, size, fast = self._TYPE.search(said), self._SIZE.search(said), self._FAST.search(said)
            known = kind is not None and size is not None
            self._facts[path] = (kind[1], int(size[1]), fast[1] if fast else "") if known else None  # type: ignore[index]
        return self._facts[path]

    def _ask(self, request: str) -> str:
        # By a relative name: a folder's own name may hold the question mark that begins debugfs's options.
        where = f"{self._image.name}?offset={self._offset}"
        return proc.run(
            ["debugfs", "-R", request, where],
            cwd=self._image.parent,
            timeout=_TIMEOUT,
            env={"DEBUGFS_PAGER": "cat"},
        )


class FatTree:
    """A FAT file system at ``offset`` bytes of an image file. Names are compared without case."""

    def __init__(self, image: Path, offset: int) -> None:
        self._image = image
        self._where = f"{image.name}@@{offset}"

    def names(self, folder: str) -> list[str]:
        if not _SAFE.fullmatch(folder):
            return []
        try:
            said = self._ask("mdir", "-b", "-i", self._where, f"::{folder}")
        except proc.CommandError:
            return []
        found = (line.removeprefix("::").rstrip("/").rpartition("/")[2] for line in said.splitlines())
        return [name for name in found if name][:_MAX_NAMES]

    def size(self, path: str) -> int | None:
        folder, _, name = path.rpartition("/")
        real = next((one for one in self.names(folder or "/") if one.lower() == name.lower()), None)
        if real is None:
            return None
        try:
            said = self._ask("mdir", "-a", "-i", self._where, f"::{folder}/{real}")
        except proc.CommandError:
            return None
        match = re.search(r"^\s+1 file\s+([\d ]+?) bytes?", said, re.MULTILINE)
        return int(match[1].replace(" ", "")) if match else None

    def head(self, path: str, count: int) -> bytes:
        size = self.size(path)
        if size is None or size > _MAX_FILE:
            return b""
        with tempfile.TemporaryDirectory(prefix="look-", dir=self._image.parent) as folder:
            copy = Path(folder) / "file"
            try:
                self._ask("mcopy", "-n", "-i", self._where, f"::{path}", f"{Path(folder).name}/file")
            except proc.CommandError:
                return b""
            with copy.open("rb") as stream:
                return stream.read(count)

    def _ask(self, *words: str) -> str:
        return proc.run(
            words, cwd=self._image.parent, timeout=_TIMEOUT, env={"MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}
        )


class _Wary:
    """A file of which no header may ask for much at once: tarfile keeps what it reads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _MAX_HEADER:
            raise BadImage("a header in the tar is too long")
        return self._stream.read(count)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


class TarTree(_Linked):
    """A tar, by its members' headers; paths as they will lie below the root.

    Raises BadImage for what is no tar, or one that does not end.
    """

    def __init__(self, image: Path) -> None:
        self._image = image
        self._members: dict[str, tuple[int, int, str | None]] = {}  # offset, size (-1: no file), link
        self._folders: dict[str, set[str]] = {}
        with image.open("rb") as stream:
            try:
                with tarfile.open(fileobj=_Wary(stream), mode="r:", errorlevel=0) as tar:  # type: ignore[call-overload]
                    self._index(tar)
            except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
                raise BadImage(f"the tar is damaged: {error}") from error

    def _index(self, tar: tarfile.TarFile) -> None:
        letters = 0
        for count, one in enumerate(tar):
            letters += len(one.name) + len(one.linkname)
            if count >= _MAX_MEMBERS or letters > _MAX_PATHS:
                raise BadImage(f"the tar has too many members (after {count})")
            tar.members = []  # type: ignore[attr-defined]  # it would keep every one
            path = _below_root(one.name)
            entry: tuple[int, int, str | None]
            if one.issym():
                entry = (0, -1, one.linkname)
            elif one.islnk():
                entry = self._members.get(_below_root(one.linkname), (0, -1, None))
            else:
                entry = (one.offset_data, one.size if one.isreg() else -1, None)
            self._members[path] = entry
            folder, _, name = path.rpartition("/")
            self._folders.setdefault(folder or "/", set()).add(name)

    def names(self, folder: str) -> list[str]:
        real = self._real(folder)
        return sorted(self._folders.get(real or "", ()))

    def size(self, path: str) -> int | None:
        entry = self._members.get(self._real(path) or "")
        return None if entry is None or entry[1] < 0 else entry[1]

    def head(self, path: str, count: int) -> bytes:
        entry = self._members.get(self._real(path) or "")
        if entry is None or entry[1] < 0:
            return b""
        with self._image.open("rb") as stream:
            stream.seek(entry[0])
            return stream.read(min(count, entry[1]))

    def _link(self, path: str) -> str | None:
        entry = self._members.get(path)
        return None if entry is None else entry[2]


def _below_root(name: str) -> str:
    return "/" + "/".join(part for part in name.split("/") if part not in ("", "."))
