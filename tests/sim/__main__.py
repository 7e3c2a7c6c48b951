"""``python -m sim``: run schedules, or replay one. See README.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from sim.campaign import Report, campaign, run_one, write_report
from sim.plants import HONEST, PLANTS

_SAID_EVERY = 10.0


def main() -> int:
    """0 when nothing was found (with a plant: when it was found), 1 otherwise, 2 for a wrong call."""
    options = _options()
    if options.trace and options.seed is None:
        print("sim: --trace goes with --seed", file=sys.stderr)
        return 2
    if options.seed is not None:
        return _replay(options.seed, options.plant, options.trace)
    seeds = range(options.first, options.first + options.seeds)
    workers = max(1, min(options.workers, options.seeds // 100 or 1))
    report = Report()
    said = time.monotonic()
    looking = options.plant != HONEST.name
    try:
        for report in campaign(seeds, plant=options.plant, workers=workers, stop_at_failure=looking):
            if time.monotonic() - said >= _SAID_EVERY:
                said = time.monotonic()
                _say(report)
                write_report(options.report, report, plant=options.plant, workers=workers)
    except KeyboardInterrupt:
        print(f"stopped after {report.seeds} seeds", file=sys.stderr)
    write_report(options.report, report, plant=options.plant, workers=workers)
    _say(report)
    for failure in sorted(report.failures, key=lambda one: one["seed"])[:10]:
        print(f"seed {failure['seed']}: {failure['invariant']}: {failure['line']}")
        print(f"  replay: make sim SEED={failure['seed']}")
    print(f"report: {options.report}")
    return int(bool(report.failures) != looking)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sim", description="Agent and endpoint under simulated faults.")
    parser.add_argument("--seeds", type=_positive, default=1000, help="how many schedules (1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: print what happened")
    parser.add_argument(
        "--plant", choices=[HONEST.name, *PLANTS], default=HONEST.name,
        help="a bug to put in: " + "; ".join(f"{plant.name}: {plant.what}" for plant in PLANTS.values()),
    )  # fmt: skip
    parser.add_argument("--report", type=Path, default=Path("build/sim/report.json"))
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _replay(seed: int, plant: str, trace: bool) -> int:
    outcome = run_one(seed, plant, tracing=True)
    for line in outcome.trace if trace else ():
        print(line)
    print(f"seed {seed}: {outcome.messages} messages, {outcome.seconds:.1f} s, digest {outcome.digest}")
    for invariant, line in outcome.violations:
        print(f"seed {seed}: {invariant}: {line}")
    return int(bool(outcome.violations) != (plant != HONEST.name))


def _say(report: Report) -> None:
    print(
        f"{report.seeds} seeds, {report.runs_per_second:.1f} runs/s: {report.lost} lost, "
        f"{report.doubled} doubled, {report.violations} violations",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
