"""A task while it moves: a bar on a terminal, lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from teeth.api.client import Event, Operator
from teeth.cli.show import clean, console, emit_line, size, span, state

# How a watch ends; 2 and 4 are wrong input and no endpoint.
COMPLETE, ERROR, UNKNOWN, INTERRUPTED = 0, 1, 3, 130
_PLAIN_EVERY = 10.0  # percent between two lines, where lines cannot be redrawn
_BAR = 24
_UNITS = 12  # bars of parts: a machine with more drives than that has the newest shown


class View(Protocol):
    def moved(self, event: dict[str, Any]) -> None: ...

    def whole(self, task: dict[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...


def watch(door: Operator, task_id: str, *, as_json: bool) -> int:
    """Show a task until it is over, or until nobody knows what became of it. Returns the exit status.

    Ctrl-C stops the watching and nothing else.
    """
    task: dict[str, Any] = {}
    with open_view(as_json) as view:
        try:
            for event in door.events(f"/v1/tasks/{task_id}/watch", on_lost=_lost(view)):
                task = _show(view, event, task)
                if event.name == "task" and (ended := verdict(task)) is not None:
                    break
                if event.name == "change" and event.data["state"] == "unknown":
                    task = {**task, **_changed(event.data)}
                    if (ended := verdict(task)) is not None:
                        break
        except KeyboardInterrupt:
            view.note(f"watching stopped; task {task_id} goes on: teeth task watch {task_id}")
            return INTERRUPTED
    if not as_json:
        console().print(outcome(task))
    assert ended is not None
    return ended


def verdict(task: dict[str, Any]) -> int | None:
    """The exit status that a task's state means, None while it may still move by itself."""
    if task["state"] == "complete":
        return COMPLETE
    if task["state"] == "error":
        return ERROR
    # A machine that left for its new system is out of sight by rule: it is about to phone home.
    if task["state"] == "unknown" and task["code"] != "waiting":
        return UNKNOWN
    return None


def outcome(task: dict[str, Any]) -> Text:
    """One line that says how a task stands."""
    said = Text.assemble(f"task {clean(task['task_id'])} on {clean(task['node'])}: ", state(task))
    if task["code"]:
        said.append(f" {clean(task['code'])}: {clean(task['msg'])}")
    if task["state"] == "unknown":
        said.append(f"; look at the machine, then: teeth task settle {clean(task['task_id'])}")
    return said


@contextlib.contextmanager
def open_view(as_json: bool) -> Iterator[View]:
    """The view that suits standard output."""
    shown = console()
    if as_json:
        yield JsonView()
    elif shown.is_terminal:
        view = LiveView(shown)
        with Live(get_renderable=view.screen, console=shown, refresh_per_second=4):
            yield view
    else:
        yield PlainView(shown)


class JsonView:
    """``{"event": "task" | "change", "data": {...}}``, one a line."""

    def moved(self, event: dict[str, Any]) -> None:
        emit_line({"event": "change", "data": event})

    def whole(self, task: dict[str, Any]) -> None:
        emit_line({"event": "task", "data": task})

    def note(self, text: str) -> None:
        click.echo(f"teeth: {text}", err=True)


class PlainView:
    """A line when the state or the step changes, and every tenth percent."""

    def __init__(self, shown: Console) -> None:
        self._console = shown
        self._said: tuple[str, str, float] = ("", "", -_PLAIN_EVERY)

    def moved(self, event: dict[str, Any]) -> None:
        now, step, percent = event["state"], event["step"] or event["phase"], event["percent"]
        if (now, step) == self._said[:2] and percent - self._said[2] < _PLAIN_EVERY:
            return
        self._said = (now, step, percent)
        self._console.print(f"{now}: {percent:.0f} % {details(event)}".rstrip(), markup=False, soft_wrap=True)

    def whole(self, task: dict[str, Any]) -> None:
        pass

    def note(self, text: str) -> None:
        click.echo(f"teeth: {text}", err=True)


class LiveView:
    """A bar for the task, and below it one for each part (a drive) that it reports."""

    def __init__(self, shown: Console) -> None:
        self._console = shown
        self._title = Text("")
        detail = Column(ratio=3, no_wrap=True, overflow="ellipsis")
        self._bars = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=28)),
            TextColumn("{task.percentage:>5.1f} %", table_column=Column(no_wrap=True, min_width=7)),
            # These two give way on a narrow terminal.
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4, max_width=_BAR)),
            TextColumn("{task.fields[detail]}", table_column=detail),
            console=shown,
            expand=True,
            auto_refresh=False,
        )
        self._whole = self._bars.add_task("task", total=100, detail="")
        self._parts: dict[str, Any] = {}

    def screen(self) -> Group:
        return Group(self._title, self._bars)

    def moved(self, event: dict[str, Any]) -> None:
        self._bars.update(
            self._whole, completed=event["percent"], description=event["state"], detail=_plain(details(event))
        )
        self._part(event["fields"])

    def whole(self, task: dict[str, Any]) -> None:
        percent = 100 if task["state"] == "complete" else task["percent"]
        name = f"{clean(task['method'])} on {clean(task['node'])}"
        self._title = Text.assemble((name, "bold"), f"  {clean(task['task_id'])}")
        self._bars.update(self._whole, completed=percent, description=task["state"])

    def note(self, text: str) -> None:
        self._console.print(Text(text, "yellow"), soft_wrap=True)

    def _part(self, fields: dict[str, Any]) -> None:
        unit, percent = fields.get("unit"), fields.get("unit_percent")
        if not isinstance(unit, str) or not isinstance(percent, int | float):
            return
        if unit not in self._parts:
            if len(self._parts) >= _UNITS:
                self._bars.remove_task(self._parts.pop(next(iter(self._parts))))
            self._parts[unit] = self._bars.add_task(_plain(f"· {unit}"), total=100, detail="")
        self._bars.update(self._parts[unit], completed=percent)


def details(event: dict[str, Any]) -> str:
    """Step, rate and what is left, as far as they are known: ``verify, 87.2 MB/s, eta -``."""
    fields = event["fields"]
    words = [clean(event["step"] or event["phase"]).replace("_", " ")]
    rate = fields.get("bytes_per_second")
    if isinstance(rate, int | float) and rate > 0:
        words.append(f"{size(rate)}/s")
    done, total = fields.get("bytes_done"), fields.get("bytes_total")
    if isinstance(done, int | float) and isinstance(total, int | float) and total > 0:
        words.append(f"{size(done)} of {size(total)}")
    if event["state"] in ("accepted", "running"):
        words.append(f"eta {'-' if event['eta'] is None else span(event['eta'])}")
    if event["code"]:
        words.append(f"{clean(event['code'])}: {clean(event['msg'])}")
    return ", ".join(word for word in words if word)


def _show(view: View, event: Event, task: dict[str, Any]) -> dict[str, Any]:
    if event.name == "task":
        view.whole(event.data)
        return event.data
    if event.name == "change":
        view.moved(event.data)
    return task


def _changed(event: dict[str, Any]) -> dict[str, Any]:
    return {name: event[name] for name in ("state", "percent", "eta", "step", "phase", "code", "msg")}


def _lost(view: View) -> Any:
    return lambda why: view.note(f"lost the endpoint ({why}); trying again")


def _plain(text: str) -> str:
    """Text in which rich finds no mark-up."""
    return clean(text).replace("[", r"\[")
