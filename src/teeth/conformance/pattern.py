"""What an answer must look like: JSON with a few words in it.

    {"id": "p1", "result": {"uptime": NUMBER, "tasks": [..., {"task_id": "${task}"}, ...]}}

An object matches when every member named here matches; others may stand beside them. ``docs/conformance.md``
lists the words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Scope = dict[str, Any]
Differences = list[str]
_MISSING: Any = object()
_NAME = re.compile(r"\$\{([a-z][a-z0-9_]*)\}")
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<name>\$\{[a-z][a-z0-9_]*\})
    |(?P<regex>/(?:[^/\\]|\\.)*/)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<dots>\.\.\.)|(?P<mark>[\[\]{}:,|]))""",
    re.VERBOSE,
)
_KINDS: dict[str, Callable[[Any], bool]] = {
    "ANY": lambda _: True,
    "STRING": lambda value: isinstance(value, str),
    "NUMBER": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "BOOL": lambda value: isinstance(value, bool),
    "OBJECT": lambda value: isinstance(value, dict),
    "LIST": lambda value: isinstance(value, list),
}
_LITERALS = {"true": True, "false": False, "null": None}


class PatternError(ValueError):
    """The pattern cannot be read; the message says what stands wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One place of a pattern. ``kind`` says which of the other members count."""

    kind: str  # literal, word, regex, name, absent, object, list, either, exact
    value: Any = None
    members: tuple[tuple[str, Node], ...] = ()
    items: tuple[Node, ...] = ()
    open_start: bool = False
    open_end: bool = False
    capture: str = ""


def parse(text: str) -> Node:
    """Raises PatternError."""
    reader = _Reader(text)
    node = reader.value()
    if reader.peek() is not None:
        raise PatternError(f"{reader.peek()!r} stands behind the end of the pattern")
    return node


def captures(node: Node) -> set[str]:
    """The names that a match would set."""
    inner = [*(child for _, child in node.members), *node.items]
    return {name for child in inner for name in captures(child)} | ({node.capture} if node.capture else set())


def member(node: Node, name: str) -> Node | None:
    """The pattern of one member of an object pattern."""
    return next((child for key, child in node.members if key == name), None)


def match(node: Node, value: Any, scope: Scope, path: str = "") -> Differences:
    """Where ``value`` differs; empty when it matches. Only then are the names of ``as`` set in ``scope``."""
    found: Scope = {}
    differences = _match(node, value, {**scope}, found, path)
    if not differences:
        scope.update(found)
    return differences


def fill(text: str, scope: Mapping[str, Any]) -> str:
    """``text`` with every ``${name}`` replaced by its string."""

    def one(found: re.Match[str]) -> str:
        if found[1] not in scope:
            raise PatternError(f"${{{found[1]}}} is not known here")
        value = scope[found[1]]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return _NAME.sub(one, text)


def show(value: Any, most: int = 200) -> str:
    """A value as a person reads it, bounded."""
    if value is _MISSING:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def _match(node: Node, value: Any, scope: Scope, found: Scope, path: str) -> Differences:
    differences = _MATCHERS[node.kind](node, value, scope, found, path)
    if node.capture and not differences:
        found[node.capture] = scope[node.capture] = value
    return differences


def _literal(node: Node, value: Any, scope: Scope, _found: Scope, path: str) -> Differences:
    expected = fill(node.value, scope) if isinstance(node.value, str) else node.value
    return [] if _equal(expected, value) else _differ(path, show(expected), value)


def _word(node: Node, value: Any, _scope: Scope, _found: Scope, path: str) -> Differences:
    return [] if value is not _MISSING and _KINDS[node.value](value) else _differ(path, node.value, value)


def _regex(node: Node, value: Any, scope: Scope, _found: Scope, path: str) -> Differences:
    escaped = {name: re.escape(known) for name, known in scope.items() if isinstance(known, str)}
    pattern = fill(node.value, escaped)
    if isinstance(value, str) and re.search(pattern, value):
        return []
    return _differ(path, f"/{pattern}/", value)


def _name(node: Node, value: Any, scope: Scope, _found: Scope, path: str) -> Differences:
    if node.value not in scope:
        raise PatternError(f"${{{node.value}}} is not known here")
    expected = scope[node.value]
    # To the letter: the same members in the same order, the same numbers written the same way.
    same = value is not _MISSING and json.dumps(expected) == json.dumps(value)
    return [] if same else _differ(path, show(expected), value)


def _absent(_node: Node, value: Any, _scope: Scope, _found: Scope, path: str) -> Differences:
    return [] if value is _MISSING else _differ(path, "nothing", value)


def _object(node: Node, value: Any, scope: Scope, found: Scope, path: str) -> Differences:
    if not isinstance(value, dict):
        return _differ(path, "an object", value)
    differences: Differences = []
    for key, child in node.members:
        differences += _match(child, value.get(key, _MISSING), scope, found, f"{path}.{key}")
    return differences


def _exact(node: Node, value: Any, scope: Scope, found: Scope, path: str) -> Differences:
    inner = node.items[0]
    differences = _match(inner, value, scope, found, path)
    if isinstance(value, dict) and not differences:
        known = {key for key, _ in inner.members}
        return [f"{path}.{key}: a member that must not be there" for key in value if key not in known]
    return differences


def _list(node: Node, value: Any, scope: Scope, found: Scope, path: str) -> Differences:
    if not isinstance(value, list):
        return _differ(path, "a list", value)
    length = len(node.items)
    if not (node.open_start or node.open_end) and len(value) != length:
        return _differ(path, f"{length} items", value)
    starts = range(len(value) - length + 1) if node.open_start else range(1)
    if not node.open_end:
        starts = range(max(0, len(value) - length), len(value) - length + 1)
    first: Differences | None = None
    for start in starts:
        part = value[start : start + length]
        if len(part) < length:
            continue
        differences = [
            line
            for index, child in enumerate(node.items)
            for line in _match(child, part[index], scope, found, f"{path}[{start + index}]")
        ]
        if not differences:
            return []
        first = first or differences
    return first or _differ(path, f"at least {length} items", value)


def _either(node: Node, value: Any, scope: Scope, found: Scope, path: str) -> Differences:
    tried = [_match(child, value, scope, found, path) for child in node.items]
    return [] if not all(tried) else [" or ".join(lines[0] for lines in tried)]


_MATCHERS = {
    "literal": _literal, "word": _word, "regex": _regex, "name": _name, "absent": _absent,
    "object": _object, "exact": _exact, "list": _list, "either": _either,
}  # fmt: skip


def _equal(expected: Any, value: Any) -> bool:
    if isinstance(expected, bool) or isinstance(value, bool):
        return expected is value
    return bool(expected == value)


def _differ(path: str, expected: str, value: Any) -> Differences:
    return [f"{path or 'the message'}: expected {expected}, came {show(value)}"]


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
            case "word", _ if text in _KINDS:
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
        re.compile(_NAME.sub("x", text))
    except re.error as error:
        raise PatternError(f"/{text}/: {error}") from None
    return text
