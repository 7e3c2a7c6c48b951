"""Waiting for a drive that erases by itself: how far it is, when it stalls, and when to give up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from teeth_agent.erase.methods import DeviceErase, Poll, State
from teeth_agent.errors import DeviceError

# Often at first, since many erases by key take seconds; then seldom, since the others take hours.
_SOON, _LATE, _FIRST = 5.0, 30.0, 60.0
_STALL = 15 * 60.0
# Of an erase that shows no progress the drive's own estimate is all there is to show.
_ALMOST = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How an operation stands. ``fraction`` 0 to 1 and ``eta`` in seconds: None when honestly not known."""

    fraction: float | None
    eta: float | None
    stalled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What a wait needs of its surroundings. ``check`` is called between two looks, and raises to end the
    wait: the drive goes on. ``time_limit`` in seconds."""

    clock: Callable[[], float]
    pause: Callable[[float], None]
    check: Callable[[], None]
    tell: Callable[[Told], None]
    time_limit: float


@dataclass(slots=True, kw_only=True)
class _Course:
    """What was seen so far. ``moved``: when the drive last showed something new."""

    started: float
    moved: float
    last: float | None = None
    best: float = 0.0
    silence: str = ""


def wait_for_end(erase: DeviceErase, around: Around) -> Poll:
    """Until the drive says that the operation is DONE; its last answer.

    Raises DeviceError: erase_failed when the drive says so, time_limit when it takes longer than is allowed
    (it may still be at work), drive_silent when it has not answered for as long as a stall takes; and what
    ``check`` raises.
    """
    now = around.clock()
    course = _Course(started=now, moved=now)
    patience = max(_STALL, 3 * erase.estimate) if erase.estimate else _STALL
    while True:
        poll = _look(erase, course)
        now = around.clock()
        if poll is not None:
            if poll.state is State.DONE:
                around.tell(Told(fraction=1.0, eta=0.0, stalled=False))
                return poll
            if poll.state is State.FAILED:
                raise DeviceError(
                    f"the drive says that its erase failed: {_words(poll)}", code="erase_failed"
                )
            _note(course, poll.fraction, now)
        stalled = now - course.moved > patience
        if poll is None and stalled:
            raise DeviceError(f"the drive no longer answers: {course.silence}", code="drive_silent")
        elapsed = now - course.started
        if elapsed > around.time_limit:
            raise DeviceError(f"the drive is not done after {elapsed:.0f} s", code="time_limit")
        around.tell(_told(course, erase.estimate, elapsed, stalled=stalled))
        around.check()
        around.pause(_SOON if elapsed < _FIRST else _LATE)


def _look(erase: DeviceErase, course: _Course) -> Poll | None:
    """The drive's answer, None without one: busy drives are silent, which alone says nothing."""
    try:
        poll = erase.poll()
    except DeviceError as error:
        if error.code == "device_missing":
            raise
        course.silence = str(error)
        return None
    course.silence = ""
    return poll


def _note(course: _Course, fraction: float | None, now: float) -> None:
    if fraction != course.last:
        course.moved, course.last = now, fraction
    # A drive that counts backwards is at work, but nobody is shown less than before.
    course.best = max(course.best, fraction or 0.0)


def _told(course: _Course, estimate: float | None, elapsed: float, *, stalled: bool) -> Told:
    if course.best > 0:
        eta = elapsed / course.best - elapsed
        return Told(fraction=min(course.best, 1.0), eta=None if stalled else eta, stalled=stalled)
    if estimate:
        left = estimate - elapsed
        return Told(
            fraction=min(elapsed / estimate, _ALMOST), eta=left if left > 0 else None, stalled=stalled
        )
    return Told(fraction=None, eta=None, stalled=stalled)


def _words(poll: Poll) -> str:
    return ", ".join(f"{key} {value}" for key, value in list(poll.evidence.items())[:6])[:200] or "no details"
