"""The cache's folder: one file for each image, named by its content, and the index."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from teeth_agent.image.cache import index
from teeth_agent.image.cache.budget import Held, needed
from teeth_agent.image.cache.index import Entry

_IMAGE, _MANIFEST = ".image", ".manifest"
_MAX_MANIFEST = 64 << 20
# Lists that do not name an entry move it back; far enough is far enough.
_LAST_RANK = 2**31


class Store:
    """A folder with images. Any thread may ask; only one task at a time fills it (see ImageCache).

    Every method raises OSError as the file system gives it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._entries = index.load(folder) or {}

    def entries(self) -> list[Entry]:
        with self._lock:
            return list(self._entries.values())

    def entry(self, digest: str) -> Entry | None:
        with self._lock:
            return self._entries.get(digest)

    def held(self) -> list[Held]:
        """What budget.plan asks."""
        return [
            Held(key=one.digest, size=one.size + one.manifest_size, rank=one.rank) for one in self.entries()
        ]

    def held_bytes(self) -> int:
        """What the files take; of those under way what is allocated for them: all."""
        return sum(needed(one.size) for one in self.held())

    def put(self, entry: Entry) -> None:
        """Say what is held now; what it says must be on the medium already."""
        with self._lock:
            self._save({**self._entries, entry.digest: entry})

    def rank(self, named: list[str]) -> None:
        """These, in this order, are wanted most; all others come behind them, as they were."""
        with self._lock:
            place = {digest: position for position, digest in enumerate(dict.fromkeys(named))}
            behind = len(place)
            self._save(
                {
                    digest: replace(entry, rank=place.get(digest, min(entry.rank + behind, _LAST_RANK)))
                    for digest, entry in self._entries.items()
                }
            )

    def drop(self, digest: str) -> None:
        """Forget it first: what is in the index is there."""
        with self._lock:
            gone = self._entries.get(digest)
            left = {key: entry for key, entry in self._entries.items() if key != digest}
            if gone is not None:
                self._save(left)
            self._path(digest).unlink(missing_ok=True)
            if gone is not None and gone.manifest and not self._uses_manifest(gone.manifest):
                self._path(gone.manifest, _MANIFEST).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove whatever the index does not know: ends of something that was cut short, or not ours."""
        with self._lock:
            known = {index.NAME, "lost+found"}
            known |= {self._path(digest).name for digest in self._entries}
            known |= {
                self._path(one.manifest, _MANIFEST).name for one in self._entries.values() if one.manifest
            }
            for path in self.folder.iterdir():
                if path.name not in known and (path.is_symlink() or not path.is_dir()):
                    path.unlink(missing_ok=True)

    @contextmanager
    def opened(self, digest: str) -> Iterator[int]:
        """A descriptor of an image's file that is there, for reading and for mending."""
        descriptor = index.open_plain(self._path(digest), os.O_RDWR)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def make_room(self, digest: str, size: int) -> None:
        """The image's file with ``size`` bytes, all allocated; what it holds stays."""
        descriptor = index.open_plain(self._path(digest), os.O_RDWR | os.O_CREAT)
        try:
            os.ftruncate(descriptor, size)
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)

    def manifest(self, digest: str) -> bytes | None:
        """The manifest's file as it was put here; not verified."""
        try:
            descriptor = index.open_plain(self._path(digest, _MANIFEST), os.O_RDONLY)
        except OSError:
            return None
        with open(descriptor, "rb") as stream:  # noqa: PTH123 - opened with care
            return stream.read(_MAX_MANIFEST)

    def put_manifest(self, digest: str, data: bytes) -> None:
        path = self._path(digest, _MANIFEST)
        path.unlink(missing_ok=True)
        with open(index.open_plain(path, os.O_WRONLY | os.O_CREAT), "wb") as stream:  # noqa: PTH123
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def _uses_manifest(self, digest: str) -> bool:
        return any(one.manifest == digest for one in self._entries.values())

    def _save(self, entries: dict[str, Entry]) -> None:
        index.save(self.folder, entries.values())
        self._entries = entries

    def _path(self, digest: str, suffix: str = _IMAGE) -> Path:
        # A digest has been read as "sha256:HEX" or "sha512:HEX": nothing in it leads elsewhere.
        return self.folder / f"{digest.replace(':', '-')}{suffix}"
