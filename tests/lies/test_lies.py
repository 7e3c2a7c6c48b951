"""The campaign in small: no lie passes, no honest drive fails, and a weakened product is found out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.simulated_drives import SimulatedMachine
from fakes.simulated_kernel import Sent
from lies import page, safety
from lies.agent import PASSWORD
from lies.campaign import CUT, Job, Report, campaign, jobs, run_one
from lies.cases import HONEST
from lies.lists import ALL_LIES, FAULTS, LIE_NAMES, METHODS, UNDETECTABLE
from lies.plants import PLANTS
from teeth_agent.erase.model import Method

TESTS = Path(__file__).parents[1]


def run(work: list[Job], plant: str = "") -> Report:
    *_, report = campaign(work, plant=plant)
    return report


def some() -> list[Job]:
    """Every method with an eighth of the lies and faults, others for each method, and some power cuts."""
    work: list[Job] = []
    for number, method in enumerate(METHODS):
        picked = {HONEST, *LIE_NAMES[number % 8 :: 8], *list(FAULTS)[number % 8 :: 8]}
        picked |= {CUT} if number % 3 == 0 else set()
        work += [job for job in jobs(range(1), [method], ALL_LIES, faults=1, cuts=1) if job[2] in picked]
    return work


def check(report: Report) -> None:
    assert report.failures == []
    assert report.sound
    assert (report.false_erased, report.false_failed, report.cut_false_erased) == (0, 0, 0)
    assert not report.locked
    assert not report.broken


def test_no_lie_passes_and_no_honest_drive_fails() -> None:
    report = run(some())
    check(report)
    assert report.cuts
    told = {lie for kind, lie, _ in report.cells if kind == "lie"}
    assert len(told) > 30
    assert {method for _, _, method in report.cells} == {method.value for method in METHODS}


@pytest.mark.slow
def test_every_lie_with_every_method() -> None:
    report = run(jobs(range(3), METHODS, ALL_LIES, faults=2, cuts=5))
    check(report)
    for method in METHODS:
        # What a drive is drawn for is also what was tried on it first.
        began = [rung for (wanted, rung), _ in report.began.items() if wanted == method.value]
        assert any(rung.startswith(method.value) for rung in began)


def test_at_least_twenty_lies_are_held_to_be_detectable() -> None:
    assert len(set(LIE_NAMES) - set(UNDETECTABLE)) >= 20
    assert set(UNDETECTABLE) <= set(LIE_NAMES)
    assert all(reason.endswith(".") for reason in UNDETECTABLE.values())


SCSI = [Method.SCSI_SANITIZE_BLOCK, Method.SCSI_FORMAT]


@pytest.mark.parametrize(
    ("plant", "methods", "lies"),
    [
        ("no-proof", SCSI, ["accepts-and-keeps", "format-keeps"]),
        ("no-reading", SCSI, ["accepts-and-keeps", "skips-middle", "skips-last-block"]),
        ("no-second-look", SCSI, ["reads-zero"]),
        ("no-opening", [Method.ATA_SECURITY_ERASE], [HONEST]),
    ],
)
def test_a_weakened_proof_is_found_out(plant: str, methods: list[Method], lies: list[str]) -> None:
    work = jobs(range(12, 18), methods, lies, faults=0, cuts=0)
    assert run(work).sound
    report = run(work, plant)
    assert report.false_erased > 0
    assert not report.crashed


def test_a_drive_that_stays_locked_is_found_out() -> None:
    work = [("cut", Method.ATA_SECURITY_ERASE.value, CUT, range(8))]
    assert run(work).sound
    report = run(work, "no-rescue")
    assert report.locked["cut"] > 0


def test_a_run_comes_out_the_same_again() -> None:
    for kind, lie in (("lie", "erases-half"), ("fault", "erase-fails"), ("cut", CUT)):
        first, second = (run_one(kind, Method.ATA_SANITIZE_BLOCK, lie, 4) for _ in range(2))
        assert (first.outcome, first.code, first.tried) == (second.outcome, second.code, second.tried)


def ata(command: int, data: bytes = b"", *, usb: bool = False) -> Sent:
    return Sent(device="sda", cdb=bytes((0x85, 0x0A)) + bytes(12) + bytes((command, 0)), data=data, usb=usb)


def password(flags: int = 0, level: int = 0, text: bytes = PASSWORD) -> bytes:
    return (bytes((flags, level)) + text).ljust(512, b"\0")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (ata(0xEC, usb=True), "ATA pass-through to a drive behind USB"),
        (ata(0xF1, password(flags=1)), "SET PASSWORD of the master"),
        (ata(0xF1, password(level=1)), "SET PASSWORD at level maximum"),
        (ata(0xF1, password(text=b"secret".ljust(32, b"\0"))), "SET PASSWORD with another one"),
        (Sent(device="nvme0", nvme=(0x80, 1, 0, 0, 0, 0, 0, 0)), "Format NVM without secure erase"),
    ],
)
def test_a_command_that_must_not_be_sent_is_noticed(sent: Sent, words: str) -> None:
    machine = SimulatedMachine([])
    machine.sent.append(ata(0xF1, password()))
    machine.sent.append(Sent(device="nvme0", nvme=(0x80, 1, 1 << 9, 0, 0, 0, 0, 0)))
    assert safety.broken(machine, PASSWORD) == []
    machine.sent.append(sent)
    (line,) = safety.broken(machine, PASSWORD)
    assert line.startswith(words)


def test_the_products_own_password_is_the_published_one() -> None:
    work = [("honest", Method.ATA_SECURITY_ERASE.value, HONEST, range(2))]
    assert not run(work).broken


def test_two_writers_are_noticed() -> None:
    machine = SimulatedMachine([])
    machine.writers.twice.append("/dev/sda")
    machine.writers.clashes.append("sda")
    assert len(safety.broken(machine, PASSWORD)) == 2


# --- the command


def lies(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lies", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_the_report(tmp_path: Path) -> None:
    options = ("--seeds", "2", "--method", "scsi_format", "--lie", "format-keeps", "--workers", "1")
    done = lies(*options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "erased/caught/false" in done.stdout
    report = json.loads((tmp_path / "build" / "lies" / "report.json").read_text())
    wanted = {"runs": 2, "lies": 1, "methods": 1, "false_erased": 0, "false_failed": 0, "left_locked": 0}
    assert {name: report[name] for name in wanted} == wanted
    found = lies(*options, "--plant", "no-proof", folder=tmp_path)
    assert found.returncode == 0, found.stdout
    assert "replay: make lies METHOD=scsi_format LIE=format-keeps SEED=" in found.stdout


def test_one_run_is_told_whole(tmp_path: Path) -> None:
    done = lies("--seed", "3", "--method", "scsi_format", "--lie", "format-keeps", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sda: 04" in done.stdout
    assert '"outcome": "cleared"' in done.stdout


def test_every_plant_has_a_test() -> None:
    assert set(PLANTS) == {"", "no-proof", "no-reading", "no-second-look", "no-opening", "no-rescue"}


def test_the_page_is_up_to_date() -> None:
    assert page.outdated() == [], "run: make lies SEEDS=100 PAGE=1"
