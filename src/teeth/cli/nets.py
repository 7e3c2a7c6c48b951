"""``teeth lab net``: networks of several machines."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from teeth.cli.door import AS_JSON
from teeth.cli.labfolder import FOLDER, NAME, lab_folder, show, state_of
from teeth.errors import TeethError, UsageError
from teeth.lab.accel import accelerator
from teeth.lab.describe import Places, parse
from teeth.lab.keep.up import down as take_down
from teeth.lab.keep.up import up as bring_up
from teeth.lab.netns import require_root
from teeth.lab.tables import read_toml
from teeth.paths import find_checkout


@click.group()
def net() -> None:
    """Networks of several machines: bridges in network namespaces, with DHCP. They need root."""


@net.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@FOLDER
@AS_JSON
def up(file: Path, folder: Path | None, as_json: bool) -> None:
    """Start only the networks that the TOML file FILE describes."""
    networks = read_toml(file).get("networks")
    if not networks:
        raise UsageError(f"{file} has no [networks.NAME]")
    document = {"networks": networks}
    places = Places(file=file, state=lab_folder(folder).root, build=find_checkout().build)
    # No machine starts here: which accelerator there is does not matter.
    chosen = accelerator("tcg", "no machine")
    say = (lambda _: None) if as_json else click.echo
    found = bring_up(parse(document, places), document, places, chosen, say=say)
    if as_json:
        show([state_of(one) for one in found], as_json=True)


@net.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@FOLDER
def down(names: tuple[str, ...], folder: Path | None) -> None:
    """End networks. Machines that hang on one keep a cable with nobody behind it."""
    lab = lab_folder(folder)
    for kept in [lab.find("network", name) for name in dict.fromkeys(names)]:
        ended = take_down(kept)
        click.echo(f"network {kept.name} is down{'' if ended else '; it was dead'}")


@net.command("exec", context_settings={"ignore_unknown_options": True})
@NAME
@FOLDER
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(name: str, folder: Path | None, command: tuple[str, ...]) -> None:
    """Run COMMAND on a network, such as an endpoint: teeth lab net exec NAME -- COMMAND."""
    kept = lab_folder(folder).find("network", name)
    require_root()
    if not kept.alive:
        raise TeethError(f"network {name} is dead", hint=f"teeth lab net down {name} clears it away")
    sys.stdout.flush()
    os.execvp("ip", ["ip", "netns", "exec", str(kept.facts["namespace"]), *command])  # noqa: S606
