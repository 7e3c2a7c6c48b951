"""``teeth demo``: the whole path on this computer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path

import click
from rich.console import Console

from teeth.build.guest import build_guest
from teeth.build.ramdisk import build_ramdisk
from teeth.demo.report import Report
from teeth.demo.run import Demo, run_demo
from teeth.demo.scenario import Fault, Scenario
from teeth.demo.steps import Steps, why
from teeth.demo.view import open_view, result_table, save_screenshot
from teeth.lab.accel import find_accelerator
from teeth.lab.firmware import Firmware
from teeth.paths import Paths, find_checkout

_PLAIN_WIDTH = 120  # of the last table, where no terminal says its own
_FAULTS = [fault.value for fault in Fault]


@click.command()
@click.option(
    "--fault", type=click.Choice(_FAULTS), help="Make one thing go wrong for real, and see what is said."
)
@click.option(
    "--firmware",
    type=click.Choice([kind.value for kind in Firmware]),
    default=Firmware.BIOS.value,
    show_default=True,
    help="What the machine starts with.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the report and the logs.  [default: build/demo]",
)
@click.option("--keep-disks", is_flag=True, help="Keep the virtual disks (about 2 GB) when the run is over.")
@click.option(
    "--screenshot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the last screen here, as SVG.",
)
def demo(
    fault: str | None, firmware: str, output: Path | None, keep_disks: bool, screenshot: Path | None
) -> None:
    """Take a dirty virtual machine to a landed one, and prove it.

    Writes report.json; console.log, wire.jsonl and endpoint.log lie beside it.
    """
    paths = find_checkout()
    scenario = Scenario(
        folder=(output or paths.demo).resolve(),
        fault=Fault(fault) if fault else None,
        firmware=Firmware(firmware),
    )
    report = Report()
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    report_file = scenario.folder / "report.json"
    report_file.unlink(missing_ok=True)
    with open_view(console) as view:
        steps = Steps(view)
        try:
            with _terminated_like_interrupted():
                _play(paths, scenario, steps, report)
        except BaseException as error:
            report.problem = why(error)
            raise
        finally:
            report.write(report_file, steps)
            if not keep_disks:
                for disk in scenario.disks:
                    disk.path.unlink(missing_ok=True)
    last = result_table(steps.done, report, os.path.relpath(report_file))
    console.print(last)
    if screenshot is not None:
        save_screenshot(last, screenshot)


def _play(paths: Paths, scenario: Scenario, steps: Steps, report: Report) -> None:
    with steps.step("ramdisk") as step:
        ramdisk = build_ramdisk(paths, paths.recipes / "ramdisk.yaml", say=steps.view.note)
        size = ramdisk.manifest["initramfs_bytes"] / 1e6
        step.result = f"initramfs {size:.1f} MB, {'built' if ramdisk.fresh else 'kept from before'}"
    with steps.step("guest image") as step:
        guest, fresh = build_guest(paths, say=steps.view.note)
        step.result = f"{guest.size / 1e6:.0f} MB, {'built' if fresh else 'kept from before'}"
    with steps.step("accelerator") as step:
        accelerator = find_accelerator(paths.ramdisk / "vmlinuz", paths.cache)
        step.result = f"{accelerator.name}: {accelerator.reason}"
    run = Demo(paths=paths, scenario=scenario, accelerator=accelerator, steps=steps, report=report)
    try:
        asyncio.run(_until_terminated(run_demo(run)))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _until_terminated(story: Coroutine[None, None, None]) -> None:
    """The story, given up in good order at SIGTERM as at Ctrl-C: only it is cancelled, and what it started is
    still there for its own clean-up."""
    task = asyncio.ensure_future(story)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Outside the event loop SIGTERM is what Ctrl-C is there: an exception."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
