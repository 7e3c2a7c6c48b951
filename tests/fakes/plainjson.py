"""teeth_protocol.strictjson without its short cuts: every token and every number looked at, one by one.

What the quick one is compared with: by a test in what it takes, by bench/strictjson.py in its speed.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from teeth_protocol.strictjson import JsonError

_MAX_INTEGER = 2**53  # beyond it, a reader that keeps numbers as doubles would change the value
_MAX_NUMBER_TEXT = 64  # no number within the bounds needs more; int() of a million digits is quadratic
_MAX_DEPTH = 16
_MAX_VALUES = 10_000
# What shapes a document, strings as a whole so that brackets inside them do not count. Possessive: a string
# never gives back what it took, so a megabyte of backslashes costs no memory. An unended string is left to
# the parser to refuse.
_SHAPE = re.compile(rb'[\[\]{},]|"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


def loads(line: bytes, *, max_depth: int = _MAX_DEPTH, max_values: int = _MAX_VALUES) -> dict[str, Any]:
    """One JSON object from one line. Raises JsonError."""
    _check_shape(line, max_depth, max_values)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(f"invalid UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(
            text, object_pairs_hook=_pairs, parse_constant=_constant, parse_int=_integer, parse_float=_real
        )
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(f"invalid JSON: {error.args[0] if error.args else 'unreadable'}") from None
    if not isinstance(value, dict):
        raise JsonError("not a JSON object")
    if "\\u" in text:  # only an escape can smuggle a surrogate through valid UTF-8
        check(value, max_depth=max_depth, max_values=max_values)
    return value


def dumps(value: dict[str, Any], *, max_depth: int = _MAX_DEPTH, max_values: int = _MAX_VALUES) -> bytes:
    """One line, without its newline. Raises JsonError for whatever ``loads`` would not take."""
    check(value, max_depth=max_depth, max_values=max_values)
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode("utf-8")


def check(root: Any, *, max_depth: int = _MAX_DEPTH, max_values: int = _MAX_VALUES) -> None:
    """Raises JsonError unless ``root`` is a JSON value within the bounds."""
    stack = [(root, 1)]
    count = 1
    while stack:
        value, depth = stack.pop()
        if not isinstance(value, dict | list | tuple):
            _check_scalar(value)
            continue
        if depth > max_depth:
            raise JsonError(f"nested deeper than {max_depth}")
        count += max(1, len(value))  # as _check_shape counts
        if count > max_values:
            raise JsonError(f"more than {max_values} values")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise JsonError("a key that is not a string")
                _check_scalar(key)
            stack += [(item, depth + 1) for item in value.values()]
        else:
            stack += [(item, depth + 1) for item in value]


def _check_scalar(value: Any) -> None:
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise JsonError("a lone surrogate in a string")
    elif isinstance(value, int):  # bool is one too
        if abs(value) > _MAX_INTEGER:
            raise JsonError("an integer beyond 2^53")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise JsonError("a number that is not finite")
    elif value is not None:
        raise JsonError(f"a {type(value).__name__} is not JSON")


def _check_shape(line: bytes, max_depth: int, max_values: int) -> None:
    """Depth and number of values by one pass over the bytes, without building anything."""
    depth = 0
    values = 1
    for match in _SHAPE.finditer(line):
        token = line[match.start()]
        if token in b"{[":
            depth += 1
            values += 1
            if depth > max_depth:
                raise JsonError(f"nested deeper than {max_depth}")
        elif token in b"}]":
            depth -= 1
        elif token == 0x2C:
            values += 1
        if values > max_values:
            raise JsonError(f"more than {max_values} values")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise JsonError("a key stands twice in one object")
    return result


def _constant(name: str) -> Any:
    raise JsonError(f"{name} is not JSON")


def _integer(text: str) -> int:
    if len(text) > _MAX_NUMBER_TEXT or abs(value := int(text)) > _MAX_INTEGER:
        raise JsonError("an integer beyond 2^53")
    return value


def _real(text: str) -> float:
    if len(text) > _MAX_NUMBER_TEXT or not math.isfinite(value := float(text)):
        raise JsonError("a number too large or too long for a double")
    return value
