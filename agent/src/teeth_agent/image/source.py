"""Where an image's bytes come from: the network, other machines or the cache behind one face; and how long.

``open_source`` in ``sourcing`` picks one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from teeth_agent.errors import AgentError
from teeth_agent.image.params import ImageSpec
from teeth_image.manifest import ImageManifest


class Source(Protocol):
    """One image's bytes as they are fetched (still compressed); sizes and offsets in bytes.

    Iterating yields blocks in order, each valid until the next is asked for, exactly ``size`` bytes in all,
    and raises AgentError with the codes of fetching (docs/standbye.md), digest_mismatch after the last byte
    at the latest; Cancelled after ``stop``, which any thread may call. With ``manifest`` (or chunks in the
    command) every block was verified before it is yielded.
    ``proven``: the last byte came and the whole digest was right. ``received``: how far the iteration is.
    ``fetched_bytes``: what came over the network for this source, of it ``peer_bytes`` from other machines;
    ``restarts``: connections that were opened again.
    ``kind``: where most of it comes from.
    ``read(offset, length)`` may be called when ``random_access`` is true, by any thread and while an
    iteration is under way: verified by chunks if there are any, else not at all, which is then for the
    caller to make up for by the iteration. Raises AgentError(no_ranges) if the server gives no ranges.
    """

    @property
    def size(self) -> int: ...
    @property
    def manifest(self) -> ImageManifest | None: ...
    @property
    def kind(self) -> Literal["network", "cache"]: ...
    @property
    def random_access(self) -> bool: ...
    @property
    def proven(self) -> bool: ...
    @property
    def received(self) -> int: ...
    @property
    def restarts(self) -> int: ...
    @property
    def fetched_bytes(self) -> int: ...
    @property
    def peer_bytes(self) -> int: ...
    def __iter__(self) -> Iterator[memoryview]: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def stop(self) -> None: ...


class SourceCache(Protocol):
    """What ``open_source`` asks of a cache."""

    def manifest(self, image: ImageSpec) -> bytes | None:
        """The image's manifest, as its digest says, if it is kept."""
        ...

    def source(
        self, image: ImageSpec, manifest: ImageManifest | None, network: Source, deadline: Deadline
    ) -> AbstractContextManager[Source | None]:
        """The image out of the cache, None if it is not there whole; ``network`` is for what is damaged.

        Raises AgentError(fetch_deadline): without chunks all of it is read first.
        """
        ...


class Deadline:
    """A point in time that everything a task does must keep; without ``seconds`` there is none."""

    def __init__(self, seconds: float | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._end = None if seconds is None else clock() + seconds

    def left(self) -> float | None:
        """Seconds, never below 0; None for no end."""
        return None if self._end is None else max(0.0, self._end - self._clock())

    def bound(self, seconds: float) -> float:
        """``seconds``, or less if the deadline comes first."""
        left = self.left()
        return seconds if left is None else min(seconds, left)

    def check(self) -> None:
        """Raises AgentError(fetch_deadline) once it is over."""
        if self.left() == 0.0:
            raise AgentError(f"not done within the task's {self._seconds:g} s", code="fetch_deadline")


def no_deadline() -> Deadline:
    return Deadline(None)
