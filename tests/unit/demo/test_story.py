"""Steps, views, the report and the watch on the machine's own complaints."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from rich.console import Console as Terminal

from teeth.demo.report import Report
from teeth.demo.run import config_drive
from teeth.demo.scenario import Scenario
from teeth.demo.steps import Steps
from teeth.demo.view import PlainView, open_view, result_table, save_screenshot
from teeth.demo.watch import MachineProblem, ProblemWatch
from teeth.errors import TeethError
from teeth.lab.console import Console, Line, WaitError

SOON = 20.0  # seconds: a deadline that a working test never meets


def terminal(*, live: bool = False) -> Terminal:
    return Terminal(file=io.StringIO(), width=100, force_terminal=live)


def shown(console: Terminal) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class TestSteps:
    def test_a_failed_step_says_why(self) -> None:
        console = terminal()
        steps = Steps(PlainView(console))
        with pytest.raises(TeethError), steps.step("erase"):
            raise TeethError("the disk is on fire")
        assert [(step.name, step.ok, step.result) for step in steps.done] == [
            ("erase", False, "the disk is on fire")
        ]
        assert "erase: FAILED" in shown(console)

    def test_bars_become_few_lines(self) -> None:
        console = terminal()
        steps = Steps(PlainView(console))
        with steps.step("image") as step:
            for percent in range(101):
                step.percent = float(percent)
                steps.view.moved(step)
            step.result = "written"
        assert shown(console).count("image: ") == 6  # started, 25, 50, 75, 100, done

    @pytest.mark.parametrize("live", [False, True])
    def test_a_name_with_brackets_is_shown_as_it_is(self, live: bool) -> None:
        console = terminal(live=live)
        with open_view(console) as view:
            steps = Steps(view)
            with steps.step("erase") as step:
                step.detail = "[red]"
                view.moved(step)
                view.part(step, "disk [bold]", 50, "[blue]")
                step.result = "[dim]done[/dim]"
            view.note("[x] noted")
        assert "[dim]done[/dim]" in shown(console)
        assert "[x] noted" in shown(console)
        assert "disk [bold]" in shown(console)


def test_the_report_is_whole_or_absent(tmp_path: Path) -> None:
    steps = Steps(PlainView(terminal()))
    with steps.step("boot") as step:
        step.result = "up"
    report = Report(landed=True, proofs={"old_data_gone": True}, accelerator="tcg")
    report.write(tmp_path / "deep/report.json", steps)
    value = json.loads((tmp_path / "deep/report.json").read_text())
    assert value["landed"] is True
    assert value["steps"][0]["result"] == "up"
    assert set(value["seconds"]) == {"boot"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.json"]


def test_the_screenshot_fetches_nothing(tmp_path: Path) -> None:
    steps = Steps(PlainView(terminal()))
    with steps.step("boot") as step:
        step.result = "up"
    screen = result_table(steps.done, Report(landed=True, proofs={"old_data_gone": True}), "report.json")
    save_screenshot(screen, tmp_path / "shot.svg")
    text = (tmp_path / "shot.svg").read_text()
    assert text.startswith("<svg")
    assert "@font-face" not in text
    assert "url(http" not in text


def test_the_config_drive_carries_what_only_it_can_give(tmp_path: Path) -> None:
    scenario = Scenario(folder=tmp_path)
    drive = config_drive(scenario)
    assert drive["meta_data"]["hostname"] == scenario.host_name
    head, _, body = drive["user_data"].partition("\n")
    assert head == "#cloud-config"
    assert json.loads(body)["write_files"][0]["content"].strip() == scenario.secret


def line(text: str) -> Line:
    return Line(number=0, at=0.0, text=text)


def quiet_console() -> Console:
    return Console(log=io.StringIO(), clock=lambda: 0.0, on_line=None)


class TestWatch:
    async def test_what_comes_in_time_is_given(self) -> None:
        watch = ProblemWatch()
        watch.on_line(line("teeth: problem endpoint_unreachable: 10.0.2.2:1: refused"))

        async def soon() -> str:
            await asyncio.sleep(0)
            return "here"

        assert await watch.guard(soon(), quiet_console(), what="dial", deadline=SOON, grace=SOON) == "here"

    async def test_a_lasting_complaint_ends_the_wait(self) -> None:
        watch = ProblemWatch()
        watch.on_line(line("12.3 teeth: problem no_link: no interface has a link"))
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with pytest.raises(MachineProblem, match="dial: the machine says no_link: no interface has a link"):
            await watch.guard(never, quiet_console(), what="dial", deadline=SOON, grace=0)

    async def test_silence_ends_the_wait(self) -> None:
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with pytest.raises(TeethError, match=r"dial: nothing happened for 0\.01 s"):
            await ProblemWatch().guard(never, quiet_console(), what="dial", deadline=0.01)

    async def test_the_end_of_the_machine_ends_the_wait(self) -> None:
        console = quiet_console()
        reader = asyncio.StreamReader()
        reader.feed_eof()
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pump = asyncio.create_task(console.pump(reader))
        with pytest.raises(WaitError):
            await ProblemWatch().guard(never, console, what="dial", deadline=SOON)
        await pump

    async def test_what_fails_is_raised(self) -> None:
        async def refused() -> None:
            raise TeethError("refused")

        with pytest.raises(TeethError, match="refused"):
            await ProblemWatch().guard(refused(), quiet_console(), what="dial", deadline=SOON)
