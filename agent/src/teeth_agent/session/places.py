"""Where home may be: the endpoints in their order, and when each may be dialled again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# A quarter of an hour of silence and half a minute between two dials: what a hall of machines can do to an
# endpoint that comes back is bounded by the second, what a person at a console has to wait by the first.
_MOST_TIMES = 30
_TOLD_AGAIN = 20


@dataclass(slots=True, kw_only=True)
class Place:
    """One endpoint. ``due``: when it may be dialled again, on the loop's clock."""

    host: str
    port: int
    due: float = 0.0
    failures: int = 0
    told: str = ""
    told_times: int = 0

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def news(self, text: str) -> bool:
        """Whether a person should be told this now: when it is new for this place, and now and then again."""
        self.told_times = self.told_times + 1 if text == self.told else 0
        self.told = text
        return self.told_times % _TOLD_AGAIN == 0


class Places:
    """All endpoints. The first of those that are due is the next: an earlier one is preferred.

    ``backoff`` is the longest first wait in seconds, ``jitter`` gives numbers in [0, 1).
    """

    def __init__(
        self, endpoints: Sequence[tuple[str, int]], *, backoff: float, jitter: Callable[[], float]
    ) -> None:
        self._all = [Place(host=host, port=port) for host, port in endpoints]
        self._backoff = backoff
        self._jitter = jitter

    def next(self, now: float) -> tuple[Place, float]:
        """Whom to dial next, and for how many seconds not yet."""
        for place in self._all:
            if place.due <= now:
                return place, 0.0
        place = min(self._all, key=lambda place: place.due)
        return place, place.due - now

    def failed(self, place: Place, now: float) -> None:
        """It was not there. Full jitter: a hall that lost its endpoint must not come back in step."""
        most = self._backoff * min(_MOST_TIMES, 2**place.failures)
        place.failures = min(place.failures + 1, 16)
        place.due = now + most * self._jitter()

    def refused(self, place: Place, now: float) -> None:
        """It does not want us: until a person has done something, asking again is of no use."""
        place.due = now + self._backoff * _MOST_TIMES * (0.5 + 0.5 * self._jitter())

    def welcome(self, place: Place, now: float) -> None:
        """It waits for us to come again at once."""
        place.due = now

    def met(self, place: Place, now: float) -> None:
        """A session was had and is over."""
        place.failures, place.told = 0, ""
        self.failed(place, now)
