"""How a run looks: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, Group
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from teeth.demo.report import Report
from teeth.demo.steps import Step, View

_PLAIN_EVERY = 25.0  # percent between two lines of one bar, where lines cannot be redrawn
_SHOT_WIDTH = 118
_BAR_NAME = 18  # a part is a disk by its serial, two blanks in
_BAR = 20
_NAME = 13  # the longest step name


class PlainView:
    """One line when something starts, moves by a quarter, or ends: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._said: dict[tuple[str, str], float] = {}

    def started(self, step: Step) -> None:
        self._say(f"{step.name}: started")

    def moved(self, step: Step) -> None:
        self._bar(step.name, "", step.percent, step.detail)

    def part(self, step: Step, name: str, percent: float, detail: str) -> None:
        self._bar(step.name, name, percent, detail)

    def ended(self, step: Step) -> None:
        word = "done" if step.ok else "FAILED"
        self._say(f"{step.name}: {word} in {step.seconds:.1f} s: {step.result}")

    def note(self, text: str) -> None:
        self._say(text)

    def _bar(self, step: str, part: str, percent: float, detail: str) -> None:
        last = self._said.get((step, part), 0.0)
        if percent - last < _PLAIN_EVERY and not (percent >= 100 > last):
            return
        self._said[(step, part)] = percent
        where = f"{step} {part}".rstrip()
        self._say(f"{where}: {percent:.0f} % {detail}".rstrip())

    def _say(self, text: str) -> None:
        elapsed = time.monotonic() - self._began
        self._console.print(f"[{elapsed:6.1f} s] {text}", markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """A bar a step, and below it a bar for each of its parts."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rows: dict[tuple[str, str], TaskID] = {}

    def started(self, step: Step) -> None:
        self._rows[(step.name, "")] = self._progress.add_task(step.name, total=None, detail="")

    def moved(self, step: Step) -> None:
        self._progress.update(
            self._rows[(step.name, "")], total=100, completed=step.percent, detail=escape(step.detail)
        )

    def part(self, step: Step, name: str, percent: float, detail: str) -> None:
        key = (step.name, name)
        if key not in self._rows:
            self._rows[key] = self._progress.add_task(escape(f"  {name}"), total=100, detail="")
        self._progress.update(self._rows[key], completed=percent, detail=escape(detail))

    def ended(self, step: Step) -> None:
        row = self._rows[(step.name, "")]
        mark = "[green]✔[/green] " if step.ok else "[red]✘[/red] "
        shown = mark + escape(step.result)
        self._progress.update(row, total=100, completed=100 if step.ok else step.percent, detail=shown)
        self._progress.stop_task(row)
        for (name, part), identity in self._rows.items():
            if name == step.name and part:
                if step.ok:
                    self._progress.update(identity, completed=100)
                self._progress.stop_task(identity)

    def note(self, text: str) -> None:
        self._progress.console.print(text, style="dim", markup=False, highlight=False)


@contextmanager
def open_view(console: Console) -> Iterator[View]:
    """The view that suits ``console``."""
    if not console.is_terminal:
        yield PlainView(console)
        return
    progress = Progress(
        # Only the last column gives way on a narrow terminal.
        TextColumn("{task.description}", table_column=Column(min_width=_BAR_NAME, no_wrap=True)),
        BarColumn(bar_width=_BAR, table_column=Column(min_width=_BAR)),
        TimeElapsedColumn(table_column=Column(min_width=len("0:00:00"))),
        TextColumn("{task.fields[detail]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        console=console,
        expand=True,
        refresh_per_second=8,
    )
    with progress:
        yield LiveView(progress)


def result_table(steps: list[Step], report: Report, report_file: str) -> Group:
    """The last screen: step, result, seconds; then the host's proofs."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("step", style="bold", min_width=_NAME)
    table.add_column("result")
    table.add_column("seconds", justify="right")
    for step in steps:
        mark = Text("✔ ", style="green") if step.ok else Text("✘ ", style="red")
        table.add_row(step.name, mark.append(step.result, style="default"), f"{step.seconds:.1f}")
    total = sum(step.seconds for step in steps)
    held = ", ".join(name.replace("_", " ") for name, holds in report.proofs.items() if holds)
    verdict = (f"landed in {total:.0f} s", "bold green") if report.landed else ("not landed", "bold red")
    return Group(
        table,
        Text.assemble(("proven by the host: ", "bold"), held),
        Text.assemble(verdict, f"; report: {report_file}"),
    )


def save_screenshot(screen: Group, path: Path) -> None:
    """The screen as an SVG that needs no font from anywhere else."""
    console = Console(record=True, width=_SHOT_WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ make demo", style="bold"))
    console.print(screen)
    plain = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    path.write_text(console.export_svg(title="make demo", code_format=plain), encoding="utf-8")
