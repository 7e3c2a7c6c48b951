"""The simulation itself: honest schedules hold, every fault happens, planted bugs are found, seeds replay."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.campaign import campaign, run_one
from sim.loop import Killed, Process, SimLoop
from sim.plants import PLANTS
from sim.schedule import KINDS

TESTS = Path(__file__).parents[1]
HONEST_SEEDS = 500
# Each is found by this many seeds, far below the thousand that are allowed for.
ENOUGH = 200


def sim(*arguments: str, folder: Path, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sim", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": hash_seed},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_nothing_is_lost_or_doubled_whatever_goes_wrong() -> None:
    *_, honest = campaign(range(HONEST_SEEDS))
    assert honest.seeds == HONEST_SEEDS
    assert honest.failures == []
    assert (honest.lost, honest.doubled, honest.violations) == (0, 0, 0)
    # A fault that never happens is a hole in the simulation.
    assert [kind for kind in KINDS if not honest.happened[kind]] == []


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_found(plant: str) -> None:
    *_, report = campaign(range(ENOUGH), plant=plant, stop_at_failure=True)
    assert report.failures, f"{plant} was not found by {ENOUGH} seeds"


def test_a_seed_replays_whatever_the_order_of_hashes(tmp_path: Path) -> None:
    told = {sim("--seed", "28", "--trace", folder=tmp_path, hash_seed=seed).stdout for seed in ("1", "2")}
    assert len(told) == 1
    (text,) = told
    assert "effect" in text
    assert text.splitlines()[-1].startswith("seed 28: ")
    here = run_one(28, tracing=True)
    assert here.digest in text
    assert here.digest != run_one(29, tracing=True).digest


def test_looking_does_not_change_what_happens() -> None:
    traced, untraced = run_one(28, tracing=True), run_one(28)
    assert (traced.steps, traced.messages, traced.happened) == (
        untraced.steps, untraced.messages, untraced.happened,
    )  # fmt: skip


def test_the_report(tmp_path: Path) -> None:
    done = sim("--seeds", "20", "--workers", "2", "--report", "r/report.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert {name: report[name] for name in ("seeds", "lost", "doubled", "violations", "failures")} == {
        "seeds": 20, "lost": 0, "doubled": 0, "violations": 0, "failures": [],
    }  # fmt: skip
    assert report["runs_per_second"] > 0
    assert set(report["faults"]) == set(KINDS)


def test_a_finding_names_the_seed_that_replays_it(tmp_path: Path) -> None:
    done = sim("--seeds", "100", "--plant", "repeat-starts-again", folder=tmp_path)
    assert done.returncode == 0, done.stdout  # it was to be found
    report = json.loads((tmp_path / "build" / "sim" / "report.json").read_text())
    failure = next(one for one in report["failures"] if one["invariant"] == "doubled")
    assert report["doubled"] >= 1
    assert f"seed {failure['seed']}: doubled: {failure['line']}" in done.stdout
    again = sim("--seed", str(failure["seed"]), "--plant", "repeat-starts-again", folder=tmp_path)
    assert f"seed {failure['seed']}: doubled: {failure['line']}" in again.stdout
    assert sim("--seed", str(failure["seed"]), folder=tmp_path).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [("--seeds", "0"), ("--seeds", "many"), ("--plant", "nonsense"), ("--trace",), ("--workers", "-1")],
    ids=" ".join,
)
def test_a_wrong_call_is_refused_in_words(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = sim(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "sim: " in done.stderr


# --- the loop


def test_the_dead_do_nothing() -> None:
    loop, process, done = SimLoop(), Process("doomed"), []

    async def doomed() -> None:
        try:
            for number in range(5):
                done.append(number)
                await asyncio.sleep(1.0)
        finally:
            done.append("finally")

    async def world() -> None:
        loop.spawn(process, doomed())
        await asyncio.sleep(2.5)
        process.dead = True
        await asyncio.sleep(100.0)

    loop.run(world(), until=1000.0, most=1000)
    assert (done, loop.time(), loop.faults) == ([0, 1, 2], 102.5, [])
    loop.dispose()
    assert done == [0, 1, 2, "finally"]  # swept up, when nothing of its world is left


def test_an_endless_world_is_a_fault() -> None:
    loop = SimLoop()

    async def world() -> None:
        while True:  # noqa: ASYNC110 - that is the fault
            await asyncio.sleep(0)

    loop.run(world(), until=10.0, most=500)
    assert "did not end" in loop.faults[0]
    loop.dispose()


@pytest.mark.parametrize(("error", "faults"), [(ValueError("what"), 1), (Killed(), 0)])
def test_what_a_process_raises_is_a_fault_but_for_its_death(error: BaseException, faults: int) -> None:
    loop = SimLoop()

    async def failing() -> None:
        raise error

    async def world() -> None:
        loop.spawn(Process("p"), failing())
        await asyncio.sleep(1.0)

    loop.run(world(), until=10.0, most=500)
    assert len(loop.faults) == faults
    loop.dispose()
