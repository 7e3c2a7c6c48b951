"""``teeth lab drive``: simulated drives that lie and fail, for any initiator."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import click

from teeth.lab.drives.behaviours import explain
from teeth.lab.drives.control import ask
from teeth.lab.drives.faults import FAULTS
from teeth.lab.drives.lies import LIES
from teeth.lab.drives.server import serve
from teeth.lab.drives.spec import load
from teeth.lab.drives.verdict import Checked, Verdict
from teeth.lab.drives.verdict import check as check_drives

_CONTROL = click.argument("control", type=click.Path(path_type=Path))
_DRIVE = click.option("--drive", help="Which of the served drives.  [default: the only one]")


@click.group()
def drive() -> None:
    """Simulated drives: SCSI and SATA served by iSCSI, NVMe by NVMe/TCP."""


@drive.command("serve")
@click.argument("spec", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def serve_command(spec: Path) -> None:
    """Serve the drives that the TOML file SPEC describes, until Ctrl-C or SIGTERM."""
    asyncio.run(_serve(spec))


async def _serve(path: Path) -> None:
    spec = load(path)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serve(spec) as serving:
        for served in serving.all:
            click.echo(f"listening {serving.url(served)} drive={served.name} control={spec.control}")
        await ended.wait()


@drive.command()
def faults() -> None:
    """List every lie and every fault there is."""
    for title, kinds in (("lies", LIES), ("faults", FAULTS)):
        click.echo(f"{title}:")
        for kind in kinds:
            click.echo(f"  {kind.name:<26} {explain(kind)}")


@drive.command()
@_CONTROL
@click.argument("name")
@_DRIVE
@click.option("--off", is_flag=True, help="End it instead.")
def fault(control: Path, name: str, drive: str | None, off: bool) -> None:
    """Let the lie or fault NAME (or NAME:ARGUMENT) begin in a served drive.

    CONTROL is the path that serve printed.
    """
    _say(_ask(control, {"do": "remove" if off else "add", "what": name, "drive": drive}))


@drive.command("power-cut")
@_CONTROL
@_DRIVE
@click.option("--off", "way", flag_value="power-off", help="The power stays away.")
@click.option("--on", "way", flag_value="power-on", help="The power comes back.")
def power_cut(control: Path, drive: str | None, way: str | None) -> None:
    """Cut a served drive's power; without an option it comes back at once."""
    _say(_ask(control, {"do": way or "power-cut", "drive": drive}))


@drive.command()
@_CONTROL
@click.option(
    "--claims",
    type=click.File(),
    help="What a tool said of each drive: lines `SERIAL erased` or `SERIAL failed`; - is standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
@click.pass_context
def check(context: click.Context, control: Path, claims: TextIO | None, as_json: bool) -> None:
    """Read the backing files of served drives, and judge what a tool claimed of them.

    The drives are not asked: the host reads the files. Ends with 1 when something that is called erased is
    left, or, without claims, when anything is left of what `fill` put there.
    """
    said = claims.read() if claims is not None else None
    found = check_drives(_ask(control, {"do": "list"})["drives"], said)
    for one in found:
        click.echo(json.dumps(_facts(one)) if as_json else _line(one, claimed=said is not None))
    bad = (one.verdict is Verdict.DECEIVED if said is not None else one.content.marked for one in found)
    context.exit(1 if any(bad) else 0)


def _line(one: Checked, *, claimed: bool) -> str:
    left = (
        f"{one.content.marked} of {one.content.blocks} blocks left" if one.content.marked else "nothing left"
    )
    words = f"{one.name:<12} {one.serial:<20} {left:<28}"
    if claimed:
        words += f" tool: {one.claim:<8} verdict: {one.verdict}"
    return words.rstrip()


def _facts(one: Checked) -> dict[str, Any]:
    return {
        "name": one.name,
        "serial": one.serial,
        "lies": one.lies,
        "claim": one.claim.value,
        "verdict": one.verdict.value,
        **asdict(one.content),
    }


@drive.command("list")
@_CONTROL
def list_command(control: Path) -> None:
    """Show the served drives and what is wrong with them, a JSON object a line."""
    for found in _ask(control, {"do": "list"})["drives"]:
        click.echo(json.dumps(found))


def _ask(control: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    return asyncio.run(ask(control, request))


def _say(answer: Mapping[str, Any]) -> None:
    click.echo(json.dumps(answer["drive"]))
