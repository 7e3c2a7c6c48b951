"""The kit's own reading of one line: what protocol.md allows, and nothing else."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from teeth.conformance.wrong import Wrong

MAX_DEPTH = 16
MAX_VALUES = 10_000
MAX_INTEGER = 2**53
ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = ("method", "result", "error")


def read_line(line: bytes) -> dict[str, Any]:
    """The JSON object that a peer sent. Raises Wrong when it is none that a strict reader takes."""
    try:
        text = line.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise Wrong("it sent a line that is not UTF-8") from None
    except RecursionError:
        raise Wrong(f"it sent a line that is nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise Wrong(f"it sent a line that is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Wrong("it sent a line that is not a JSON object")
    _check_values(value)
    return value


def kind_of(message: dict[str, Any]) -> str:
    """``method``, ``result``, ``error`` or ``fatal_error``. Raises Wrong for an envelope that is broken."""
    if message.get("version", "v1") != "v1":
        raise Wrong('it sent a message whose version is not "v1"')
    if "fatal_error" in message:
        if not isinstance(message["fatal_error"], str) or not message["fatal_error"]:
            raise Wrong("it sent a fatal_error that is not a text")
        return "fatal_error"
    kinds = [kind for kind in _KINDS if kind in message]
    if len(kinds) != 1:
        raise Wrong(f"it sent a message with {' and '.join(kinds) or 'none'} of method, result and error")
    if not isinstance(message.get("id"), str) or not ID.match(message["id"]):
        raise Wrong("it sent a message whose id is not 1-128 of A-Z a-z 0-9 . _ : -")
    _check_body(kinds[0], message)
    return kinds[0]


def _check_body(kind: str, message: dict[str, Any]) -> None:
    body = message[kind]
    if kind == "method":
        if not isinstance(body, str) or not body:
            raise Wrong("it sent a command whose method is not a text")
        if not isinstance(message.get("params"), dict | None):
            raise Wrong("it sent a command whose params are not an object")
    elif not isinstance(body, dict):
        raise Wrong(f"it sent a response whose {kind} is not an object")
    elif kind == "error" and (not isinstance(body.get("msg"), str) or not body["msg"]):
        raise Wrong("it sent an error without a msg that a person can read")


def _check_values(root: dict[str, Any]) -> None:
    stack: list[tuple[Any, int]] = [(root, 1)]
    count = 0
    while stack:
        value, depth = stack.pop()
        count += 1
        if count > MAX_VALUES:
            raise Wrong(f"it sent more than {MAX_VALUES} values in one message")
        if isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise Wrong(f"it sent a message nested deeper than {MAX_DEPTH}")
            children = [*value, *value.values()] if isinstance(value, dict) else value
            stack += [(child, depth + 1) for child in children]
        else:
            _check_scalar(value)


def _check_scalar(value: object) -> None:
    if isinstance(value, str) and _SURROGATE.search(value):
        raise Wrong("it sent a lone surrogate")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise Wrong("it sent an integer beyond 2^53")
    if isinstance(value, float) and not math.isfinite(value):
        raise Wrong("it sent a number that is not finite")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Wrong("it sent an object with a key twice")
    return value


def _no_constant(name: str) -> Any:
    raise Wrong(f"it sent {name}, which is not JSON")
