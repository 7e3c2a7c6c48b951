"""What is sent: a transcript's text with its names and repetitions filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from teeth.conformance.pattern import PatternError, fill

_REPEAT = re.compile(r'\$\{repeat (\d{1,7}) ("(?:[^"\\]|\\.)*")\}')
_PAD = re.compile(r"\$\{pad (\d{1,7})\}")
_NAME = re.compile(r"\$\{([a-z][a-z0-9_]*)\}")
_ANY = re.compile(r"\$\{[^}]*\}")
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|(.))", re.DOTALL)
_LETTERS = {"n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0", "\\": b"\\"}
MOST = 4 << 20  # bytes of one line: beyond every bound of the protocol, and no danger for this machine


class TemplateError(ValueError):
    """The text cannot be sent as it stands."""


def check_template(text: str) -> None:
    """Raises TemplateError for a ``${...}`` of no known form, or one that would be too long."""
    for found in _ANY.finditer(_REPEAT.sub("", text)):
        if not (_PAD.fullmatch(found[0]) or _NAME.fullmatch(found[0])):
            raise TemplateError(f'{found[0]} is none of ${{name}}, ${{pad N}}, ${{repeat N "text"}}')
    total = sum(int(found[1]) * len(_text(found[2])) for found in _REPEAT.finditer(text))
    if total > MOST or any(int(found[1]) > MOST for found in _PAD.finditer(text)):
        raise TemplateError(f"longer than {MOST} bytes")


def names_in(text: str) -> set[str]:
    """The names that ``text`` uses."""
    return set(_NAME.findall(text))


def expand(text: str, scope: Mapping[str, Any]) -> str:
    """Names, repetitions and padding filled in. ``${pad N}``: as many ``x`` as make the line N bytes."""
    try:
        text = fill(text, scope)
    except PatternError as error:
        raise TemplateError(str(error)) from None
    text = _REPEAT.sub(lambda found: int(found[1]) * _text(found[2]), text)
    if found := _PAD.search(text):
        rest = len((text[: found.start()] + text[found.end() :]).encode())
        if int(found[1]) < rest:
            raise TemplateError(f"the line is longer than {found[1]} bytes without its padding")
        text = f"{text[: found.start()]}{'x' * (int(found[1]) - rest)}{text[found.end() :]}"
    return text


def unescape(text: str) -> bytes:
    r"""The bytes of a raw line: ``\n \r \t \0 \\`` and ``\xHH``. Raises TemplateError for another escape."""
    data = b""
    position = 0
    for found in _ESCAPE.finditer(text):
        data += text[position : found.start()].encode()
        position = found.end()
        if found[1] is None and found[2] not in _LETTERS:
            raise TemplateError(f"{found[0]} is no escape of a raw line")
        data += bytes.fromhex(found[1]) if found[1] is not None else _LETTERS[found[2]]
    return data + text[position:].encode()


def _text(quoted: str) -> str:
    value = json.loads(quoted)
    assert isinstance(value, str)
    return value
