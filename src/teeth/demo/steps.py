"""The steps of a run, their results and their seconds: one record for the screen and for programs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(slots=True, kw_only=True)
class Step:
    """One step. ``result`` is what a person reads about it; ``seconds`` counts while it runs."""

    name: str
    started: float
    result: str = ""
    ok: bool | None = None
    ended: float | None = None
    percent: float = 0.0
    detail: str = ""

    @property
    def seconds(self) -> float:
        return (self.ended if self.ended is not None else time.monotonic()) - self.started


def why(error: BaseException) -> str:
    """Why something ended, in words for a person."""
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
        return "interrupted"
    return str(error) or type(error).__name__


class View(Protocol):
    """Whoever shows the run while it happens."""

    def started(self, step: Step) -> None: ...
    def moved(self, step: Step) -> None: ...
    def part(self, step: Step, name: str, percent: float, detail: str) -> None: ...
    def ended(self, step: Step) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass(slots=True)
class Steps:
    """Runs steps one after the other and remembers them."""

    view: View
    done: list[Step] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """One step: good when its block ends, failed when an exception leaves it."""
        step = Step(name=name, started=self.clock())
        self.done.append(step)
        self.view.started(step)
        try:
            yield step
        except BaseException as error:
            step.ok = False
            step.result = why(error)
            raise
        else:
            step.ok = True
        finally:
            step.ended = self.clock()
            self.view.ended(step)

    def seconds(self) -> dict[str, float]:
        """Seconds by step name."""
        return {step.name: round(step.seconds, 2) for step in self.done}
