"""A JSON reader for untrusted lines: what it accepts, every JSON library reads alike.

The standard library's reader is lenient where that hurts: it takes NaN, 1e400 as infinity, the last of two
equal keys, lone surrogates, and recurses as deep as the text says. This one refuses all of them, and looks
at depth and number of values before anything is built. Its writer refuses what the reader would not take.
Usable alone.

Every line of every session passes here, so the common case is left to C: cheap upper bounds over the bytes
show that a bound cannot be broken, and only where they do not is a text looked at token by token.
"""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import Any

_MAX_INTEGER = 2**53  # beyond it, a reader that keeps numbers as doubles would change the value
_SHORT = 16  # an integer of fewer characters is below 2^53
_MAX_NUMBER_TEXT = 64  # no number within the bounds needs more; int() of a million digits is quadratic
_MAX_DEPTH = 16
_MAX_VALUES = 10_000
_NOT_SHAPE = bytes(set(range(256)) - set(b"[]{},"))
_STEP = [1 if byte in b"[{" else -1 if byte in b"]}" else 0 for byte in range(256)]
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # only an escape can smuggle one through valid UTF-8
_KEYS = frozenset({str})
_HARMLESS = frozenset({str, float, bool, type(None)})  # the writer looks at these itself


class JsonError(ValueError):
    """The text or value is not JSON as we accept it; the message says why, without quoting it."""


def loads(line: bytes, *, max_depth: int = _MAX_DEPTH, max_values: int = _MAX_VALUES) -> dict[str, Any]:
    """One JSON object from one line. Raises JsonError."""
    _check_shape(line, max_depth, max_values)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(f"invalid UTF-8 at byte {error.start}") from None
    try:
        value = _READER.decode(text)
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(f"invalid JSON: {error.args[0] if error.args else 'unreadable'}") from None
    if not isinstance(value, dict):
        raise JsonError("not a JSON object")
    if _ESCAPED_SURROGATE.search(line):
        check(value, max_depth=max_depth, max_values=max_values)
    return value


def dumps(value: dict[str, Any], *, max_depth: int = _MAX_DEPTH, max_values: int = _MAX_VALUES) -> bytes:
    """One line, without its newline. Raises JsonError for whatever ``loads`` would not take."""
    _check_tree(value, max_depth, max_values)
    try:
        return _WRITER.encode(value).encode("utf-8")
    except (TypeError, ValueError) as error:  # not JSON, not finite, or a lone surrogate
        check(value, max_depth=max_depth, max_values=max_values)
        raise JsonError(f"cannot be written as JSON: {type(error).__name__}") from None


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
    """Depth and number of values, without building anything. What stands in strings only makes it slower."""
    shape = line.translate(None, _NOT_SHAPE)
    opened = shape.count(b"{") + shape.count(b"[")
    if opened <= max_depth and opened + shape.count(b",") < max_values:
        return
    shape = _outside_strings(line, max_values).translate(None, _NOT_SHAPE)
    opened = shape.count(b"{") + shape.count(b"[")
    if opened + shape.count(b",") >= max_values:
        raise JsonError(f"more than {max_values} values")
    if opened > max_depth and max(accumulate(map(_STEP.__getitem__, shape))) > max_depth:
        raise JsonError(f"nested deeper than {max_depth}")


def _outside_strings(line: bytes, max_values: int) -> bytes:
    """What is not in a string. Where a line is not JSON this may be wrong, but not before that place."""
    if b"\\" in line:
        line = line.replace(b"\\\\", b"").replace(b'\\"', b"")
    if line.count(b'"') > 4 * max_values:  # two for each value and two for its key
        raise JsonError(f"more than {max_values} values")
    return b"".join(line.split(b'"')[::2])


def _check_tree(root: Any, max_depth: int, max_values: int) -> None:
    """What of ``check`` json's writer does not find itself: depth, count, integers, keys not strings."""
    stack = [(root, 1)]
    count = 1
    while stack:
        value, depth = stack.pop()
        if depth > max_depth:
            raise JsonError(f"nested deeper than {max_depth}")
        count += len(value) or 1
        if count > max_values:
            raise JsonError(f"more than {max_values} values")
        if isinstance(value, dict):
            if not _KEYS.issuperset(map(type, value)) and not all(isinstance(key, str) for key in value):
                raise JsonError("a key that is not a string")
            value = value.values()
        kinds = set(map(type, value))
        if kinds <= _HARMLESS:
            continue
        for item in value:
            if isinstance(item, dict | list | tuple):
                stack.append((item, depth + 1))
            elif isinstance(item, int):
                _check_scalar(item)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise JsonError("a key stands twice in one object")
    return result


def _constant(name: str) -> Any:
    raise JsonError(f"{name} is not JSON")


def _integer(text: str) -> int:
    if len(text) < _SHORT:
        return int(text)
    if len(text) > _MAX_NUMBER_TEXT or abs(value := int(text)) > _MAX_INTEGER:
        raise JsonError("an integer beyond 2^53")
    return value


def _real(text: str) -> float:
    if len(text) > _MAX_NUMBER_TEXT or not math.isfinite(value := float(text)):
        raise JsonError("a number too large or too long for a double")
    return value


# Made once: json.loads and json.dumps make one for every call that asks for anything. Values that hold
# themselves are found by their depth.
_READER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_constant=_constant, parse_int=_integer, parse_float=_real
)
_WRITER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False, check_circular=False)
