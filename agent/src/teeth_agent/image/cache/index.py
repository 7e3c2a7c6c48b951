"""What the cache holds, in one small file that is there whole or not at all, whenever the power fails."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from teeth_protocol import strictjson
from teeth_protocol.fields import FieldError
from teeth_protocol.shape import Items, Range, Text, read

NAME = "index.json"
_MAX_BYTES = 4 << 20
_MAX_ENTRIES = 4096
Digest = Annotated[str, Text(pattern="sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image. ``digest`` names its content and its file; ``held`` bytes of ``size`` are on the medium.

    ``rank``: its place in the last list that named it, counted on by every list that does not.
    ``manifest``: the digest of its manifest, which is kept beside it, and its size; "" and 0 for none.
    """

    CLOSED: ClassVar[str] = "not a member of an entry of the cache"

    digest: Digest
    name: Annotated[str, Text(least=0, most=256)]
    size: Annotated[int, Range(least=1, most=2**53)]
    held: Annotated[int, Range(least=0, most=2**53)]
    rank: Annotated[int, Range(least=0, most=2**31)]
    manifest: Annotated[str, Text(least=0, pattern="(?:sha(?:256|512):[0-9a-f]{64,128})?")] = ""
    manifest_size: Annotated[int, Range(least=0, most=64 << 20)] = 0

    @property
    def complete(self) -> bool:
        return self.held == self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    CLOSED: ClassVar[str] = "not a member of the cache's index"

    version: Annotated[int, Range(least=1, most=1)]
    entries: Annotated[tuple[Entry, ...], Items(most=_MAX_ENTRIES)]


def load(folder: Path) -> dict[str, Entry] | None:
    """The entries by digest; None if there is no index, or one that cannot be right."""
    try:
        found = read(_Index, strictjson.loads(_content(folder / NAME)), "index")
    except (OSError, FieldError, strictjson.JsonError):
        return None
    entries = {entry.digest: entry for entry in found.entries}
    sane = all(entry.held <= entry.size for entry in found.entries)
    return entries if sane and len(entries) == len(found.entries) else None


def save(folder: Path, entries: Iterable[Entry]) -> None:
    """Replace the index: after a power cut there is the old one or the new one. Raises OSError."""
    data = json.dumps({"version": 1, "entries": [asdict(entry) for entry in entries]}).encode()
    fresh = folder / f"{NAME}.new"
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as stream:  # noqa: PTH123 - made with O_EXCL
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(folder / NAME)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """The names in it are on the medium. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_plain(path: Path, flags: int) -> int:
    """A descriptor of a regular file, nothing that waits or leads elsewhere. Raises OSError."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path.name} is not a file")
    return descriptor


def _content(path: Path) -> bytes:
    with open(open_plain(path, os.O_RDONLY), "rb") as stream:
        data = stream.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise OSError(f"{path.name} is too long")
    return data
