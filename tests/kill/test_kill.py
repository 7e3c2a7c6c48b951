"""Neither end's sudden death loses a task or does it twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from kill.harness import Outcome, Site, play


def _play(folder: Path, kills: int) -> Outcome:
    site = Site(folder)
    with site.running():
        outcome = play(site, kills=kills, seed=20260101)
    print(
        f"kills {dict(outcome.kills)}, at work {outcome.at_work}, held {outcome.unknown}, "
        f"ends {dict(outcome.ends)}"
    )
    return outcome


def _expect_honest(outcome: Outcome) -> None:
    assert outcome.lost == []
    assert outcome.doubled == []
    assert outcome.lies == []


def test_a_few_kills(tmp_path: Path) -> None:
    _expect_honest(_play(tmp_path, 3))


@pytest.mark.slow
def test_a_hundred_kills(tmp_path: Path) -> None:
    outcome = _play(tmp_path, 100)
    _expect_honest(outcome)
    assert min(outcome.kills.values()) > 20  # both were killed
    assert outcome.ends["complete"] > 0, "some work must get done between the kills"
