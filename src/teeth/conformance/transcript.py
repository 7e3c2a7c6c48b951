"""Golden transcripts: text files into steps. The language is in ``docs/conformance.md``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teeth.conformance.pattern import Node, captures, member

SIDES = ("endpoint", "agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """What we say. ``raw``: bytes with escapes, without a newline of their own; else one line."""

    line: int
    text: str
    template: str
    raw: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One way in which an expectation is met. ``word`` is ``message``, ``fatal`` or ``close``."""

    word: str
    node: Node | None = None
    skip: bool = False

    @property
    def answers(self) -> bool:
        """Whether it is a command that the transcript answers by itself: it captures its id."""
        identity = member(self.node, "id") if self.node is not None and member(self.node, "method") else None
        return identity is not None and bool(captures(identity))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """The first message that meets one of ``choices``, within so many seconds (None: the kit's default)."""

    line: int
    text: str
    choices: tuple[Choice, ...]
    within: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    line: int
    text: str
    word: str
    arguments: tuple[str, ...]


Step = Send | Expect | Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """``level`` is "required", or the capability it is a part of. One of ``seed``, ``extension`` is set."""

    name: str
    side: str
    path: Path
    title: str
    why: str
    level: str
    seed: str = ""
    extension: str = ""
    needs: frozenset[str] = frozenset()
    steps: tuple[Step, ...] = ()

    @property
    def required(self) -> bool:
        return self.level == "required"

    @property
    def stands_for(self) -> str:
        """The seed's line, or the section of the extension."""
        return f'"{self.seed}"' if self.seed else self.extension
