"""What a person in front of the machine reads."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TextIO

_MAX_LINE = 400  # five rows of a text console; what tools and peers say can be longer


class Console:
    """Lines that begin ``teeth: ``, on the console that init gave us. Any thread may speak."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out if out is not None else sys.stdout
        self._guard = threading.Lock()
        self._last = ""

    def say(self, text: str) -> None:
        """One line; the same line twice in a row is printed once. Never raises: a console may be gone."""
        line = _printable(text)
        with self._guard:
            if line == self._last:
                return
            self._last = line
            with contextlib.suppress(OSError, ValueError):
                self._out.write(f"teeth: {line}\n")
                self._out.flush()

    def problem(self, code: str, message: str) -> None:
        """What a person must know: a stable code, what is wrong and what to check."""
        self.say(f"problem {code}: {message}")


def _printable(text: str) -> str:
    """One line of what a terminal shows: a tool's or peer's words cannot move its cursor."""
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:_MAX_LINE]
