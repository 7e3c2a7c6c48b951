"""A task's params from a file and from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from teeth.errors import UsageError
from teeth_protocol.strictjson import JsonError, loads

_MOST = 1 << 20  # what the wire takes


def read_params(file: str | None, pairs: Sequence[str]) -> dict[str, Any]:
    """The object in ``file`` (``-``: standard input), then each ``NAME=JSON`` on top of it.

    Raises UsageError that says where the text is wrong.
    """
    params = {} if file is None else _load(file)
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--param {pair!r} is not NAME=JSON")
        params[name] = _value(name, text)
    return params


def _load(file: str) -> dict[str, Any]:
    where = "standard input" if file == "-" else file
    try:
        data = sys.stdin.buffer.read(_MOST + 1) if file == "-" else _read(Path(file))
    except OSError as error:
        raise UsageError(f"the params in {where} cannot be read: {error.strerror}") from error
    if len(data) > _MOST:
        raise UsageError(f"the params in {where} are longer than {_MOST} bytes")
    try:
        return loads(data)
    except JsonError as error:
        raise UsageError(f"the params in {where} are not a JSON object: {error}") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_MOST + 1)


def _value(name: str, text: str) -> Any:
    try:
        found = loads(b'{"value":' + text.encode() + b"}")
        (value,) = found.values()  # a text that closes the value and goes on is none
    except ValueError as error:
        hint = f"a text is written --param {name}='{json.dumps(text)}'"
        raise UsageError(f"--param {name}: {text!r} is not JSON", hint=hint) from error
    return value
