"""How far the whole erase and each unit is, and how long it will honestly take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from teeth_agent.reporter import Reporter

Clock = Callable[[], float]


@dataclass(slots=True, kw_only=True)
class _State:
    """One unit's work in bytes; ``rate`` is the running step's, before it has one the last step's."""

    total: int
    done: int = 0
    step: str = "waiting"
    step_started: float = 0.0
    step_done: int = 0
    rate: float | None = None
    percent: float = 0.0
    finished: bool = False

    @property
    def eta(self) -> float | None:
        if self.finished:
            return 0.0
        return (self.total - self.done) / self.rate if self.rate else None


class Meter:
    """The progress of all units, told to one reporter. Any thread may call it."""

    def __init__(self, reporter: Reporter, units: Sequence[str], clock: Clock = time.monotonic) -> None:
        self._reporter = reporter
        self._clock = clock
        self._lock = threading.Lock()
        self._states = {unit: _State(total=0) for unit in units}

    def unit(self, key: str, name: str) -> UnitMeter:
        """The meter of one unit; ``name`` is what watchers call it."""
        return UnitMeter(meter=self, key=key, name=name)

    def expect(self, key: str, work: int) -> None:
        with self._lock:
            self._states[key].total += work

    def step(self, key: str, name: str, step: str) -> None:
        with self._lock:
            state = self._states[key]
            state.step, state.step_started, state.step_done = step, self._clock(), 0
        self._tell(key, name)

    def advance(self, key: str, name: str, amount: int) -> None:
        with self._lock:
            state = self._states[key]
            state.done += amount
            state.step_done += amount
            elapsed = self._clock() - state.step_started
            # The last step's rate stands until this one has its own: the first chunks only measure the queue.
            if elapsed >= 0.5:
                state.rate = state.step_done / elapsed
        self._tell(key, name)

    def abandon(self, key: str) -> None:
        """What was expected so far and is not done will not be done: it no longer counts as open."""
        with self._lock:
            self._states[key].done = self._states[key].total

    def finish(self, key: str, name: str) -> None:
        with self._lock:
            state = self._states[key]
            state.done, state.finished = state.total, True
        self._tell(key, name)

    def _tell(self, key: str, name: str) -> None:
        with self._lock:
            state = self._states[key]
            percent = 100.0 if state.finished else 100.0 * state.done / state.total if state.total else 0.0
            # A rung that failed adds work: the bar then waits rather than going back.
            state.percent = max(state.percent, min(percent, 100.0))
            total = sum(other.total for other in self._states.values())
            whole = 100.0 * sum(other.done for other in self._states.values()) / total if total else 0.0
            etas = [other.eta for other in self._states.values()]
            eta = None if any(one is None for one in etas) else max(one for one in etas if one is not None)
            fields = {
                "unit": name,
                "unit_percent": round(state.percent, 1),
                "unit_eta": None if state.eta is None else round(state.eta, 1),
                "bytes_per_second": None if state.rate is None else round(state.rate),
            }
            step = "done" if state.finished else state.step
        self._reporter.progress(
            min(whole, 100.0), eta=None if eta is None else round(eta, 1), step=step, **fields
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitMeter:
    """One unit's view of the meter; amounts are bytes."""

    meter: Meter
    key: str
    name: str

    def expect(self, work: int) -> None:
        self.meter.expect(self.key, work)

    def step(self, step: str) -> None:
        self.meter.step(self.key, self.name, step)

    def advance(self, amount: int) -> None:
        self.meter.advance(self.key, self.name, amount)

    def abandon(self) -> None:
        self.meter.abandon(self.key)

    def finish(self) -> None:
        self.meter.finish(self.key, self.name)
