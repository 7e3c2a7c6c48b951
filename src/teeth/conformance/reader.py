"""A pattern's text, read into the nodes of ``teeth.conformance.pattern``."""

from __future__ import annotations

import json
import re
from typing import Any

from teeth.conformance.pattern import KINDS, NAME, Node, PatternError

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<name>\$\{[a-z][a-z0-9_]*\})
    |(?P<regex>/(?:[^/\\]|\\.)*/)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<dots>\.\.\.)|(?P<mark>[\[\]{}:,|]))""",
    re.VERBOSE,
)
_LITERALS = {"true": True, "false": False, "null": None}


def parse(text: str) -> Node:
    """Raises PatternError."""
    reader = _Reader(text)
    node = reader.value()
    if reader.peek() is not None:
        raise PatternError(f"{reader.peek()!r} stands behind the end of the pattern")
    return node


class _Reader:
    """A pattern's text, token by token."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        self._next = 0
        text, position = text.rstrip(), 0
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None or found.lastgroup is None:
                raise PatternError(f"unreadable at {text[position : position + 20]!r}")
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            position = found.end()

    def peek(self) -> str | None:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else None

    def take(self) -> tuple[str, str]:
        if self._next >= len(self._tokens):
            raise PatternError("the pattern ends too early")
        self._next += 1
        return self._tokens[self._next - 1]

    def expect(self, mark: str) -> None:
        if (came := self.take()[1]) != mark:
            raise PatternError(f"expected {mark!r}, found {came!r}")

    def skip(self, mark: str) -> bool:
        if self.peek() != mark:
            return False
        self._next += 1
        return True

    def value(self) -> Node:
        choices = [self._one()]
        while self.skip("|"):
            choices.append(self._one())
        node = choices[0] if len(choices) == 1 else Node(kind="either", items=tuple(choices))
        if not self.skip("as"):
            return node
        kind, name = self.take()
        if kind != "word":
            raise PatternError(f"{name!r} is not a name")
        return Node(kind="either", items=(node,), capture=name)

    def _one(self) -> Node:
        kind, text = self.take()
        match kind, text:
            case "string", _:
                return Node(kind="literal", value=_json(text))
            case "number", _:
                return Node(kind="literal", value=_json(text))
            case "name", _:
                return Node(kind="name", value=text[2:-1])
            case "regex", _:
                return Node(kind="regex", value=_regex_text(text[1:-1].replace("\\/", "/")))
            case "word", "ABSENT":
                return Node(kind="absent")
            case "word", "EXACT":
                return Node(kind="exact", items=(self._one(),))
            case "word", _ if text in KINDS:
                return Node(kind="word", value=text)
            case "word", _ if text in _LITERALS:
                return Node(kind="literal", value=_LITERALS[text])
            case "mark", "{":
                return self._members()
            case "mark", "[":
                return self._items()
        raise PatternError(f"{text!r} is not a value")

    def _members(self) -> Node:
        members: list[tuple[str, Node]] = []
        if self.skip("}"):
            return Node(kind="object")
        while True:
            kind, key = self.take()
            if kind != "string":
                raise PatternError(f"{key!r} is not a member's name")
            self.expect(":")
            members.append((_json(key), self.value()))
            if self.skip("}"):
                return Node(kind="object", members=tuple(members))
            self.expect(",")

    def _items(self) -> Node:
        start = self.skip("...") and (self.skip(",") or self.peek() == "]")
        items: list[Node] = []
        end = False
        while not self.skip("]"):
            if self.skip("..."):
                end = True
                self.expect("]")
                break
            items.append(self.value())
            if not self.skip(","):
                self.expect("]")
                break
        return Node(kind="list", items=tuple(items), open_start=start, open_end=end or (start and not items))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise PatternError(f"{text}: {error}") from None


def _regex_text(text: str) -> str:
    try:
        re.compile(NAME.sub("x", text))
    except re.error as error:
        raise PatternError(f"/{text}/: {error}") from None
    return text
