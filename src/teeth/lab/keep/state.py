"""The folder that knows what is up: one folder for each machine and network, with its keeper's identity."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teeth.errors import TeethError, UsageError
from teeth.lab.keep.control import GoneError, ask
from teeth.lab.keep.processes import ProcessId, from_json, lives

STATE = "state.json"
CONTROL = "control"
DESCRIPTION = "description.json"
_NETWORK = "net."  # in front of a network's folder; no machine's name has a dot
_NAME = re.compile(r"(net\.)?[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A machine or a network that some keeper holds, or held until it was killed."""

    folder: Path
    kind: str  # "machine" or "network"
    name: str
    keeper: ProcessId
    facts: Mapping[str, Any]

    @property
    def alive(self) -> bool:
        return lives(self.keeper)

    def ask(self, request: Mapping[str, Any], *, within: float = _PATIENCE) -> dict[str, Any]:
        """See teeth.lab.keep.control.ask."""
        if not self.alive:
            raise TeethError(
                f"{self.kind} {self.name} is dead: its keeper has been killed",
                hint=f"teeth lab {'net ' if self.kind == 'network' else ''}down {self.name} clears it away",
            )
        try:
            return ask(self.folder / CONTROL, request, within=within)
        except GoneError as error:
            raise TeethError(f"{self.kind} {self.name} does not answer: {error.message}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class LabFolder:
    """``root`` holds the state of everything that ``teeth lab up`` started there."""

    root: Path

    def folder(self, kind: str, name: str) -> Path:
        return self.root / (name if kind == "machine" else _NETWORK + name)

    def kept(self) -> list[Kept]:
        """All that is up or dead here, machines first, by name."""
        found = [kept for folder in self._folders() if (kept := read(folder)) is not None]
        return sorted(found, key=lambda kept: (kept.kind, kept.name))

    def _folders(self) -> list[Path]:
        return [path for path in self.root.iterdir() if path.is_dir()] if self.root.is_dir() else []

    def find(self, kind: str, name: str) -> Kept:
        """The machine or network ``name``; UsageError, which lists those that there are."""
        kept = read(self.folder(kind, name)) if _NAME.fullmatch(name) else None
        if kept is None:
            known = ", ".join(one.name for one in self.kept() if one.kind == kind)
            raise UsageError(
                f"there is no {kind} {name}", hint=f"there are: {known}" if known else f"no {kind} is up"
            )
        return kept


def read(folder: Path) -> Kept | None:
    """What a folder's state file says; None without one that can be read."""
    try:
        facts = json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        return None
    keeper = from_json(facts.get("keeper")) if isinstance(facts, dict) else None
    if keeper is None:
        return None
    return Kept(
        folder=folder, kind=str(facts.get("kind")), name=str(facts.get("name")), keeper=keeper, facts=facts
    )


def write(folder: Path, name: str, value: Mapping[str, Any]) -> None:
    """A JSON file in ``folder``, whole or not at all, for our eyes only."""
    fresh = folder / f"{name}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as stream:  # noqa: PTH123 - a descriptor
        json.dump(value, stream, indent=2)
    fresh.replace(folder / name)
