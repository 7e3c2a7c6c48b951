"""The places that an image can be had from, in the order of asking, and when one is given up."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from teeth_agent.errors import AgentError
from teeth_agent.image.connect import UrlFailed
from teeth_agent.image.http import TIMEOUT, redact
from teeth_agent.image.params import ImageSpec

_FIRST_DELAY = 0.5
_LAST_DELAY = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When a place is given up, and when a connection to it.

    ``fruitless``: so many failures in a row that brought nothing; ``attempts``: so many in all, for a server
    that drops every connection after some bytes is used as long as it moves, but not for ever.
    ``silence``: seconds without a byte; ``window`` and ``least``: fewer bytes than that in so many seconds
    of waiting count as broken: a dripping server would hold the task for ever. ``bad_chunks``: so many that
    are not what the manifest says.
    """

    fruitless: int = 5
    attempts: int = 200
    silence: float = TIMEOUT
    window: float = 60.0
    least: int = 64 << 10
    bad_chunks: int = 2


FOR_SERVERS = Patience()
# There are others, and the servers after them: no reason to wait for one that is slow or lies.
FOR_PEERS = Patience(fruitless=1, attempts=2, silence=5.0, window=5.0, least=4 << 20, bad_chunks=1)


class Origin:
    """One URL, and what became of it so far. ``failure``: why it is not asked any more."""

    def __init__(self, url: str, patience: Patience, *, peer: bool = False, proxy: str | None = None) -> None:
        self.url = url
        self.peer = peer
        self.proxy = proxy
        self.patience = patience
        self.validator: str | None = None
        self.failure: UrlFailed | None = None
        self._fruitless = 0
        self._attempts = 0
        self._bad_chunks = 0

    def broke(self, why: str, *, moved: bool) -> int:
        """A connection broke, having brought something or not; how many fruitless ones in a row."""
        self._attempts += 1
        self._fruitless = 0 if moved else self._fruitless + 1
        if self._fruitless >= self.patience.fruitless:
            self.failure = UrlFailed(f"{why} ({self._fruitless} times)")
        elif self._attempts >= self.patience.attempts:
            self.failure = UrlFailed(f"{self._attempts} broken connections")
        return self._fruitless

    def lied(self) -> None:
        """A chunk from here was not what the manifest says."""
        self._bad_chunks += 1
        if self._bad_chunks >= self.patience.bad_chunks:
            said = f"{self._bad_chunks} chunks with a wrong digest"
            self.failure = UrlFailed(said, code="digest_mismatch")


class Origins:
    """All places for one image: peers first, then its URLs, each in the order of the command."""

    def __init__(self, places: Sequence[Origin]) -> None:
        self._places = tuple(places)

    def __iter__(self) -> Iterator[Origin]:
        return iter(self._places)

    def choose(self, *, but: Origin | None = None) -> Origin:
        """The first that is still asked, ``but`` only if there is no other. Raises AgentError if none is."""
        left = [place for place in self._places if place.failure is None]
        if not left:
            raise self._all_failed()
        return next((place for place in left if place is not but), left[0])

    def _all_failed(self) -> AgentError:
        failures = [(place.url, place.failure) for place in self._places if place.failure is not None]
        said = "; ".join(f"{redact(url)}: {error}" for url, error in failures)
        codes = {error.code for _, error in failures}
        return AgentError(
            f"the image could not be fetched: {said}", code=codes.pop() if len(codes) == 1 else "fetch_failed"
        )


def origins_of(
    image: ImageSpec, *, verified: bool, servers: Patience = FOR_SERVERS, peers: Patience = FOR_PEERS
) -> Origins:
    """Where to ask for an image. Peers only if every chunk of theirs is ``verified``."""
    others = [Origin(url, peers, peer=True) for url in image.peers] if verified else []
    return Origins([*others, *(Origin(url, servers, proxy=image.proxy) for url in image.urls)])


def delay(fruitless: int, retry_after: float | None) -> float:
    """Full jitter: a fleet that lost its image server together must not come back together."""
    if retry_after is not None:
        return retry_after + random.uniform(0, _FIRST_DELAY)  # noqa: S311 - spread, not secrecy
    return random.uniform(0, min(_LAST_DELAY, _FIRST_DELAY * 2.0**fruitless))  # noqa: S311
