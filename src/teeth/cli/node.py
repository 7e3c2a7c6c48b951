"""``teeth node``: machines, what they are, what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click
from rich.text import Text

from teeth.cli.confirm import confirm
from teeth.cli.door import AS_JSON, operator
from teeth.cli.show import ago, cell, clean, console, emit, emit_line, facts, size, table, tree, when
from teeth.errors import UsageError

_LEVELS = {"error": "red", "critical": "red", "warning": "yellow"}
NODE = click.argument("node")


@click.group()
def node() -> None:
    """Machines: what they are and what they say.

    NODE is an id, the beginning of it that no other has, or a MAC address.
    """


@node.command("list")
@AS_JSON
def list_nodes(as_json: bool) -> None:
    """Every machine that ever dialled this endpoint."""
    with operator() as door:
        nodes = list(door.pages("/v1/nodes", "nodes"))
    if as_json:
        emit(nodes)
        return
    table(
        ("node", "connection", "agent", "ramdisk", "boot", "last seen", "tasks"),
        (
            (
                cell(one["id"]), _connection(one), cell(one["agent"]), cell((one["ramdisk"] or "")[:12]),
                cell(one["boot_id"][:8]), cell("now" if one["connected"] else ago(one["last_seen"])),
                cell(", ".join(one["open_tasks"])),
            )
            for one in nodes
        ),
        empty="no machine has dialled this endpoint yet",
    )  # fmt: skip


@node.command()
@NODE
@AS_JSON
def show(node: str, as_json: bool) -> None:
    """One machine."""
    with operator() as door:
        one = door.get(address(node))
    if as_json:
        emit(one)
        return
    facts(
        (
            ("node", cell(one["id"])),
            ("connection", _connection(one)),
            ("address", cell(one["address"])),
            ("agent", cell(one["agent"])),
            ("ramdisk", cell(one["ramdisk"])),
            ("boot", cell(one["boot_id"])),
            ("MACs", cell(", ".join(one["macs"]))),
            ("first seen", cell(when(one["first_seen"]))),
            ("last seen", cell("now" if one["connected"] else when(one["last_seen"]))),
            ("serves", cell(None if one["methods"] is None else ", ".join(one["methods"]))),
            ("open tasks", cell(", ".join(one["open_tasks"]))),
        )
    )


@node.command()
@NODE
@AS_JSON
def inventory(node: str, as_json: bool) -> None:
    """What a machine is made of."""
    with operator() as door:
        found = door.get(f"{address(node)}/inventory")
    known = found["inventory"]
    if as_json:
        emit(known)
    elif known is None:
        raise UsageError(f"node {found['id']} has not said what it is made of yet")
    else:
        rest = {name: value for name, value in known.items() if name != "disks"}
        table(
            ("disk", "serial", "size", "transport", "model", "not erased because"),
            (disk_row(disk) for disk in disks_of(known)),
            empty="no disks",
        )
        console().print(tree(rest), markup=False)


@node.command()
@NODE
@click.option("--follow", "-f", is_flag=True, help="Go on with what it logs from now on, until Ctrl-C.")
@click.option("--lines", "-n", type=click.IntRange(0, 500), default=100, show_default=True, help="How many.")
@click.option("--since", type=float, default=0.0, help="Only what came then or later (epoch seconds).")
@AS_JSON
def log(node: str, follow: bool, lines: int, since: float, as_json: bool) -> None:
    """What a machine logged, the newest last. With --json: a JSON object a line."""
    say: Callable[[dict[str, Any]], None] = emit_line if as_json else _print_record
    with operator() as door:
        where = address(door.get(address(node))["id"])
        page = door.get(f"{where}/logs", limit=max(lines, 1), since=since)
        for record in page["logs"] if lines else ():
            say(record)
        if not follow:
            return
        for event in door.events(f"{where}/logs/follow", on_lost=_say_lost, after=page["next"]):
            say(event.data)


@node.command()
@NODE
@AS_JSON
def status(node: str, as_json: bool) -> None:
    """Ask a connected machine how it is."""
    with operator() as door:
        answer = door.get(f"{address(node)}/status")
    if as_json:
        emit(answer["status"])
    else:
        console().print(tree(answer["status"]), markup=False)


@node.command()
@NODE
@click.option("--force", is_flag=True, help="Although tasks are open: what was begun becomes unknown.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(node: str, force: bool, yes: bool) -> None:
    """Forget a machine, so that another may take its id. Its tasks stay on record."""
    with operator() as door:
        known = door.get(address(node))
        confirm(
            f"Forget node {clean(known['id'])} ({', '.join(known['macs'])})?",
            yes=yes,
            act="forgetting a node",
        )
        door.delete(address(known["id"]), force=force)
    click.echo(f"node {clean(known['id'])} is forgotten")


def address(name: str) -> str:
    """The path of a node at the door. Raises UsageError for what can be no name."""
    if not name or len(name) > 128 or "/" in name:
        raise UsageError(f"{name[:128]!r} is no node's name", hint="teeth node list shows what there is")
    return f"/v1/nodes/{quote(name, safe='')}"


def disks_of(inventory: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The disks of an inventory, as far as it has such."""
    disks = (inventory or {}).get("disks")
    return [disk for disk in disks if isinstance(disk, dict)] if isinstance(disks, list) else []


def disk_row(disk: dict[str, Any]) -> tuple[Text, ...]:
    bytes_ = disk.get("size")
    return (
        cell(disk.get("name")),
        cell(disk.get("serial")),
        cell(size(bytes_) if isinstance(bytes_, int | float) else None),
        cell(disk.get("transport")),
        cell(disk.get("model")),
        cell(disk.get("out_of_scope") or disk.get("virtual_media")),
    )


def _connection(one: dict[str, Any]) -> Text:
    word = Text("connected", "green") if one["connected"] else Text("away", "dim")
    return word.append(", held", "bold yellow") if one["held"] else word


def _print_record(line: dict[str, Any]) -> None:
    record = line["record"]
    moment = record.get("time")
    level = clean(record.get("level", ""))
    said = Text(when(moment if isinstance(moment, int | float) else line["received"]), "dim")
    said.append(f" {level:<8}", _LEVELS.get(level, ""))
    said.append(f"{clean(record.get('logger', ''))}: ", "dim")
    said.append(clean(record.get("event", record.get("msg", ""))))
    if record.get("fields"):
        said.append(_fields(record["fields"]), "dim")
    console().print(said, soft_wrap=True)


def _fields(fields: Any) -> str:
    if not isinstance(fields, dict):
        return f" {clean(fields)}"
    return "".join(f" {clean(name)}={clean(value)}" for name, value in fields.items())


def _say_lost(why: str) -> None:
    click.echo(f"teeth: lost the endpoint ({why}); trying again", err=True)
