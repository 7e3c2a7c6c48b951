"""What an earlier erase left on a drive: found when the agent comes up, before anything else is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Left(Enum):
    """In what state a drive was found."""

    NOTHING = "nothing"
    SANITIZING = "sanitizing"
    SANITIZE_FAILED = "sanitize_failed"
    FORMATTING = "formatting"
    FORMAT_FAILED = "format_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """``kind``: "crypto", "block", "overwrite" or "format"; "" where the drive does not tell. ``fraction``:
    how far it is, None where it does not tell. ``exit_allowed``: whether a failed sanitize may be left
    without another one, None where it does not tell. ``evidence``: JSON values, raw answers in hex."""

    left: Left
    kind: str = ""
    fraction: float | None = None
    exit_allowed: bool | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return self.left in (Left.SANITIZING, Left.FORMATTING)

    @property
    def usable(self) -> bool:
        """Whether an erase may begin: what failed is what another one is for, what runs is waited for."""
        return not self.running

    def to_json(self) -> dict[str, Any]:
        return {"left": self.left.value, "kind": self.kind, "fraction": self.fraction,
                "exit_allowed": self.exit_allowed, **self.evidence}  # fmt: skip
