"""``python -m lies``: the campaign, or one run of it again. See docs/lies.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from lies import page, table
from lies.campaign import CUT, Report, campaign, jobs, run_one, write_report
from lies.lists import ALL_LIES, FAULTS, METHODS
from lies.plants import PLANTS
from lies.trial import Bench, Result
from teeth_agent.erase.model import Method

_SAID_EVERY = 10.0


def main() -> int:
    """0 when nothing was found (with a plant: when it was found), 1 otherwise, 2 for a wrong call."""
    options = _options()
    methods = [Method(options.method)] if options.method else list(METHODS)
    if options.seed is not None:
        return _replay(methods[0], options.lie or ALL_LIES[0], options.seed, options.plant)
    seeds = range(options.first, options.first + options.seeds)
    lies = [options.lie] if options.lie in ALL_LIES else [] if options.lie else list(ALL_LIES)
    work = jobs(seeds, methods, lies, faults=max(1, options.seeds // 5), cuts=options.seeds)
    if options.lie:
        work = [job for job in work if job[2] == options.lie]
    report, said = Report(), time.monotonic()
    try:
        for report in campaign(work, workers=options.workers, plant=options.plant):
            if time.monotonic() - said >= _SAID_EVERY:
                said = time.monotonic()
                _say(report)
                write_report(options.report, report, seeds=options.seeds, workers=options.workers)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    write_report(options.report, report, seeds=options.seeds, workers=options.workers)
    if options.page:
        page.write(json.loads(options.report.read_text()))
    return _conclude(report, options.report, looking=bool(options.plant))


def _conclude(report: Report, path: Path, *, looking: bool) -> int:
    print(table.text(json.loads(path.read_text())))
    _say(report)
    for failure in sorted(report.failures, key=lambda one: str(one["run"]))[:10]:
        _, method, lie, seed = failure["run"].split("/")
        why = ", ".join(failure["why"])
        print(f"{failure['run']}: {why}: {failure.get('outcome')} {failure.get('reason')}")
        print(f"  replay: make lies METHOD={method} LIE={lie} SEED={seed}")
    print(f"report: {path}")
    return int(report.sound == looking)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lies", description="Erase drives that lie, and look at their media."
    )
    parser.add_argument(
        "--seeds", type=_positive, default=10, help="how many drives for each lie and method (10)"
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--lie", choices=[*ALL_LIES, *FAULTS, CUT], help="only this lie, fault or power-cut")
    parser.add_argument("--method", choices=[method.value for method in METHODS], help="only this method")
    parser.add_argument("--seed", type=int, help="run this one again and tell all of it")
    parser.add_argument("--plant", choices=list(PLANTS), default="", help="a weakness to be put in")
    parser.add_argument("--page", action="store_true", help="write the figures into docs/lies.md")
    parser.add_argument("--report", type=Path, default=Path("build/lies/report.json"))
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _replay(method: Method, lie: str, seed: int, plant: str) -> int:
    def look(bench: Bench) -> None:
        for slot in bench.case.slots:
            print(f"drive: {slot}")
        print(f"policy: {bench.case.policy}")
        for sent in bench.machine.sent:
            words = " ".join(f"{word:x}" for word in sent.nvme) or sent.cdb.hex()
            print(f"{sent.device}: {words} {sent.data[:36].hex()}")
        for line in bench.machine.said:
            print(f"kernel: {line}")

    kind = "fault" if lie in FAULTS else "cut" if lie == CUT else "lie"
    with PLANTS[plant]():
        result: Result = run_one(kind, method, lie, seed, look=look)
    told: dict[str, Any] = {name: getattr(result, name) for name in result.__slots__}
    print(json.dumps(told, indent=1))
    return int(result.false)


def _say(report: Report) -> None:
    told = report.to_json(seeds=0, workers=0)
    print(
        f"{told['runs']} runs, {told['false_erased']} called erased that are not, "
        f"{told['false_failed']} honest ones called failed; "
        f"{told['cut_runs']} with {told['power_cuts']} power cuts: {told['left_locked']} left locked, "
        f"{told['cut_false_erased']} called erased that are not; "
        f"{told['faults']['runs']} with faults: {told['faults']['false_erased']} called erased that are not; "
        f"{told['runs_per_second']} runs/s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
