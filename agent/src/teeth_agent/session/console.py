"""What a person in front of the machine reads."""

from __future__ import annotations

import sys
from typing import TextIO


class Console:
    """Lines that begin ``teeth: ``, on the console that init gave us."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out if out is not None else sys.stdout
        self._last = ""

    def say(self, line: str) -> None:
        """One line; the same line twice in a row is printed once."""
        if line == self._last:
            return
        self._last = line
        print(f"teeth: {line}", file=self._out, flush=True)

    def problem(self, code: str, message: str) -> None:
        """What a person must know: a stable code, what is wrong and what to check."""
        self.say(f"problem {code}: {message}")
