"""``teeth demo``: the whole path on this computer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from teeth.build.guest import build_guest
from teeth.build.ramdisk import build_ramdisk
from teeth.demo.report import Report
from teeth.demo.run import Demo, run_demo
from teeth.demo.scenario import Fault, Scenario
from teeth.demo.steps import Steps
from teeth.demo.view import open_view, result_table
from teeth.lab.accel import find_accelerator
from teeth.paths import Paths, find_checkout

_FAULTS = [fault.value for fault in Fault]


@click.command()
@click.option(
    "--fault", type=click.Choice(_FAULTS), help="Make one thing go wrong for real, and see what is said."
)
@click.option("--keep-disks", is_flag=True, help="Keep the virtual disks (about 2 GB) when the run is over.")
@click.option(
    "--screenshot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the last screen here, as SVG.",
)
def demo(fault: str | None, keep_disks: bool, screenshot: Path | None) -> None:
    """Take a dirty virtual machine to a landed one, and prove it.

    Writes build/demo/report.json; console.log, wire.jsonl and endpoint.log lie beside it.
    """
    paths = find_checkout()
    console = Console(record=screenshot is not None, width=None if os.isatty(1) else 120)
    scenario = Scenario(folder=paths.demo, fault=Fault(fault) if fault else None)
    report = Report()
    with open_view(console) as view:
        steps = Steps(view)
        report_file = paths.demo / "report.json"
        report_file.unlink(missing_ok=True)
        try:
            _play(paths, scenario, steps, report)
        except BaseException as error:
            report.problem = str(error) or type(error).__name__
            raise
        finally:
            report.write(report_file, steps)
            if not keep_disks:
                for disk in scenario.disks:
                    disk.path.unlink(missing_ok=True)
    console.print(result_table(steps.done))
    shown = os.path.relpath(report_file)
    console.print(f"landed: proofs {sum(report.proofs.values())} of {len(report.proofs)}, report in {shown}")
    if screenshot is not None:
        console.save_svg(str(screenshot), title="make demo")


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
    with _terminated_like_interrupted():
        asyncio.run(run_demo(run))


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: machines stopped, nothing left behind."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
