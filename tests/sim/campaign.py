"""Many runs: seeds in ranges over processes, and the report that sums them up."""

from __future__ import annotations

import gc
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.plants import HONEST, PLANTS
from sim.schedule import KINDS
from sim.world import Outcome, World

_CHUNK = 100
_FAILURES_KEPT = 100


@dataclass
class Report:
    """``lost`` and ``doubled`` count tasks, ``violations`` everything that did not hold."""

    seeds: int = 0
    lost: int = 0
    doubled: int = 0
    violations: int = 0
    messages: int = 0
    steps: int = 0
    virtual_seconds: float = 0.0
    happened: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def take(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.lost += outcome.lost
        self.doubled += outcome.doubled
        self.violations += len(outcome.violations)
        self.messages += outcome.messages
        self.steps += outcome.steps
        self.virtual_seconds += outcome.seconds
        self.happened.update(outcome.happened)
        for invariant, line in outcome.violations:
            self.failures.append({"seed": outcome.seed, "invariant": invariant, "line": line})

    def add(self, other: Report) -> None:
        for name in ("seeds", "lost", "doubled", "violations", "messages", "steps", "virtual_seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.happened.update(other.happened)
        self.failures += other.failures

    @property
    def runs_per_second(self) -> float:
        return self.seeds / self.seconds if self.seconds else 0.0

    def to_json(self, *, plant: str, workers: int) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "lost": self.lost,
            "doubled": self.doubled,
            "violations": self.violations,
            "runs_per_second": round(self.runs_per_second, 1),
            "seconds": round(self.seconds, 1),
            "workers": workers,
            "plant": plant,
            "messages": self.messages,
            "steps": self.steps,
            "virtual_hours": round(self.virtual_seconds / 3600, 1),
            "faults": {kind: self.happened[kind] for kind in KINDS},
            "failures": sorted(self.failures, key=lambda one: one["seed"])[:_FAILURES_KEPT],
        }


def run_one(seed: int, plant: str = HONEST.name, *, tracing: bool = False) -> Outcome:
    return World(seed, plants=PLANTS.get(plant, HONEST), tracing=tracing).run()


def campaign(
    seeds: range, *, plant: str = HONEST.name, workers: int = 1, stop_at_failure: bool = False
) -> Iterator[Report]:
    """The report so far, again and again, the last time complete."""
    total, began = Report(), time.monotonic()
    chunks = [(seeds[at : at + _CHUNK], plant, stop_at_failure) for at in range(0, len(seeds), _CHUNK)]
    if workers == 1:
        for part in map(_chunk, chunks):
            yield _sum(total, part, began)
            if stop_at_failure and total.failures:
                return
        return
    # Spawned rather than forked: a process that has run one world passes nothing of it on.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for part in pool.imap_unordered(_chunk, chunks):
            yield _sum(total, part, began)
            if stop_at_failure and total.failures:
                return


def _sum(total: Report, part: Report, began: float) -> Report:
    total.add(part)
    total.seconds = time.monotonic() - began
    return total


def _chunk(work: tuple[range, str, bool]) -> Report:
    seeds, plant, stop_at_failure = work
    report = Report()
    # A world is full of circles; they are swept up between two runs, not in the middle of one.
    gc.disable()
    gc.freeze()  # what was there before is not looked at again and again
    try:
        for number, seed in enumerate(seeds):
            report.take(run_one(seed, plant))
            if number % 10 == 9:
                gc.collect()
            if stop_at_failure and report.failures:
                break
    finally:
        gc.unfreeze()
        gc.enable()
        gc.collect()
    return report


def write_report(path: Path, report: Report, *, plant: str, workers: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(
        json.dumps(report.to_json(plant=plant, workers=workers), indent=2) + "\n", encoding="utf-8"
    )
    fresh.replace(path)
