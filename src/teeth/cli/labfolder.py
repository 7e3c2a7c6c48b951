"""What the lab's commands share: the folder that knows what is up, and tables of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from teeth.cli.show import cell, emit, span, table
from teeth.lab.keep.handle import MachineHandle
from teeth.lab.keep.state import Kept, LabFolder
from teeth.paths import find_checkout

FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the lab keeps what is up.  [default: build/lab]",
)
NAME = click.argument("name")
_POWER = {"on": "green", "up": "green", "off": "dim", "dead": "red"}


def lab_folder(folder: Path | None) -> LabFolder:
    return LabFolder(root=(folder or find_checkout().build / "lab").resolve())


def machine(name: str, folder: Path | None) -> MachineHandle:
    """The machine that is up under this name. Raises UsageError that lists what there is."""
    return MachineHandle(kept=lab_folder(folder).find("machine", name))


def state_of(kept: Kept) -> dict[str, Any]:
    """What it is and how it is, for programs."""
    facts = {name: value for name, value in kept.facts.items() if name != "keeper"}
    status = kept.ask({"do": "status"}) if kept.alive else {"power": "dead"}
    return {**facts, "folder": str(kept.folder), **status}


def show(found: list[dict[str, Any]], *, as_json: bool) -> None:
    """Machines and networks, as tables or as one JSON document."""
    if as_json:
        emit(found)
        return
    machines = [one for one in found if one["kind"] == "machine"]
    networks = [one for one in found if one["kind"] == "network"]
    table(
        ("machine", "power", "for", "memory", "cpus", "ssh", "networks", "last line"),
        (
            (
                cell(one["name"]), _power(one), cell(_for(one)), cell(f"{one['memory']} MiB"),
                cell(one["cpus"]), cell("yes" if one["ssh"] else "no"),
                cell(", ".join(one["networks"])), cell(one.get("line", "")[:70]),
            )
            for one in machines
        ),
        empty="no machine is up",
    )  # fmt: skip
    if networks:
        table(
            ("network", "state", "address", "namespace", "leases"),
            (
                (
                    cell(one["name"]), _power(one), cell(one["address"]), cell(one["namespace"]),
                    cell(", ".join(one.get("leases_by_mac", {}).values())),
                )
                for one in networks
            ),
            empty="",
        )  # fmt: skip


def _power(one: dict[str, Any]) -> Text:
    return cell(one["power"], _POWER.get(one["power"], "yellow"))


def _for(one: dict[str, Any]) -> str:
    return span(time.time() - one["began"]) if "began" in one else ""
