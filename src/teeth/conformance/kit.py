"""A whole run: which transcripts, in which order, and what came of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from teeth.conformance.agentdoor import AgentDoor
from teeth.conformance.asking import Ask
from teeth.conformance.doors import EndpointDoor, NobodyThereError
from teeth.conformance.loader import load_folder
from teeth.conformance.play import Outcome, play
from teeth.conformance.transcript import Transcript
from teeth.errors import UsageError

Say = Callable[[Outcome], None]


def select(folder: Path, side: str, *, only: Sequence[str] = (), seed_only: bool = False) -> list[Transcript]:
    """The transcripts for one side whose names match one of ``only`` (shell patterns; none: all).

    Raises UsageError for a pattern that matches nothing.
    """
    found = load_folder(folder, side)
    for pattern in only:
        if not any(fnmatch.fnmatchcase(one.name, pattern) for one in found):
            raise UsageError(f"no transcript for an {side} is called {pattern}", hint="--list shows them all")
    return [
        one
        for one in found
        if (not only or any(fnmatch.fnmatchcase(one.name, pattern) for pattern in only))
        and (one.seed or not seed_only)
    ]


def check(
    transcripts: Iterable[Transcript],
    door: EndpointDoor | AgentDoor,
    *,
    tls: bool = False,
    slow: bool = False,
    ask: Ask | None = None,
    stretch: float = 1.0,
    say: Say = lambda _: None,
) -> list[Outcome]:
    """Play them all, one after the other. ``say`` hears every outcome at once.

    ``slow``: also those that wait for a timer of the protocol. ``stretch``: all deadlines are so many times
    as long. Raises NobodyThereError when not even the first connection could be made.
    """
    have = {"tls" if tls else "plaintext"}
    have |= ({"slow"} if slow else set()) | ({"ask"} if ask is not None else set())
    outcomes: list[Outcome] = []
    for transcript in transcripts:
        outcome = _missing(transcript, have)
        if outcome is None:
            try:
                outcome = play(transcript, door, ask=ask, stretch=stretch)
            except NobodyThereError as error:
                if not _talked(outcomes):
                    raise
                outcome = Outcome(transcript=transcript, status="fail", seconds=0.0, message=str(error))
        outcomes.append(outcome)
        say(outcome)
    return outcomes


def _talked(outcomes: list[Outcome]) -> bool:
    return any(outcome.status != "skip" or outcome.line for outcome in outcomes)


_WHY = {
    "tls": "only by TLS",
    "plaintext": "only in plain text",
    "slow": "waits for a timer of the protocol (--slow)",
    "ask": "nobody can make the endpoint ask (--ask)",
}


def _missing(transcript: Transcript, have: set[str]) -> Outcome | None:
    for need in sorted(transcript.needs - have):
        return Outcome(transcript=transcript, status="skip", seconds=0.0, message=_WHY[need])
    return None


def passed(outcomes: Iterable[Outcome]) -> bool:
    """Whether every required transcript that was played has passed."""
    return not any(outcome.status == "fail" and outcome.transcript.required for outcome in outcomes)
