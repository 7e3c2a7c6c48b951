"""The machine's image cache, for every task of the agent."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from teeth_agent.errors import AgentError
from teeth_agent.image.cache.cached import CachedSource
from teeth_agent.image.cache.fill import whole_digest
from teeth_agent.image.cache.place import CachePartition, Kind, Look, Memory, Mounts, Places
from teeth_agent.image.cache.store import Store
from teeth_agent.image.chunks import chunks_of

if TYPE_CHECKING:  # of what a task needs, nothing is loaded before there is one
    from teeth_agent.image.params import ImageSpec
    from teeth_agent.image.source import Deadline, Source
    from teeth_image.manifest import ImageManifest

_log = logging.getLogger(__name__)

FOLDER = Path("/run/teeth/cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An opened place. ``budget`` bytes for images, those held included; ``memory``: what it was reckoned
    from, None on disk; ``note``: why it is not the disk, "" if it is or there is none."""

    kind: Kind
    store: Store
    budget: int
    memory: Memory | None = None
    note: str = ""


class ImageCache:
    """Made once for a boot. Any thread may use it; it is filled by one task at a time.

    Nothing is mounted but while it is used, but for the place in memory.
    """

    def __init__(self, *, look: Look, mounts: Mounts, folder: Path = FOLDER, root: Path = Path("/")) -> None:
        self._places = Places(look, mounts, folder, root)
        self._filling = threading.Lock()
        self._lock = threading.Lock()
        self._disk_users = 0
        self._disk_open = ExitStack()
        self._disk_store: Store | None = None
        self._memory_store: Store | None = None
        # Of what was found whole since this boot; on a disk it may have been changed before.
        self._whole: set[tuple[Kind, str]] = set()

    # --- for the task that fills it

    @contextmanager
    def filling(self, claim: Callable[[Iterable[str]], None]) -> Iterator[Site]:
        """The place for images, for as long as the block lasts. ``claim`` gets the disk's identity first.

        Raises AgentError(cache_busy) if another task is at it, and what ``claim`` raises.
        """
        if not self._filling.acquire(blocking=False):
            raise AgentError("another task is filling the cache", code="cache_busy")
        try:
            with ExitStack() as stack:
                yield self._site(stack, claim)
        finally:
            self._filling.release()

    def known_whole(self, kind: Kind, digest: str) -> bool:
        return (kind, digest) in self._whole

    def set_whole(self, kind: Kind, digest: str) -> None:
        self._whole.add((kind, digest))

    # --- for whoever needs an image

    def manifest(self, image: ImageSpec) -> bytes | None:
        """As ``SourceCache`` says."""
        if image.manifest is None:
            return None
        with self._open_places() as stores:
            for _, store in stores:
                data = store.manifest(image.manifest.digest)
                if data is not None and _digest_is(image.manifest.digest, data):
                    return data
        return None

    @contextmanager
    def source(
        self, image: ImageSpec, manifest: ImageManifest | None, network: Source, deadline: Deadline
    ) -> Iterator[Source | None]:
        """As ``SourceCache`` says. With a cache that is itself broken: a line in the log, and None."""
        with ExitStack() as stack:
            yield self._source(stack, image, manifest, network, deadline)

    @contextmanager
    def lent(self, digest: str) -> Iterator[int | None]:
        """The open file of an image that is held whole, not verified; None if there is none.

        What is wrong with the cache itself is in the log.
        """
        with self._open_places() as stores, ExitStack() as stack:
            file = None
            for _, store in stores:
                entry = store.entry(digest)
                if file is None and entry is not None and entry.complete:
                    try:
                        file = stack.enter_context(store.opened(digest))
                    except OSError as error:
                        _log.warning("an image cannot be read from the cache: %s", error)
            yield file

    # --- inside

    def _site(self, stack: ExitStack, claim: Callable[[Iterable[str]], None]) -> Site:
        note, partition = "", self._places.disk()
        if partition is not None:
            claim([partition.identity])
            try:
                store = stack.enter_context(self._on_disk(partition, make=True))
                if store is not None:
                    store.sweep()
                    budget = self._places.disk_budget(store.folder, store.held_bytes())
                    return Site(kind="disk", store=store, budget=budget)
            except (AgentError, OSError) as error:
                note = f"{partition.path} cannot be used: {error}"
                _log.warning("the cache's partition is left aside: %s", note)
        return self._memory_site(note)

    def _memory_site(self, note: str) -> Site:
        before = self._memory()
        budget, memory = self._places.memory_budget(before.held_bytes() if before is not None else 0)
        self._places.in_memory(make=True)
        # A budget of nothing would be no limit at all to tmpfs.
        self._places.limit_memory(max(budget, 1 << 20))
        store = self._memory(make=True)
        assert store is not None
        store.sweep()
        return Site(kind="memory", store=store, budget=budget, memory=memory, note=note)

    def _memory(self, *, make: bool = False) -> Store | None:
        with self._lock:
            folder = self._places.in_memory(make=make)
            if self._memory_store is None and folder is not None:
                self._memory_store = Store(folder)
            return self._memory_store

    @contextmanager
    def _on_disk(self, partition: CachePartition, *, make: bool) -> Iterator[Store | None]:
        """The store there, mounted by its first user and unmounted by its last."""
        with self._lock:
            if self._disk_users == 0:
                folder = self._disk_open.enter_context(self._places.on_disk(partition, make=make))
                self._disk_store = None if folder is None else Store(folder)
            self._disk_users += 1
            store = self._disk_store
        try:
            yield store
        finally:
            with self._lock:
                self._disk_users -= 1
                if self._disk_users == 0:
                    self._disk_store = None
                    self._disk_open.close()

    @contextmanager
    def _open_places(self) -> Iterator[Sequence[tuple[Kind, Store]]]:
        """Every place that holds anything, the disk first."""
        with ExitStack() as stack:
            found: list[tuple[Kind, Store]] = []
            partition = self._partition()
            if partition is not None:
                try:
                    on_disk = stack.enter_context(self._on_disk(partition, make=False))
                    found += [("disk", on_disk)] if on_disk is not None else []
                except (AgentError, OSError) as error:
                    _log.warning("the cache on %s cannot be read: %s", partition.path, error)
            memory = self._memory()
            found += [("memory", memory)] if memory is not None else []
            yield found

    def _partition(self) -> CachePartition | None:
        try:
            return self._places.disk()
        except AgentError as error:
            _log.warning("the cache's partition was not looked for: %s", error)
            return None

    def _source(
        self,
        stack: ExitStack,
        image: ImageSpec,
        manifest: ImageManifest | None,
        network: Source,
        deadline: Deadline,
    ) -> CachedSource | None:
        for kind, store in stack.enter_context(self._open_places()):
            entry = store.entry(image.digest)
            if entry is None or not entry.complete or entry.size != image.size:
                continue
            try:
                file = stack.enter_context(store.opened(image.digest))
                if self._usable(kind, store, file, image, manifest, deadline):
                    return self._cached(kind, store, file, image, manifest, network)
            except OSError as error:
                _log.warning("image %s cannot be read from the cache: %s", image.id, error)
        return None

    def _usable(
        self,
        kind: Kind,
        store: Store,
        file: int,
        image: ImageSpec,
        manifest: ImageManifest | None,
        deadline: Deadline,
    ) -> bool:
        """Without chunks all of it is read once before the first byte is used, once for each boot."""
        if chunks_of(image, manifest) is not None or self.known_whole(kind, image.digest):
            return True
        if whole_digest(file, image, deadline.check):
            self.set_whole(kind, image.digest)
            return True
        _log.warning("image %s in the cache is damaged: thrown out", image.id)
        store.drop(image.digest)
        return False

    def _cached(
        self,
        kind: Kind,
        store: Store,
        file: int,
        image: ImageSpec,
        manifest: ImageManifest | None,
        network: Source,
    ) -> CachedSource:
        def damaged() -> None:
            self._whole.discard((kind, image.digest))
            store.drop(image.digest)

        chunks = chunks_of(image, manifest)
        return CachedSource(file, image, manifest=manifest, chunks=chunks, network=network, damaged=damaged)


def _digest_is(digest: str, data: bytes) -> bool:

    kind, _, expected = digest.partition(":")
    return hashlib.new(kind, data).hexdigest() == expected
