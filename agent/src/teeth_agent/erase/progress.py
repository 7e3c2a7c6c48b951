"""How far the whole erase and each unit is, and how long it will honestly take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from teeth_agent.reporter import Reporter

Clock = Callable[[], float]

# What follows a drive's own work is this machine's; until it has a speed of its own, this one is assumed.
_ASSUMED_RATE = 150e6


@dataclass(slots=True, kw_only=True)
class _State:
    """One unit's work in bytes; ``rate`` is the running step's, before it has one the last step's.

    ``alone``: the drive works by itself, ``step_left`` of the work is its own, ``step_eta`` its word for it.
    """

    total: int
    done: int = 0
    step: str = "waiting"
    step_started: float = 0.0
    step_done: int = 0
    rate: float | None = None
    alone: bool = False
    step_left: int = 0
    step_eta: float | None = None
    percent: float = 0.0
    finished: bool = False

    @property
    def eta(self) -> float | None:
        if self.finished:
            return 0.0
        left = self.total - self.done
        if self.alone:
            if self.step_eta is None:
                return None
            return self.step_eta + max(0, left - self.step_left) / (self.rate or _ASSUMED_RATE)
        return left / self.rate if self.rate else None


class Meter:
    """The progress of all units, told to one reporter. Any thread may call it."""

    def __init__(self, reporter: Reporter, units: Mapping[str, str], clock: Clock = time.monotonic) -> None:
        """``units``: what watchers call each, by its key."""
        self._reporter = reporter
        self._clock = clock
        self._lock = threading.Lock()
        self._names = dict(units)
        self._states = {unit: _State(total=0) for unit in units}

    def unit(self, key: str) -> UnitMeter:
        return UnitMeter(meter=self, key=key)

    def expect(self, key: str, work: int) -> None:
        with self._lock:
            self._states[key].total += work

    def step(self, key: str, step: str) -> None:
        with self._lock:
            state = self._states[key]
            state.step, state.step_started, state.step_done = step, self._clock(), 0
            state.alone = False
        self._tell(key)

    def advance(self, key: str, amount: int) -> None:
        with self._lock:
            state = self._states[key]
            state.done += amount
            state.step_done += amount
            elapsed = self._clock() - state.step_started
            # The last step's rate stands until this one has its own: the first chunks only measure the queue.
            if elapsed >= 0.5:
                state.rate = state.step_done / elapsed
        self._tell(key)

    def by_device(self, key: str, amount: int, left: int, eta: float | None) -> None:
        with self._lock:
            state = self._states[key]
            state.done += amount
            state.alone, state.step_left, state.step_eta = True, left, eta
        self._tell(key)

    def abandon(self, key: str) -> None:
        """What was expected so far and is not done will not be done: it no longer counts as open."""
        with self._lock:
            self._states[key].done = self._states[key].total

    def finish(self, key: str) -> None:
        with self._lock:
            state = self._states[key]
            state.done, state.finished = state.total, True
        self._tell(key)

    def _tell(self, key: str) -> None:
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
                "unit": self._names[key],
                "unit_percent": round(state.percent, 1),
                "unit_eta": None if state.eta is None else round(state.eta, 1),
                "bytes_per_second": None if state.rate is None or state.alone else round(state.rate),
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

    def expect(self, work: int) -> None:
        self.meter.expect(self.key, work)

    def step(self, step: str) -> None:
        self.meter.step(self.key, step)

    def advance(self, amount: int) -> None:
        self.meter.advance(self.key, amount)

    def by_device(self, amount: int, left: int, eta: float | None) -> None:
        """The drive works alone: ``amount`` more is done, ``left`` is its own, for ``eta`` seconds by its
        word (None: not known)."""
        self.meter.by_device(self.key, amount, left, eta)

    def abandon(self) -> None:
        self.meter.abandon(self.key)

    def finish(self) -> None:
        self.meter.finish(self.key)
