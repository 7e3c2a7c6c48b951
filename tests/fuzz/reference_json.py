"""A slow reader of the wire's JSON, written from RFC 8259 and the protocol's page alone, to compare with.

It descends by recursion, letter by letter, and shares nothing with the reader that it checks.
"""

from __future__ import annotations

import math
from typing import Any

_SPACE = " \t\r\n"
_DIGITS = "0123456789"
_HEX = "0123456789abcdefABCDEF"
_ESCAPES = {
    '"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t",
}  # fmt: skip
_LONGEST_NUMBER = 64


class Refused(Exception):
    """Not JSON as the wire has it."""


def read(data: bytes, *, depth: int = 16, values: int = 10_000) -> dict[str, Any]:
    """The object in ``data``. Raises Refused."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("UTF-8") from None
    reader = _Reader(text, depth, values)
    value = reader.value(1)
    reader.space()
    if reader.at != len(text) or not isinstance(value, dict):
        raise Refused("not one object")
    return value


class _Reader:
    def __init__(self, text: str, depth: int, values: int) -> None:
        self.text = text
        self.at = 0
        self.depth = depth
        self.left = values

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self, wanted: str) -> None:
        if not self.text.startswith(wanted, self.at):
            raise Refused(wanted)
        self.at += len(wanted)

    def space(self) -> None:
        while self.peek() and self.peek() in _SPACE:
            self.at += 1

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Refused("too many values")

    def value(self, depth: int) -> Any:
        self.count()
        self.space()
        match self.peek():
            case "{":
                return self.object(depth)
            case "[":
                return self.list(depth)
            case '"':
                return self.string()
            case "t":
                self.take("true")
                return True
            case "f":
                self.take("false")
                return False
            case "n":
                self.take("null")
                return None
        return self.number()

    def enter(self, bracket: str, end: str, depth: int) -> bool:
        """Into a container; False when it is empty, which costs as much as one value in it."""
        if depth > self.depth:
            raise Refused("too deep")
        self.take(bracket)
        self.space()
        if self.peek() != end:
            return True
        self.count()
        self.take(end)
        return False

    def object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        more = self.enter("{", "}", depth)
        while more:
            self.space()
            key = self.string()
            if key in found:
                raise Refused("equal keys")
            self.space()
            self.take(":")
            found[key] = self.value(depth + 1)
            more = self.more("}")
        return found

    def list(self, depth: int) -> list[Any]:
        found = []
        more = self.enter("[", "]", depth)
        while more:
            found.append(self.value(depth + 1))
            more = self.more("]")
        return found

    def more(self, end: str) -> bool:
        self.space()
        if self.peek() == ",":
            self.take(",")
            return True
        self.take(end)
        return False

    def string(self) -> str:
        self.take('"')
        units: list[str] = []  # letters, and UTF-16 halves that were escaped
        while (letter := self.peek()) != '"':
            if not letter or letter < " ":
                raise Refused("string")
            self.at += 1
            units.append(self.escape() if letter == "\\" else letter)
        self.take('"')
        return _joined(units)

    def escape(self) -> str:
        letter = self.peek()
        self.at += 1
        if letter == "u":
            digits = self.text[self.at : self.at + 4]
            if len(digits) != 4 or any(digit not in _HEX for digit in digits):
                raise Refused("escape")
            self.at += 4
            return chr(int(digits, 16))
        if letter not in _ESCAPES or not letter:
            raise Refused("escape")
        return _ESCAPES[letter]

    def number(self) -> int | float:
        start = self.at
        if self.peek() == "-":
            self.at += 1
        first = self.at
        whole = self.digits()
        if len(whole) > 1 and self.text[first] == "0":
            raise Refused("leading zero")
        real = False
        if self.peek() == ".":
            self.at += 1
            self.digits()
            real = True
        if self.peek() and self.peek() in "eE":
            self.at += 1
            if self.peek() and self.peek() in "+-":
                self.at += 1
            self.digits()
            real = True
        text = self.text[start : self.at]
        if len(text) > _LONGEST_NUMBER:
            raise Refused("long number")
        if not real:
            number = int(text)
            if abs(number) > 2**53:
                raise Refused("integer")
            return number
        value = float(text)
        if not math.isfinite(value):
            raise Refused("infinite")
        return value

    def digits(self) -> str:
        start = self.at
        while self.peek() and self.peek() in _DIGITS:
            self.at += 1
        if start == self.at:
            raise Refused("digits")
        return self.text[start : self.at]


def _joined(units: list[str]) -> str:
    """Escaped halves made whole. Raises Refused for one that stands alone."""
    found: list[str] = []
    at = 0
    while at < len(units):
        unit = units[at]
        if "\ud800" <= unit <= "\udbff" and at + 1 < len(units) and "\udc00" <= units[at + 1] <= "\udfff":
            high, low = ord(unit) - 0xD800, ord(units[at + 1]) - 0xDC00
            found.append(chr(0x10000 + (high << 10) + low))
            at += 2
            continue
        if "\ud800" <= unit <= "\udfff":
            raise Refused("surrogate")
        found.append(unit)
        at += 1
    return "".join(found)
