"""Waiting for a drive: when it is looked at, what is told, when it is given up. No time passes."""

from __future__ import annotations

import pytest

from fakes.disks import FakeErase
from teeth_agent.erase.methods import State
from teeth_agent.erase.polling import Around, wait_for_end
from teeth_agent.errors import Cancelled, DeviceError

SILENT = DeviceError("no answer", code="no_answer")


class Time:
    def __init__(self):
        self.now, self.pauses = 0.0, []

    def pause(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


def wait(polls, *, estimate=None, time_limit=1e6, check=lambda: None):
    time, told = Time(), []
    around = Around(
        clock=lambda: time.now, pause=time.pause, check=check, tell=told.append, time_limit=time_limit
    )
    try:
        wait_for_end(FakeErase([], polls, estimate=estimate), around)
        code = "done"
    except DeviceError as error:
        code = error.code
    return code, time, told


def test_a_drive_is_asked_often_at_first_and_seldom_later():
    code, time, _ = wait([*[0.001 * step for step in range(20)], State.DONE])
    assert code == "done"
    assert time.pauses[:12] == [5.0] * 12
    assert set(time.pauses[12:]) == {30.0}


def test_progress_is_the_drive_s_own_and_never_goes_back():
    _, _, told = wait([0.5, 0.25, 0.75, State.DONE])
    assert [one.fraction for one in told] == [0.5, 0.5, 0.75, 1.0]
    assert told[2].eta == pytest.approx(10 / 0.75 - 10)
    assert told[-1].eta == 0.0


def test_without_progress_the_estimate_serves_and_without_that_nothing_is_made_up():
    _, _, told = wait([None, None, State.DONE], estimate=100.0)
    assert [(one.fraction, one.eta) for one in told[:2]] == [(0.0, 100.0), (0.05, 95.0)]
    _, _, told = wait([None, State.DONE])
    assert (told[0].fraction, told[0].eta) == (None, None)


@pytest.mark.parametrize(("estimate", "after"), [(None, 900), (100.0, 900), (1000.0, 3000)])
def test_a_stall_is_told_of_and_waited_through(estimate, after):
    code, time, told = wait([0.1], estimate=estimate, time_limit=7200)
    assert code == "time_limit"
    assert time.now == pytest.approx(7200, abs=60)
    first = next(index for index, one in enumerate(told) if one.stalled)
    assert sum(time.pauses[:first]) == pytest.approx(after, abs=60)
    assert told[first].eta is None


def test_a_silent_drive_is_waited_for_as_long_as_a_stall_takes():
    assert wait([SILENT, SILENT, State.DONE])[0] == "done"
    code, time, _ = wait([SILENT])
    assert code == "drive_silent"
    assert time.now == pytest.approx(900, abs=60)


def test_a_failure_is_the_drive_s_own_word_and_a_missing_drive_ends_the_wait():
    assert wait([0.5, State.FAILED])[0] == "erase_failed"
    assert wait([DeviceError("gone", code="device_missing")])[0] == "device_missing"


def test_who_waits_may_be_called_away():
    def check():
        raise Cancelled("told to stop")

    with pytest.raises(Cancelled):
        wait([0.1], check=check)
