"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 160  # where no terminal says its own
_NONE = "-"
_STATES = {
    "complete": "green",
    "error": "red",
    "unknown": "bold yellow",
    "running": "cyan",
    "leaving": "cyan",
}


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def emit(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2))


def emit_line(value: Any) -> None:
    """One JSON object a line, at once."""
    click.echo(json.dumps(value))
    sys.stdout.flush()


def clean(text: object) -> str:
    """Text of a machine, without what a terminal would obey."""
    return "".join(
        letter if unicodedata.category(letter) not in ("Cc", "Cf", "Cs") else f"\\x{ord(letter):02x}"
        for letter in str(text)
    )


def cell(value: object, style: str = "") -> Text:
    return Text(_NONE if value is None or value == "" else clean(value), style=style)


def state(task: dict[str, Any]) -> Text:
    name = str(task["state"])
    waits = task["held"] and name not in ("complete", "error")
    return Text(f"{name} (held)" if waits else name, style=_STATES.get(name, ""))


def table(columns: Sequence[str], rows: Iterable[Sequence[Text]], *, empty: str) -> None:
    """A table, or one line when there is nothing to show."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console().print(shown if shown.row_count else Text(empty))


def facts(pairs: Iterable[tuple[str, Text]]) -> None:
    """Names and values, one a line."""
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in pairs:
        shown.add_row(name, value)
    console().print(shown)


def tree(value: Any) -> Text:
    """A JSON value as people read it."""
    return Text(
        "\n".join(clean(line) for line in json.dumps(value, indent=2, ensure_ascii=False).splitlines())
    )


def ago(moment: float | None) -> str:
    """How long ago a time since the epoch was (or how long it is off), in its largest unit."""
    if moment is None:
        return _NONE
    seconds = time.time() - moment
    return f"in {span(-seconds)}" if seconds < -1 else f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """``42s``, ``3m 05s``, ``2h 07m``, ``5d 03h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


def when(moment: float | None) -> str:
    """A time since the epoch as this machine's clock shows it."""
    return _NONE if moment is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def size(count: float) -> str:
    """Bytes in the units on a drive's label."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
