"""Choosing the one disk that an image goes on."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from teeth_agent.errors import AgentError
from teeth_agent.image.params import Hint

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "contains": operator.contains,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A disk as the hints see it; ``size`` in bytes. None: the disk does not say, and no hint matches it."""

    identity: str
    path: str
    name: str
    size: int
    serial: str | None
    wwn: str | None
    model: str | None
    rotational: bool | None
    by_path: str | None
    hctl: str | None
    in_use: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} (serial {self.serial or '-'}, {self.size} bytes, {self.model or 'no model'})"


def matches(disk: Candidate, hint: Hint) -> bool:
    """Whether one hint holds. WWNs are compared without their ``0x`` and in either case."""
    have, want = getattr(disk, hint.key), hint.value
    if have is None:
        return False
    if isinstance(have, str) and isinstance(want, str):
        have, want = _plain(hint.key, have), _plain(hint.key, want)
    return _OPERATORS[hint.op](have, want)


def choose(
    disks: Sequence[Candidate], hints: Sequence[Hint], skip: Sequence[Sequence[Hint]] = ()
) -> Candidate:
    """The only disk for which all hints hold and no list of ``skip`` does.

    Raises AgentError(root_disk_ambiguous | root_disk_missing) listing the candidates.
    """
    skipped = [disk for disk in disks if any(_fits(disk, one) for one in skip)]
    left = [disk for disk in disks if disk not in skipped]
    found = [disk for disk in left if _fits(disk, hints)]
    if len(found) == 1:
        return found[0]
    asked = ", ".join(str(hint) for hint in hints)
    if found:
        raise AgentError(f"{len(found)} disks match {asked}: {_listed(found)}", code="root_disk_ambiguous")
    passed = f"; skipped as asked: {_listed(skipped)}" if skipped else ""
    raise AgentError(
        f"no disk matches {asked}; disks here: {_listed(left) or 'none'}{passed}", code="root_disk_missing"
    )


def _fits(disk: Candidate, hints: Sequence[Hint]) -> bool:
    return all(matches(disk, hint) for hint in hints)


def _listed(disks: Sequence[Candidate]) -> str:
    return ", ".join(str(disk) for disk in disks)


def _plain(key: str, text: str) -> str:
    text = text.strip()
    if key == "name":
        return text.removeprefix("/dev/")
    if key == "by_path":
        return text.removeprefix("/dev/disk/by-path/")
    return text.lower().removeprefix("0x") if key == "wwn" else text
