"""What a person in front of the machine reads."""

from __future__ import annotations

import collections
import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

_MAX_LINE = 400  # five rows of a text console; what tools and peers say can be longer
_KEPT_PROBLEMS = 16


class Console:
    """Lines that begin ``teeth: ``, on the console that init gave us. Any thread may speak."""

    def __init__(self, out: TextIO | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._out = out if out is not None else sys.stdout
        self._clock = clock
        self._problems: collections.deque[dict[str, Any]] = collections.deque(maxlen=_KEPT_PROBLEMS)
        self._guard = threading.Lock()
        self._last = ""

    def say(self, text: str) -> None:
        """One line; the same line twice in a row is printed once. Never raises: a console may be gone."""
        self._show(text)

    def problem(self, code: str, message: str) -> None:
        """What a person must know: a stable code, what is wrong and what to check."""
        if self._show(f"problem {code}: {message}"):
            problem = {"code": code, "msg": _printable(message), "time": round(self._clock(), 3)}
            with self._guard:
                self._problems.append(problem)

    def problems(self) -> list[dict[str, Any]]:
        """The last problems that were shown, the oldest first: code, msg, and time (epoch seconds)."""
        with self._guard:
            return list(self._problems)

    def _show(self, text: str) -> bool:
        """Whether the line was not there already."""
        line = _printable(text)
        with self._guard:
            if line == self._last:
                return False
            self._last = line
            with contextlib.suppress(OSError, ValueError):
                self._out.write(f"teeth: {line}\n")
                self._out.flush()
        return True


def _printable(text: str) -> str:
    """One line of what a terminal shows: a tool's or peer's words cannot move its cursor."""
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:_MAX_LINE]
