"""The registry of all lies and faults, by the name that a user says."""

from __future__ import annotations

import difflib
import inspect

from teeth.errors import UsageError
from teeth.lab.drives.disk import Behaviour
from teeth.lab.drives.faults import FAULTS
from teeth.lab.drives.lies import LIES

BEHAVIOURS: dict[str, type[Behaviour]] = {kind.name: kind for kind in (*LIES, *FAULTS)}


def explain(kind: type[Behaviour]) -> str:
    """One line on what it does: its docstring."""
    return " ".join(inspect.cleandoc(kind.__doc__ or "").split())


def make(text: str) -> Behaviour:
    """The behaviour that ``NAME`` or ``NAME:ARGUMENT`` says. Raises UsageError for what there is not."""
    name, _, argument = text.partition(":")
    kind = BEHAVIOURS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, BEHAVIOURS, n=1)
        raise UsageError(
            f"there is no lie or fault called {name!r}",
            hint=f"did you mean {near[0]}?" if near else "teeth lab drive faults lists them",
        )
    return kind(argument)
