"""``teeth grant``: which machine may boot the ramdisk."""

from __future__ import annotations

import re
from typing import Any

import click

from teeth.cli.door import AS_JSON, operator
from teeth.cli.show import ago, cell, clean, emit, facts, table
from teeth.errors import UsageError

_ID = re.compile(r"[0-9a-f]{8,64}")
_STATES = {"open": "green", "burnt": "dim", "expired": "yellow"}


@click.group()
def grant() -> None:
    """Boot grants: one machine may boot the ramdisk once."""


@grant.command()
@click.argument("mac", required=False)
@click.option("--uuid", help="The machine's SMBIOS UUID; with MAC it must show both.")
@click.option("--any", "any_machine", is_flag=True, help="Whoever asks first, for want of MAC and UUID.")
@click.option(
    "--ttl", type=click.FloatRange(min=1, max=86400), default=900, show_default=True, help="Seconds."
)
@click.option(
    "--reveal", is_flag=True, help="Show the token and the kernel's command line, for a boot by hand."
)
@AS_JSON
def create(
    mac: str | None, uuid: str | None, any_machine: bool, ttl: float, reveal: bool, as_json: bool
) -> None:
    """Let the machine with this MAC boot the ramdisk once. An unused grant of it is withdrawn.

    The machine gets its token at the boot door; --reveal shows it here too, once.
    """
    if any_machine == (mac is not None or uuid is not None):
        raise UsageError("a grant is for a MAC, a --uuid or both, or for --any machine")
    body = {"mac": mac, "uuid": uuid, "any_machine": any_machine, "ttl": ttl}
    with operator() as door:
        made = door.post("/v1/grants", body, reveal=reveal)
    if as_json:
        emit(made)
        return
    facts(
        [
            ("grant", cell(made["id"])),
            ("machine", cell(_machine(made))),
            ("expires", cell(ago(made["expires"]))),
            *(
                [("token", cell(made["token"])), ("command line", cell(made["kernel_command_line"]))]
                if reveal
                else []
            ),
        ]
    )


@grant.command("list")
@AS_JSON
def list_grants(as_json: bool) -> None:
    """Grants of the last month, newest first."""
    with operator() as door:
        grants = list(door.pages("/v1/grants", "grants"))
    if as_json:
        emit(grants)
        return
    table(
        ("grant", "machine", "state", "made", "expires", "used by"),
        (
            (
                cell(one["id"]), cell(_machine(one)), cell(one["state"], _STATES[one["state"]]),
                cell(ago(one["created"])), cell(ago(one["expires"])), cell(one["node_id"]),
            )
            for one in grants
        ),
        empty="no grants",
    )  # fmt: skip


@grant.command()
@click.argument("grant_id", metavar="GRANT")
@AS_JSON
def withdraw(grant_id: str, as_json: bool) -> None:
    """Close an open grant before its time."""
    if not _ID.fullmatch(grant_id):
        raise UsageError(f"{grant_id[:64]!r} is no grant", hint="teeth grant list shows what there is")
    with operator() as door:
        closed = door.delete(f"/v1/grants/{grant_id}")
    if as_json:
        emit(closed)
    else:
        click.echo(f"grant {clean(closed['id'])} is withdrawn")


def _machine(one: dict[str, Any]) -> str:
    return " ".join(part for part in (one["mac"], one["uuid"]) if part) or "any"
