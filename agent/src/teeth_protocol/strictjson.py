"""A JSON reader for untrusted lines: what it accepts, every JSON library reads alike.

The standard library's reader is lenient where that hurts: it takes NaN, 1e400 as infinity, the last of two
equal keys, lone surrogates, and recurses as deep as the text says. This one refuses all of them, and looks
at depth and number of values before anything is built. Usable alone.
"""

from __future__ import annotations

import json
import math
from typing import Any

_MAX_INTEGER = 2**53  # beyond it, a reader that keeps numbers as doubles would change the value
_MAX_NUMBER_TEXT = 64  # no number within the bounds needs more; int() of a million digits is quadratic


class JsonError(ValueError):
    """The text is not JSON as we accept it; the message says why, without quoting the text."""


def loads(line: bytes, *, max_depth: int = 16, max_values: int = 10_000) -> dict[str, Any]:
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
    if "\\u" in text or "\\U" in text:  # only an escape can smuggle a surrogate through valid UTF-8
        _check_surrogates(value)
    return value


def dumps(value: dict[str, Any]) -> bytes:
    """One line, without its newline. Raises ValueError for NaN, infinities and lone surrogates."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode("utf-8")


def _check_shape(line: bytes, max_depth: int, max_values: int) -> None:
    """Depth and number of values by one pass over the bytes, without building anything."""
    depth = 0
    values = 1
    in_string = False
    escaped = False
    for byte in line:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in (0x7B, 0x5B):
            depth += 1
            values += 1
            if depth > max_depth:
                raise JsonError(f"nested deeper than {max_depth}")
        elif byte in (0x7D, 0x5D):
            depth -= 1
        elif byte == 0x2C:
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
        raise JsonError("a number too large for a double")
    return value


def _check_surrogates(root: Any) -> None:
    stack = [root]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            if any(0xD800 <= ord(letter) <= 0xDFFF for letter in value):
                raise JsonError("a lone surrogate in a string")
        elif isinstance(value, dict):
            stack.extend(value.keys())
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
