"""``teeth lab up`` and what is done with the machines that are up."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from teeth.api.client import Operator
from teeth.cli.door import AS_JSON, operator
from teeth.cli.labfolder import FOLDER, NAME, lab_folder, machine, show, state_of
from teeth.cli.show import emit
from teeth.errors import TeethError, UsageError
from teeth.lab.describe import parse
from teeth.lab.description import Description
from teeth.lab.firmware import Firmware
from teeth.lab.keep.faults import KINDS
from teeth.lab.keep.up import down as take_down
from teeth.lab.keep.up import places_for
from teeth.lab.keep.up import up as bring_up
from teeth.lab.machine import DirectBoot
from teeth.lab.tables import read_toml
from teeth.paths import find_checkout

_STEP = 0.1  # seconds between two looks at a log that is followed


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--ramdisk", help="Without FILE: one machine that boots this ramdisk, such as debug.")
@click.option("--name", help="Its name.  [default: the ramdisk's]")
@click.option("--memory", default="1 GiB", show_default=True, help="Its memory.")
@click.option(
    "--firmware", type=click.Choice([one.value for one in Firmware]), default="bios", show_default=True
)
@click.option("--overcommit", is_flag=True, help="Although the host's memory may not suffice.")
@FOLDER
@AS_JSON
def up(
    file: Path | None, ramdisk: str | None, name: str | None, memory: str, firmware: str, overcommit: bool,
    folder: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Start the machines and networks that the TOML file FILE describes; docs/lab.md lists its keys.

    They stay up when the command has ended: teeth lab down ends them. With teeth --data DIR in front,
    machines that boot a ramdisk get a boot grant from the endpoint of that folder, and dial it.
    """
    if (file is None) == (ramdisk is None):
        raise UsageError("a FILE, or --ramdisk NAME: one of them")
    if file is not None:
        document = read_toml(file)
    else:
        word = str(ramdisk)
        boot = {"from": "ramdisk", "ramdisk": word}
        document = {"machines": {name or word: {"memory": memory, "firmware": firmware, "boot": boot}}}
    places, accelerator = places_for(find_checkout(), lab_folder(folder).root, file or Path("--ramdisk"))
    description = parse(document, places)
    if click.get_current_context().find_root().params.get("data") is not None:
        with operator() as door:
            _grant(door, description, document)
        description = parse(document, places)
    say: Callable[[str], None] = (lambda _: None) if as_json else click.echo
    found = bring_up(description, document, places, accelerator, overcommit=overcommit, say=say)
    if as_json:
        emit([state_of(one) for one in found])


def _grant(door: Operator, description: Description, document: dict[str, Any]) -> None:
    """Write a boot grant for each machine that boots a ramdisk into its description."""
    for one in description.machines:
        spec = one.machine
        boot = document["machines"][spec.name].setdefault("boot", {})
        if not isinstance(spec.boot, DirectBoot) or boot.get("from", "ramdisk") != "ramdisk" or not spec.nics:
            continue
        body = {"mac": spec.nics[0].mac, "uuid": None, "any_machine": False, "ttl": 900}
        words = str(door.post("/v1/grants", body, reveal=True)["kernel_command_line"]).split()
        kept = [word for word in words if not word.startswith(("console=", "loglevel="))]
        boot["append"] = " ".join([*boot.get("append", "").split(), *kept])


@click.command("list")
@FOLDER
@AS_JSON
def list_machines(folder: Path | None, as_json: bool) -> None:
    """Show the machines and networks that are up."""
    show([state_of(kept) for kept in lab_folder(folder).kept()], as_json=as_json)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Every machine and network of the folder.")
@click.option("--keep-disks", is_flag=True, help="Leave the disk files that were made for it.")
@FOLDER
def down(names: tuple[str, ...], everything: bool, keep_disks: bool, folder: Path | None) -> None:
    """End machines and clear away what was made for them; their logs stay."""
    if bool(names) == everything:
        raise UsageError("name machines, or say --all")
    lab = lab_folder(folder)
    for kept in lab.kept() if everything else [lab.find("machine", name) for name in dict.fromkeys(names)]:
        ended = take_down(kept, keep_disks=keep_disks)
        click.echo(f"{kept.kind} {kept.name} is down{'' if ended else '; it was dead'}")


@click.command()
@NAME
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C or it is taken down.")
@click.option("--type", "text", help="Type this line at the console first.")
@FOLDER
def console(name: str, follow: bool, text: str | None, folder: Path | None) -> None:
    """Show what a machine printed, a line with its time (seconds since its start) each."""
    one = machine(name, folder)
    if text is not None:
        one.type(text + "\n")
    try:
        with one.console_log.open(errors="replace") as log:
            while True:
                while data := log.read(65536):
                    click.echo(data, nl=False)
                if not follow or not one.kept.alive:
                    return
                sys.stdout.flush()
                time.sleep(_STEP)
    except OSError as error:
        raise TeethError(f"{one.console_log} cannot be read: {error.strerror}") from error


@click.command(context_settings={"ignore_unknown_options": True})
@NAME
@FOLDER
@click.option("--wait", type=click.FloatRange(min=0), help="Wait until it answers, at most so many seconds.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, folder: Path | None, wait: float | None, command: tuple[str, ...]) -> None:
    """Enter a machine, or run COMMAND in it: teeth lab ssh NAME -- COMMAND. Its exit status is ours."""
    one = machine(name, folder)
    words = one.ssh_command()
    if wait is not None:
        one.wait_for_ssh(within=wait)
    sys.stdout.flush()
    try:
        os.execvp(words[0], [*words, *command])  # noqa: S606 - a list, and no shell
    except OSError as error:
        raise TeethError("ssh is not installed", hint="run make setup") from error


@click.command()
@NAME
@click.argument("command")
@click.argument("arguments", required=False, default="{}")
@FOLDER
def qmp(name: str, command: str, arguments: str, folder: Path | None) -> None:
    """Give QEMU a QMP command, with its ARGUMENTS as a JSON object, and print what it returns."""
    try:
        given = json.loads(arguments)
    except ValueError as error:
        raise UsageError(f"{arguments!r} is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise UsageError(f"{arguments!r} is not a JSON object")
    asked = {"do": "qmp", "command": command, "arguments": given}
    emit(machine(name, folder).kept.ask(asked)["return"])


@click.command()
@NAME
@click.argument("kind")
@click.argument("words", nargs=-1, metavar="[TARGET] [SETTING=VALUE]...")
@click.option("--off", is_flag=True, help="End it instead.")
@FOLDER
def fault(name: str, kind: str, words: tuple[str, ...], off: bool, folder: Path | None) -> None:
    """Let something go wrong with a machine: teeth lab faults lists what can.

    TARGET is a card (nic0, or its MAC) or a disk (disk0, or its serial); the first one unless said.
    """
    machine(name, folder).fault(kind, *words, off=off)
    click.echo(f"{name}: {kind} {'is over' if off else 'has begun'}")


@click.command()
def faults() -> None:
    """List what can go wrong with a machine."""
    for name, kind in KINDS.items():
        target = {"nic": "[NIC]", "disk": "[DISK]"}.get(kind.target, "")
        click.echo(f"  {name:<10} {target:<7} {kind.text}{' (--off ends it)' if kind.end else ''}")


@click.command()
@NAME
@FOLDER
def reset(name: str, folder: Path | None) -> None:
    """Press a machine's reset button."""
    machine(name, folder).reset()
    click.echo(f"{name}: reset")


@click.command()
@NAME
@click.argument("to", type=click.Choice(["on", "off", "cycle", "button"]))
@FOLDER
def power(name: str, to: str, folder: Path | None) -> None:
    """Switch a machine on or off at once, or press its power button."""
    status = machine(name, folder).power(to)
    click.echo(f"{name}: {status['power']}")


@click.command()
@NAME
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@FOLDER
def screenshot(name: str, file: Path, folder: Path | None) -> None:
    """Write a machine's screen to FILE, a .png or a .ppm."""
    click.echo(machine(name, folder).screenshot(file))


COMMANDS = (up, list_machines, console, ssh, qmp, fault, faults, reset, power, screenshot, down)
