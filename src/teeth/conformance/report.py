"""What came of a run, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from teeth.conformance.kit import passed
from teeth.conformance.play import Outcome
from teeth.conformance.transcript import Transcript

_NAME = 34
_LEVEL = 22
_STANDS = 78


def row(outcome: Outcome) -> str:
    """One line of the table: outcome, name, level, and the seed's line or the section it stands for."""
    one = outcome.transcript
    return f"{outcome.status:<5} {_columns(one)}".rstrip()


def heading() -> str:
    return f"{'':<5} {'transcript':<{_NAME}} {'level':<{_LEVEL}} stands for"


def listing(transcripts: Sequence[Transcript]) -> list[str]:
    """For ``--list``: a row and the title of each."""
    lines = []
    for one in transcripts:
        needs = f" [needs {', '.join(sorted(one.needs))}]" if one.needs else ""
        lines += [_columns(one).rstrip(), f"    {one.title}{needs}"]
    return lines


def failure(outcome: Outcome) -> list[str]:
    """Which line of the transcript failed, how, and what was said last."""
    one = outcome.transcript
    lines = [
        f"{outcome.status.upper()} {one.name}: {one.title}",
        f"  {one.path}:{outcome.line}: {outcome.step}",
    ]
    if not outcome.line:
        lines.pop()
    return [*lines, f"  {outcome.message}", *(f"  {line}" for line in outcome.detail)]


def last_words(outcomes: Sequence[Outcome]) -> str:
    """The sum, and the verdict."""
    count = {status: sum(one.status == status for one in outcomes) for status in ("pass", "fail", "skip")}
    optional = sum(one.status == "fail" and not one.transcript.required for one in outcomes)
    spared = f" ({optional} of them optional)" if optional else ""
    verdict = "conforms" if passed(outcomes) else "does not conform"
    return f"{count['pass']} passed, {count['fail']} failed{spared}, {count['skip']} skipped: {verdict}"


def as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The run as one object: ``conforms``, counts, and every outcome."""
    return {
        "conforms": passed(outcomes),
        **{f"{word}": sum(one.status == status for one in outcomes) for word, status in _COUNTS},
        "transcripts": [
            {
                **_facts(one.transcript),
                "status": one.status,
                "seconds": round(one.seconds, 3),
                "message": one.message,
                "line": one.line or None,
                "step": one.step,
                "detail": list(one.detail),
            }
            for one in outcomes
        ],
    }


def listing_json(transcripts: Sequence[Transcript]) -> dict[str, Any]:
    return {
        "transcripts": [{**_facts(one), "needs": sorted(one.needs), "why": one.why} for one in transcripts]
    }


_COUNTS = (("passed", "pass"), ("failed", "fail"), ("skipped", "skip"))


def _facts(one: Transcript) -> dict[str, Any]:
    return {
        "name": one.name,
        "title": one.title,
        "file": str(one.path),
        "level": one.level,
        "seed": one.seed or None,
        "extension": one.extension or None,
    }


def _columns(one: Transcript) -> str:
    level = one.level if one.required else f"optional: {one.level}"
    stands = one.stands_for
    stands = stands if len(stands) <= _STANDS else f"{stands[: _STANDS - 3]}..."
    return f"{one.name:<{_NAME}} {level:<{_LEVEL}} {stands}"
