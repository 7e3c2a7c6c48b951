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
NAME = re.compile(r"\$\{([a-z][a-z0-9_]*)\}")
KINDS: dict[str, Callable[[Any], bool]] = {
    "ANY": lambda _: True,
    "STRING": lambda value: isinstance(value, str),
    "NUMBER": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "BOOL": lambda value: isinstance(value, bool),
    "OBJECT": lambda value: isinstance(value, dict),
    "LIST": lambda value: isinstance(value, list),
}


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

    return NAME.sub(one, text)


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
    return [] if value is not _MISSING and KINDS[node.value](value) else _differ(path, node.value, value)


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
