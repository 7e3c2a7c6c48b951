"""Getting one image into the cache, going on from whatever is there of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from teeth_agent.errors import AgentError
from teeth_agent.image.cache.index import Entry
from teeth_agent.image.cache.store import Store
from teeth_agent.image.chunks import ChunkDigests

if TYPE_CHECKING:  # HTTP and TLS are not needed before something is fetched
    from teeth_agent.image.fetch import Fetch
    from teeth_agent.image.params import ImageSpec

# After so many bytes they are flushed and the index says so: as much is fetched again after a power cut.
_STEP = 64 << 20
_BLOCK = 4 << 20
# Verdicts on bytes that were here before and on which the rest was built: without them it may be right.
_FROM_ZERO = ("digest_mismatch", "image_changed")

# Called with the bytes that are verified or fetched so far, and the fetch; may raise to end it.
Tick = Callable[[int, "Fetch"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """``kept``: bytes that were here and right; ``fetched``: over the network; ``mended``: wrong chunks."""

    kept: int
    fetched: int
    mended: int


def fill(
    store: Store,
    image: ImageSpec,
    make_fetch: Callable[[], Fetch],
    tick: Tick,
    *,
    rank: int = 0,
    manifest_size: int = 0,
) -> Filled:
    """The image whole in the store, every byte of it verified, and the index says so.

    What is held is read and checked: by chunks if there are any, where wrong ones are fetched alone, else by
    the whole digest at the end, when a wrong one means once more from the start. ``make_fetch`` is called
    for each try; ``rank`` is its place in the list. Raises AgentError with the codes of fetching, and OSError
    as the file system gives it.
    """
    entry = store.entry(image.digest)
    held = entry.held if entry is not None and entry.size == image.size else 0
    filling = _Filling(store, image, tick, rank, manifest_size)
    try:
        return filling.run(make_fetch(), held)
    except AgentError as error:
        if not held or error.code not in _FROM_ZERO:
            raise
    return filling.run(make_fetch(), 0)


class _Filling:
    def __init__(self, store: Store, image: ImageSpec, tick: Tick, rank: int, manifest_size: int) -> None:
        self._store = store
        self._image = image
        self._tick = tick
        self._rank = rank
        self._manifest_size = manifest_size
        self._mended = 0

    def run(self, fetch: Fetch, held: int) -> Filled:
        image = self._image
        try:
            self._store.make_room(image.digest, image.size)
            with self._store.opened(image.digest) as file:
                # Not more than what turns out to be right; written before anything in the file changes.
                self._say(held)
                fetch.resume(self._kept(file, fetch, held))
                kept = fetch.received
                self._receive(file, fetch)
        except BaseException:
            fetch.stop()
            raise
        return Filled(kept=kept, fetched=fetch.fetched_bytes, mended=self._mended)

    def _kept(self, file: int, fetch: Fetch, held: int) -> Iterator[bytes]:
        chunks = fetch.chunks
        step = chunks.chunk if chunks is not None else _BLOCK
        done = 0
        while done < held:
            length = min(step, self._image.size - done)
            if chunks is not None and done + length > held:
                return  # the rest of this chunk is not here: it comes with the stream
            length = min(length, held - done)
            data = os.pread(file, length, done)
            if chunks is not None and not chunks.right(done // step, data):
                data = self._mend(file, fetch, done, length)
            if len(data) != length:
                return  # the file is shorter than the index says
            done += length
            yield data
            self._tick(done, fetch)

    def _mend(self, file: int, fetch: Fetch, offset: int, length: int) -> bytes:
        data = fetch.read(offset, length)
        _write(file, memoryview(data), offset)
        self._mended += 1
        return data

    def _receive(self, file: int, fetch: Fetch) -> None:
        flushed = done = fetch.received
        try:
            for block in fetch:
                _write(file, block, done)
                done += len(block)
                self._tick(done, fetch)
                if done - flushed >= _STEP and done < self._image.size:
                    flushed = self._keep(file, done)
        except AgentError as error:
            # What came so far is where the next time goes on, unless it is just that which is wrong.
            wrong = error.code in _FROM_ZERO and fetch.chunks is None
            self._keep(file, 0 if wrong else min(done, self._image.size - 1))
            raise
        self._keep(file, self._image.size)

    def _keep(self, file: int, held: int) -> int:
        """On the medium first, then in the index."""
        os.fsync(file)
        self._say(held)
        return held

    def _say(self, held: int) -> None:
        image = self._image
        self._store.put(
            Entry(
                digest=image.digest,
                name=image.name[:256],
                size=image.size,
                held=held,
                rank=self._rank,
                manifest=image.manifest.digest if image.manifest is not None else "",
                manifest_size=self._manifest_size,
            )
        )


def whole_digest(file: int, image: ImageSpec, check: Callable[[], object]) -> bool:
    """Whether a file is this image. ``check`` is called between blocks. Raises OSError."""
    digest = hashlib.new(image.digest.partition(":")[0])
    done = 0
    while done < image.size:
        check()
        data = os.pread(file, min(_BLOCK, image.size - done), done)
        if not data:
            return False
        digest.update(data)
        done += len(data)
    return digest.hexdigest() == image.digest.partition(":")[2]


def right_chunk(file: int, chunks: ChunkDigests, index: int) -> bytes | None:
    """A chunk of a file, None if it is not what its digest says. Raises OSError."""
    data = os.pread(file, chunks.length(index), chunks.start(index))
    return data if chunks.right(index, data) else None


def _write(file: int, block: memoryview, offset: int) -> None:
    done = 0
    while done < len(block):
        done += os.pwrite(file, block[done:], offset + done)
