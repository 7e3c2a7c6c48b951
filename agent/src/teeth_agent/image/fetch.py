"""Fetching an image over HTTP so that a broken connection costs only what was in flight."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.image.http import Broken, UrlFailed, get, redact
from teeth_agent.image.params import ImageSpec
from teeth_agent.image.source import Deadline, no_deadline
from teeth_image.manifest import ImageManifest

# What one read takes from the socket: large enough that hashing outweighs the call.
_BLOCK = 256 << 10
# A URL is given up after so many failures in a row that brought nothing, or so many in all: a server that
# drops every connection after some bytes is used as long as it moves, but not for ever.
_FRUITLESS = 5
_ATTEMPTS = 200
_FIRST_DELAY = 0.5
_LAST_DELAY = 30.0
# Slower than this over a whole window counts as broken: a dripping server would hold the task for ever.
_WINDOW = 60.0
_LEAST_PER_WINDOW = 64 << 10


class Fetch:
    """One image's bytes, in order, exactly ``size`` of them, hashed as they pass.

    Iterating raises AgentError: fetch_failed, image_truncated or image_size when no URL gives the image,
    digest_mismatch after the last byte. ``proven`` is True once the last byte came and the digest was right.
    ``stop`` makes a running iteration end soon with Cancelled.
    ``pause`` waits so many seconds or until stopped; tests replace it.
    """

    def __init__(
        self,
        image: ImageSpec,
        *,
        deadline: Deadline | None = None,
        pause: Callable[[float], None] | None = None,
    ) -> None:
        self.kind: Literal["network", "cache"] = "network"
        self.size = image.size
        self.manifest: ImageManifest | None = None
        self.random_access = True
        self.received = 0
        self.restarts = 0
        self.fetched_bytes = 0
        self.peer_bytes = 0
        self.proven = False
        self._deadline = deadline or no_deadline()
        self._image = image
        self._stopped = threading.Event()
        self._pause = pause or self._wait
        self._digest = hashlib.new(image.digest.partition(":")[0])

    def stop(self) -> None:
        self._stopped.set()

    def __iter__(self) -> Iterator[memoryview]:
        """Blocks of the image; each is only valid until the next is asked for."""
        failures: list[tuple[str, UrlFailed]] = []
        for url in self._image.urls:
            try:
                yield from self._from_url(url)
            except UrlFailed as error:
                failures.append((url, error))
                continue
            self._check_digest()
            self.proven = True
            return
        raise _all_failed(failures)

    def read(self, offset: int, length: int) -> bytes:
        """Those bytes by a request of their own. Raises as iterating does, and AgentError(no_ranges)."""
        failures: list[tuple[str, UrlFailed]] = []
        for url in self._image.urls:
            for _ in range(_FRUITLESS):
                self._deadline.check()
                try:
                    return self._read_once(url, offset, length)
                except UrlFailed as error:
                    failures.append((url, error))
                    break
                except Broken as error:
                    self.restarts += 1
                    broken = error
                    self._pause(_delay(1, error.retry_after))
            else:
                failures.append((url, UrlFailed(str(broken))))
        raise _all_failed(failures)

    def _read_once(self, url: str, offset: int, length: int) -> bytes:
        data, done = bytearray(length), 0
        with get(url, offset=offset, size=self._image.size, end=offset + length) as body:
            if body.start != offset:
                raise UrlFailed("the server gives no ranges", code="no_ranges")
            while done < length:
                count = body.read_into(memoryview(data)[done:])
                if count == 0:
                    raise Broken("the connection was closed early")
                done += count
                self.fetched_bytes += count
        return bytes(data)

    def _from_url(self, url: str) -> Iterator[memoryview]:
        fruitless = 0
        for _ in range(_ATTEMPTS):
            self._deadline.check()
            before = self.received
            try:
                yield from self._attempt(url)
                return
            except Broken as error:
                self.restarts += 1
                fruitless = fruitless + 1 if self.received == before else 0
                if fruitless >= _FRUITLESS:
                    raise UrlFailed(f"{error} ({fruitless} times)") from error
                self._pause(_delay(fruitless, error.retry_after))
        raise UrlFailed(f"{_ATTEMPTS} broken connections")

    def _attempt(self, url: str) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(_BLOCK))
        size = self._image.size
        with get(url, offset=self.received, size=size) as body:
            skip = self.received - body.start
            began, seen = time.monotonic(), 0
            while self.received < size:
                if self._stopped.is_set():
                    raise Cancelled("the fetch was stopped")
                self._deadline.check()
                wanted = skip or size - self.received
                count = body.read_into(buffer[: min(_BLOCK, wanted)])
                if count == 0:
                    raise Broken("the connection was closed early")
                seen += count
                self.fetched_bytes += count
                if time.monotonic() - began > _WINDOW:
                    if seen < _LEAST_PER_WINDOW:
                        raise Broken(f"only {seen} bytes in {_WINDOW:g} s")
                    began, seen = time.monotonic(), 0
                if skip:
                    skip -= count
                    continue
                self.received += count
                self._digest.update(buffer[:count])
                yield buffer[:count]

    def _check_digest(self) -> None:
        expected = self._image.digest.partition(":")[2]
        if self._digest.hexdigest() != expected:
            raise AgentError(
                f"the fetched image has digest {self._digest.hexdigest()}, expected {expected}",
                code="digest_mismatch",
            )

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(self._deadline.bound(seconds)):
            raise Cancelled("the fetch was stopped")


def _delay(fruitless: int, retry_after: float | None) -> float:
    """Full jitter: a fleet that lost its image server together must not come back together."""
    if retry_after is not None:
        return retry_after + random.uniform(0, _FIRST_DELAY)  # noqa: S311 - spread, not secrecy
    return random.uniform(0, min(_LAST_DELAY, _FIRST_DELAY * 2.0**fruitless))  # noqa: S311


def _all_failed(failures: Sequence[tuple[str, UrlFailed]]) -> AgentError:
    said = "; ".join(f"{redact(url)}: {error}" for url, error in failures)
    codes = {error.code for _, error in failures}
    return AgentError(
        f"the image could not be fetched: {said}", code=codes.pop() if len(codes) == 1 else "fetch_failed"
    )
