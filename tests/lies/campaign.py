"""Many runs over processes, and the report that sums them up."""

from __future__ import annotations

import json
import multiprocessing
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lies.cases import HONEST
from lies.lists import FAULTS, METHODS, UNDETECTABLE, concerns
from lies.plants import PLANTS
from lies.trial import Result, run_cut, run_fault, run_lie
from teeth_agent.erase.model import Method

_FAILURES_KEPT = 100
_CHUNK = 25
CUT = "power-cut"

Job = tuple[str, str, str, range]  # kind, method, lie, seeds


@dataclass(slots=True)
class Cell:
    """The runs of one lie with one method: truly erased and reported so, not reported, reported falsely."""

    erased: int = 0
    refused: int = 0
    false: int = 0

    @property
    def runs(self) -> int:
        return self.erased + self.refused + self.false


@dataclass(slots=True)
class Report:
    """``cells`` by (kind, lie, method); ``began`` counts with which rung erases began, by method wanted."""

    cells: dict[tuple[str, str, str], Cell] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    locked: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    began: Counter[tuple[str, str]] = field(default_factory=Counter)
    cuts: int = 0
    others: int = 0
    crashed: int = 0
    virtual_seconds: float = 0.0
    seconds: float = 0.0

    def take(self, result: Result) -> None:
        cell = self.cells.setdefault((result.kind, result.lie, result.method), Cell())
        if result.false:
            cell.false += 1
        elif result.erased:
            cell.erased += 1
        else:
            cell.refused += 1
        self.codes[f"{result.kind}: {result.code or 'erased'}"] += 1
        self.virtual_seconds += result.seconds
        self.cuts += result.cut
        self.others += not result.other
        self.began[result.method, result.tried[0] if result.tried else "-"] += 1
        if result.locked:
            self.locked[result.kind] += 1
        self.broken.update(line.split(":", 1)[0] for line in result.broken)
        self._note(result)

    def _note(self, result: Result) -> None:
        honest = result.kind in ("honest", "cut")
        why = [
            what
            for what, so in (
                ("false_erased", result.false and result.lie not in UNDETECTABLE),
                ("false_failed", honest and not result.erased),
                ("left_locked", result.locked),
                ("sound_drive_not_erased", not result.other),
                ("unsafe_command", bool(result.broken)),
            )
            if so
        ]
        if why:
            self.failures.append(
                {
                    "run": result.name,
                    "why": why,
                    "outcome": result.outcome,
                    "code": result.code,
                    "reason": result.reason,
                    "sound_drive": result.other_why,
                    "tried": list(result.tried),
                    "remains": {"native": result.native, "retired": result.retired},
                    "broken": result.broken[:3],
                }
            )

    def add(self, other: Report) -> None:
        for key, cell in other.cells.items():
            mine = self.cells.setdefault(key, Cell())
            mine.erased += cell.erased
            mine.refused += cell.refused
            mine.false += cell.false
        for name in ("codes", "locked", "broken", "began"):
            getattr(self, name).update(getattr(other, name))
        self.failures += other.failures
        for name in ("cuts", "others", "crashed", "virtual_seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    # --- sums

    def _cells(self, kind: str) -> Iterator[tuple[str, Cell]]:
        return ((lie, cell) for (found, lie, _), cell in self.cells.items() if found == kind)

    def runs(self, kind: str) -> int:
        return sum(cell.runs for _, cell in self._cells(kind))

    @property
    def false_erased(self) -> int:
        """Called erased and not so, by lies that a host can see."""
        return sum(cell.false for lie, cell in self._cells("lie") if lie not in UNDETECTABLE) + sum(
            cell.false for _, cell in self._cells("honest")
        )

    @property
    def false_failed(self) -> int:
        return sum(cell.refused for _, cell in self._cells("honest"))

    @property
    def cut_false_erased(self) -> int:
        return sum(cell.false for _, cell in self._cells("cut"))

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.failures and not self.crashed

    def to_json(self, *, seeds: int, workers: int) -> dict[str, Any]:
        lies = sorted({lie for kind, lie, _ in self.cells if kind == "lie"})
        return {
            "runs": self.runs("lie") + self.runs("honest"),
            "lies": len(lies),
            "methods": len({method for kind, _, method in self.cells if kind in ("lie", "honest")}),
            "seeds": seeds,
            "false_erased": self.false_erased,
            "false_failed": self.false_failed,
            "undetectable": {
                lie: {
                    "reason": reason,
                    "runs": sum(cell.runs for name, cell in self._cells("lie") if name == lie),
                    "called_erased": sum(cell.false for name, cell in self._cells("lie") if name == lie),
                }
                for lie, reason in UNDETECTABLE.items()
                if lie in lies
            },
            "power_cuts": self.cuts,
            "cut_runs": self.runs("cut"),
            "left_locked": self.locked["cut"],
            "cut_false_erased": self.cut_false_erased,
            "cut_not_erased": sum(cell.refused for _, cell in self._cells("cut")),
            "locked_without_a_word": self.locked["lie"] + self.locked["honest"] + self.locked["fault"],
            "faults": {
                "kinds": len({lie for kind, lie, _ in self.cells if kind == "fault"}),
                "runs": self.runs("fault"),
                "false_erased": sum(cell.false for _, cell in self._cells("fault")),
                "sound_drive_not_erased": self.others,
            },
            "unsafe_commands": dict(self.broken),
            "crashed": self.crashed,
            "began_with": {
                method: {rung: count for (wanted, rung), count in self.began.items() if wanted == method}
                for method in sorted({wanted for wanted, _ in self.began})
            },
            "codes": dict(self.codes.most_common()),
            "virtual_hours": round(self.virtual_seconds / 3600, 1),
            "seconds": round(self.seconds, 1),
            "runs_per_second": round(sum(cell.runs for cell in self.cells.values()) / (self.seconds or 1), 1),
            "workers": workers,
            "table": [
                {"kind": kind, "lie": lie, "method": method, **asdict(cell)}
                for (kind, lie, method), cell in sorted(self.cells.items())
            ],
            "failures": sorted(self.failures, key=lambda one: str(one["run"]))[:_FAILURES_KEPT],
        }  # fmt: skip


def jobs(
    seeds: range, methods: Sequence[Method], lies: Iterable[str], *, faults: int, cuts: int
) -> list[Job]:
    """What there is to run: ``faults`` and ``cuts`` say how many of the seeds those have."""
    work: list[Job] = []
    lies = list(lies)
    for method in methods:
        told = [lie for lie in lies if concerns(lie, method)]
        kinds = [("honest" if lie == HONEST else "lie", lie, len(seeds)) for lie in told]
        kinds += [("fault", name, min(faults, len(seeds))) for name in FAULTS if concerns(name, method)]
        kinds += [("cut", CUT, min(cuts, len(seeds)))]
        for kind, lie, count in kinds:
            some = seeds[:count]
            work += [(kind, method.value, lie, some[at : at + _CHUNK]) for at in range(0, len(some), _CHUNK)]
    return work


def run_one(kind: str, method: Method, lie: str, seed: int, **look: Any) -> Result:
    if kind == "fault":
        return run_fault(method, lie, seed, **look)
    if kind == "cut":
        return run_cut(method, seed, **look)
    return run_lie(method, lie, seed, **look)


def campaign(work: Sequence[Job], *, workers: int = 1, plant: str = "") -> Iterator[Report]:
    """The report so far, again and again, the last time complete. ``plant``: a weakness to be put in."""
    total, began = Report(), time.monotonic()
    planted = [(job, plant) for job in work]
    if workers == 1:
        for part in map(_chunk, planted):
            yield _sum(total, part, began)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for part in pool.imap_unordered(_chunk, planted):
            yield _sum(total, part, began)


def _sum(total: Report, part: Report, began: float) -> Report:
    total.add(part)
    total.seconds = time.monotonic() - began
    return total


def _chunk(work: tuple[Job, str]) -> Report:
    (kind, method, lie, seeds), plant = work
    report = Report()
    with PLANTS[plant]():
        for seed in seeds:
            try:
                report.take(run_one(kind, Method(method), lie, seed))
            except Exception:
                report.crashed += 1
                report.failures.append(
                    {
                        "run": f"{kind}/{method}/{lie}/{seed}",
                        "why": ["crashed"],
                        "reason": traceback.format_exc(),
                    }
                )
    return report


def write_report(path: Path, report: Report, *, seeds: int, workers: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(
        json.dumps(report.to_json(seeds=seeds, workers=workers), indent=1) + "\n", encoding="utf-8"
    )
    fresh.replace(path)


ALL_METHODS: tuple[Method, ...] = METHODS
