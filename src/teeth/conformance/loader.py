"""Golden transcripts: text files into steps. The language is in ``docs/conformance.md``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from teeth.conformance import pattern
from teeth.conformance.pattern import Node, PatternError
from teeth.conformance.reader import parse
from teeth.conformance.safety import check_harmless
from teeth.conformance.template import TemplateError, check_template, names_in, unescape
from teeth.conformance.transcript import SIDES, Action, Choice, Expect, Send, Step, Transcript
from teeth.errors import UsageError

# What a transcript may ask of the surroundings; without it, it is skipped.
NEEDS = frozenset({"plaintext", "tls", "ask", "slow"})
_HEADERS = ("title", "seed", "extension", "why", "level", "needs")
# Action -> the form of its words, and the sides that know it.
_ACTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "handshake": (r"", SIDES),
    "alive": (r"", SIDES),
    "quiet": (r"(\d+(?:\.\d+)?) s", SIDES),
    "never": (r"(\d+(?:\.\d+)?) s ([a-z_.]+)", SIDES),
    "wait": (r"(\d+(?:\.\d+)?) s", SIDES),
    "split": (r"(\d{1,4})", SIDES),
    "drop": (r"", SIDES),
    "mute": (r"", SIDES),
    "connect": (r"([a-z]+)", ("endpoint",)),
    "on": (r"([a-z]+)", ("endpoint",)),
    "ask": (r"([a-z_.]+) (\{.*\})", ("endpoint",)),
    "accept": (r"", ("agent",)),
}
MOST_WAITING = 120.0  # of one step; the longest rule of the protocol takes 54 s
_WITHIN = re.compile(r"within (\d+(?:\.\d+)?) s\Z")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*\Z")


def load_folder(folder: Path, side: str) -> list[Transcript]:
    """Every transcript for one side, by name. Raises UsageError naming file and line."""
    if not (folder / side).is_dir():
        raise UsageError(f"no transcripts in {folder / side}", hint="name their folder with --transcripts")
    found = [load(path, side) for path in sorted((folder / side).glob("*.txt"))]
    if not found:
        raise UsageError(f"no transcripts in {folder / side}", hint="name their folder with --transcripts")
    return found


def load(path: Path, side: str) -> Transcript:
    """One transcript. Raises UsageError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    return _Loader(path, side).load(lines)


class _Loader:
    def __init__(self, path: Path, side: str) -> None:
        self._path = path
        self._side = side
        self._headers: dict[str, str] = {}
        self._steps: list[Step] = []
        self._within: float | None = None

    def load(self, lines: Iterable[str]) -> Transcript:
        number = 0
        for number, line in enumerate(lines, 1):
            try:
                self._line(number, line.rstrip())
            except (PatternError, TemplateError, ValueError) as error:
                raise self._error(number, str(error)) from None
        if not self._steps:
            raise self._error(number, "it has no step")
        needs = frozenset(word.strip() for word in self._headers.get("needs", "").split(",") if word.strip())
        self._check_headers(needs)
        self._check_names()
        return Transcript(
            name=self._path.stem, side=self._side, path=self._path, title=self._headers["title"],
            why=self._headers["why"], level=_level(self._headers["level"]),
            seed=self._headers.get("seed", "").strip('"'), extension=self._headers.get("extension", ""),
            needs=needs, steps=tuple(self._steps),
        )  # fmt: skip

    def _line(self, number: int, line: str) -> None:
        if line.startswith("#"):
            self._header(line[1:].strip())
        elif found := _WITHIN.match(line):
            self._within = _bounded(found[1])
        elif line.startswith(">> "):
            unescape(line[3:])
            self._send(number, line, line[3:], raw=True)
        elif line.startswith("> "):
            self._send(number, line, line[2:], raw=False)
        elif line.startswith("< "):
            self._steps.append(
                Expect(line=number, text=line, choices=(_choice(line[2:]),), within=self._within)
            )
            self._within = None
        elif line.startswith("| "):
            self._alternative(line)
        elif line.startswith("! "):
            self._action(number, line)
        elif line:
            raise ValueError(f"a step begins with one of > >> < | ! # within, not with {line[:20]!r}")

    def _header(self, text: str) -> None:
        key, colon, value = text.partition(":")
        if not colon or key not in _HEADERS or self._steps:
            return  # a plain comment
        if key in self._headers:
            raise ValueError(f"{key} stands twice")
        self._headers[key] = value.strip()

    def _send(self, number: int, line: str, template: str, *, raw: bool) -> None:
        check_template(template)
        if self._side == "agent":
            check_harmless(template)
        self._steps.append(Send(line=number, text=line, template=template, raw=raw))

    def _alternative(self, line: str) -> None:
        last = self._steps[-1] if self._steps else None
        if not isinstance(last, Expect):
            raise ValueError("an alternative (|) without an expectation (<) before it")
        text = line[2:].strip()
        skip = text.startswith("skip ")
        choice = _choice(text.removeprefix("skip "), skip=skip)
        self._steps[-1] = Expect(
            line=last.line, text=last.text, choices=(*last.choices, choice), within=last.within
        )

    def _action(self, number: int, line: str) -> None:
        word, _, rest = line[2:].strip().partition(" ")
        form, sides = _ACTIONS.get(word, ("", ()))
        if self._side not in sides:
            raise ValueError(f"there is no action {word!r} in transcripts for an {self._side}")
        found = re.fullmatch(form, rest.strip())
        if found is None:
            raise ValueError(f"! {word}: its words must have the form {form}")
        if word in ("quiet", "never", "wait"):
            _bounded(found[1])
        if word == "ask":
            check_template(found[2])
        self._steps.append(Action(line=number, text=line, word=word, arguments=found.groups()))

    def _check_headers(self, needs: frozenset[str]) -> None:
        if not _NAME.match(self._path.stem):
            raise self._error(1, "a transcript's name is of a-z 0-9 -")
        for key in ("title", "why", "level"):
            if not self._headers.get(key):
                raise self._error(1, f"there is no line '# {key}: ...'")
        if bool(self._headers.get("seed")) == bool(self._headers.get("extension")):
            raise self._error(1, "it needs one of '# seed: ...' and '# extension: ...'")
        if not needs <= NEEDS:
            raise self._error(1, f"needs: {', '.join(sorted(needs - NEEDS))} is none of {sorted(NEEDS)}")
        try:
            _level(self._headers["level"])
        except ValueError as error:
            raise self._error(1, str(error)) from None
        if (
            any(isinstance(step, Action) and step.word == "ask" for step in self._steps)
            and "ask" not in needs
        ):
            raise self._error(1, "it asks, so it needs '# needs: ask'")

    def _check_names(self) -> None:
        known = {"node", "run", "boot"}
        for step in self._steps:
            missing = (_used(step)) - known
            if isinstance(step, Expect):
                for choice in step.choices:
                    known |= pattern.captures(choice.node) if choice.node is not None else set()
                missing -= known  # a name may be set and used within one pattern
            if missing:
                raise self._error(step.line, f"${{{min(missing)}}} is not known here")

    def _error(self, number: int, message: str) -> UsageError:
        return UsageError(f"{self._path}:{max(1, number)}: {message}")


def _used(step: Step) -> set[str]:
    if isinstance(step, Send):
        return names_in(step.template)
    if isinstance(step, Action):
        return {name for argument in step.arguments for name in names_in(argument or "")}
    return {name for choice in step.choices if choice.node is not None for name in _names(choice.node)}


def _names(node: Node) -> Iterator[str]:
    if node.kind == "name":
        yield node.value
    elif isinstance(node.value, str) and node.kind in ("literal", "regex"):
        yield from names_in(node.value)
    for child in (*(child for _, child in node.members), *node.items):
        yield from _names(child)


def _choice(text: str, *, skip: bool = False) -> Choice:
    text = text.strip()
    if text in ("fatal", "close"):
        return Choice(word=text, skip=skip)
    node = parse(text)
    if node.kind != "object":
        raise PatternError("a message is an object: {...}")
    return Choice(word="message", node=node, skip=skip)


def _bounded(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= MOST_WAITING:
        raise ValueError(f"a wait is more than 0 and at most {MOST_WAITING:g} s")
    return seconds


def _level(text: str) -> str:
    if text == "required":
        return text
    found = re.fullmatch(r"optional \(capability ([a-z_]+)\)", text)
    if found is None:
        raise ValueError(f"level is 'required' or 'optional (capability NAME)', not {json.dumps(text)}")
    return found[1]
