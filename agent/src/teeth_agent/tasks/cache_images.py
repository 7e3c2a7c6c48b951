"""standbye.cache_images: as many images as fit, verified, for a prepare_image that need not wait for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.image import trust
from teeth_agent.image.cache import budget
from teeth_agent.image.cache.cache import ImageCache, Site
from teeth_agent.image.cache.fill import Filled, fill
from teeth_agent.image.chunks import ChunkDigests, chunks_of
from teeth_agent.image.fetch import Fetch
from teeth_agent.image.params import ImageSpec, read_cache
from teeth_agent.image.source import Deadline
from teeth_agent.image.sourcing import fetch_manifest, read_manifest
from teeth_agent.reporter import Reporter
from teeth_agent.tasks.context import TaskContext

# Before this much time has passed a rate says nothing.
_RATE_AFTER = 2.0


@dataclass(slots=True)
class _State:
    """What is known of one image of the command."""

    image: ImageSpec
    cached: bool = False
    bytes: int = 0
    reason: str = "not reached"

    def to_json(self) -> dict[str, Any]:
        return {"id": self.image.id, "cached": self.cached, "bytes": self.bytes, "reason": self.reason}


def run(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
    """Raises ParamsError; AgentError: cache_busy, device_busy, cache_failed; and fetch_deadline or Cancelled,
    with the whole result in ``detail``. An image that cannot be had is not an error: its reason is told.
    """
    wanted = read_cache(params)
    deadline = Deadline(wanted.deadline)
    states = [_State(image) for image in wanted.images]

    def claim(identities: Iterable[str]) -> None:
        found = list(identities)
        context.claim(found)
        for identity in found:
            context.state.clear_zero(identity)

    with context.cache.filling(claim) as site:
        result = {"place": site.kind, "budget": site.budget}
        try:
            _fill_all(states, site, context.cache, deadline, reporter)
        except AgentError as error:
            detail = {**result, "images": [state.to_json() for state in states]}
            if isinstance(error, Cancelled):
                raise Cancelled(str(error), detail=detail) from error
            raise AgentError(str(error), code=error.code, detail=detail) from error
        except OSError as error:
            raise AgentError(f"the cache failed: {error}", code="cache_failed") from error
    shared_at = _share([state.image for state in states if state.cached], wanted.share, context, reporter)
    return {**result, "images": [state.to_json() for state in states], "shared_at": shared_at}


def _share(images: Sequence[ImageSpec], share: bool, context: TaskContext, reporter: Reporter) -> str | None:
    """Where others find those images, None if nowhere: then it was not asked for, or the log says why."""
    if not share:
        context.sharing.close()
        return None
    try:
        return context.sharing.share(_shareable(images, context, reporter), context.cache.lent)
    except (AgentError, OSError) as error:
        reporter.log("warning", "share_failed", reason=str(error))
        return None


def _shareable(
    images: Sequence[ImageSpec], context: TaskContext, reporter: Reporter
) -> dict[str, ChunkDigests]:
    """Those that others can verify, and that this machine would take itself."""
    found = {}
    for image in images:
        manifest = read_manifest(image, context.cache.manifest(image))
        chunks = chunks_of(image, manifest)
        try:
            trust.check(manifest, key=context.image_key)
        except AgentError as error:
            reporter.log("warning", "image_not_shared", image=image.id, reason=str(error))
        else:
            if chunks is not None:
                found[image.digest] = chunks
    return found


def _fill_all(
    states: Sequence[_State], site: Site, cache: ImageCache, deadline: Deadline, reporter: Reporter
) -> None:
    fits = _make_room(states, site, reporter)
    progress = _Progress(reporter, total=sum(state.image.size for state in fits))
    for state in fits:
        deadline.check()
        reporter.check_cancelled()
        try:
            done = _fill_one(state.image, site, cache, deadline, progress)
        except OSError as error:
            state.reason = f"the cache failed: {error.strerror or error}"
        except AgentError as error:
            state.reason = str(error)
            if error.code in ("fetch_deadline", Cancelled.code):
                raise
        else:
            state.cached, state.bytes, state.reason = True, state.image.size, ""
            reporter.log(
                "info", "image_cached", image=state.image.id, kept_bytes=done.kept,
                fetched_bytes=done.fetched, mended_chunks=done.mended,
            )  # fmt: skip
        progress.next(state.image.size)


def _make_room(states: Sequence[_State], site: Site, reporter: Reporter) -> list[_State]:
    """Decide by arithmetic what fits, say so, and throw out what has to go for it."""
    wanted = [budget.Wanted(key=state.image.digest, size=_size(state.image)) for state in states]
    plan = budget.plan(wanted, site.store.held(), site.budget)
    memory = site.memory
    reporter.log(
        "info", "cache_planned", place=site.kind, budget=site.budget, images=len(states), fit=len(plan.fits),
        evicted=list(plan.evict), note=site.note,
        memory_available=memory.available if memory else None,
        memory_reserved=budget.memory_reserve(memory.total) if memory else None,
    )  # fmt: skip
    for position, reason in plan.left_out.items():
        states[position].reason = reason
    for digest in plan.evict:
        site.store.drop(digest)
    site.store.rank([states[position].image.digest for position in plan.fits])
    return [states[position] for position in plan.fits]


def _size(image: ImageSpec) -> int:
    """With its manifest, which is kept too."""
    return image.size + (image.manifest.size if image.manifest is not None else 0)


def _fill_one(
    image: ImageSpec, site: Site, cache: ImageCache, deadline: Deadline, progress: _Progress
) -> Filled:
    store, entry = site.store, site.store.entry(image.digest)
    progress.begin(image)
    if entry is not None and entry.complete and cache.known_whole(site.kind, image.digest):
        progress.tick(image.size, None)
        return Filled(kept=image.size, fetched=0, mended=0)
    data = cache.manifest(image) or fetch_manifest(image, deadline=deadline)
    manifest = read_manifest(image, data)
    if data is not None and image.manifest is not None:
        store.put_manifest(image.manifest.digest, data)
    done = fill(
        store,
        image,
        lambda: Fetch(image, manifest=manifest, deadline=deadline),
        progress.tick,
        rank=progress.position,
        manifest_size=len(data or b""),
    )
    cache.set_whole(site.kind, image.digest)
    return done


class _Progress:
    """Percent of all bytes that are to be in the cache, the rate of fetching, and the seconds left."""

    def __init__(
        self, reporter: Reporter, *, total: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.position = -1
        self._reporter = reporter
        self._total = total
        self._clock = clock
        self._began = clock()
        self._done = 0
        self._fetched = 0
        self._kept = 0
        self._image = ""
        self._last: Fetch | None = None

    def begin(self, image: ImageSpec) -> None:
        self.position += 1
        self._image = image.id

    def next(self, size: int) -> None:
        self._done += size
        self._fetched += self._last.fetched_bytes if self._last is not None else 0
        self._last = None

    def tick(self, done: int, fetch: Fetch | None) -> None:
        self._reporter.check_cancelled()
        if fetch is not self._last and self._last is not None:  # once more from the start
            self._fetched += self._last.fetched_bytes
        self._last = fetch
        now = self._fetched + (fetch.fetched_bytes if fetch is not None else 0)
        whole, spent = self._done + done, self._clock() - self._began
        known = spent >= _RATE_AFTER and whole > 0
        left = spent / whole * (self._total - whole) if known else None
        self._reporter.progress(
            min(99.0, 100.0 * whole / self._total),
            eta=None if left is None else round(max(0.0, left), 1),
            step="fetch" if now else "verify",
            image=self._image,
            bytes_done=whole,
            bytes_total=self._total,
            bytes_per_second=int(whole / spent) if known else None,
            fetched_bytes=now,
        )
