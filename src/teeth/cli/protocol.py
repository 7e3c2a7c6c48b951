"""``teeth protocol``: does an endpoint or an agent, of whoever's making, keep to the protocol?"""

from __future__ import annotations

import contextlib
import json
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from teeth.conformance import report
from teeth.conformance.agentdoor import AgentDoor
from teeth.conformance.asking import Ask
from teeth.conformance.doors import EndpointDoor
from teeth.conformance.kit import check as play_all
from teeth.conformance.kit import passed, select
from teeth.conformance.play import Outcome
from teeth.conformance.tls import Address, Credential, load_credential, show_address
from teeth.conformance.transcript import Transcript
from teeth.errors import UsageError
from teeth.paths import find_checkout
from teeth.proc import run as run_tool

_ASK_SECONDS = 30.0
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def protocol() -> None:
    """The wire protocol: check who speaks it."""


@protocol.command()
@click.option("--endpoint", metavar="HOST:PORT", help="Test the endpoint that listens there.")
@click.option("--agent", is_flag=True, help="Test the agent that dials --listen.")
@click.option("--listen", metavar="HOST:PORT", help="Where the agent is to dial; port 0 takes any free one.")
@click.option("--tls", is_flag=True, help="By TLS. Without it, plain text.")
@click.option("--ca", type=_FILE, help="The endpoint's authority, a PEM file.")
@click.option("--ca-digest", metavar="sha256:HEX", help="The endpoint's authority, by its digest.")
@click.option("--cert", type=_FILE, help="Our certificate, a PEM file (with its chain, when we listen).")
@click.option("--key", type=_FILE, help="Its key.")
@click.option("--token", help="Join token: the kit enrols itself with it and uses the certificate it gets.")
@click.option("--mac", help="The MAC for which the token was given.")
@click.option(
    "--ask", "ask_command", metavar="COMMAND", help="What makes the endpoint ask {node} to do {method}."
)
@click.option(
    "--plan-safe", is_flag=True, help="Vouch that this agent obeys plan: true. Else no plan is sent."
)
@click.option("--slow", is_flag=True, help="Also what waits for the protocol's timers (3 min).")
@click.option("--seed-only", is_flag=True, help="Only what stands for a line of the seed.")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only these transcripts; * and ? stand for letters."
)
@click.option(
    "--transcripts",
    type=click.Path(path_type=Path, file_okay=False),
    help="Their folder.  [default: the checkout's]",
)
@click.option("--patience", type=click.FloatRange(1, 3600), default=60.0, show_default=True,
              help="Seconds to wait for an agent to dial.")  # fmt: skip
@click.option("--stretch", type=click.FloatRange(0.1, 100), default=1.0, show_default=True,
              help="Give answers so many times as long: for a slow line.")  # fmt: skip
@click.option("--list", "list_only", is_flag=True, help="Say what would be played, and end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def check(**options: Any) -> int:
    """Play golden transcripts against an endpoint or an agent and say which it keeps to.

    Nothing is ever erased: see docs/conformance.md. Ends with 0 when all that is required passed, with 1 when
    not, with 2 when nothing could be tested.
    """
    _check_options(options)
    side = "agent" if options["agent"] else "endpoint"
    folder = options["transcripts"] or find_checkout().root / "tests/protocol/transcripts"
    chosen = select(folder, side, only=options["only"], seed_only=options["seed_only"])
    if options["list_only"]:
        if options["as_json"]:
            click.echo(json.dumps(report.listing_json(chosen), ensure_ascii=False, indent=1))
        else:
            click.echo("\n".join([*report.listing(chosen), f"{len(chosen)} transcripts for an {side}"]))
        return 0
    with contextlib.closing(_agent_door(options) if side == "agent" else _endpoint_door(options)) as door:
        outcomes = _play(chosen, door, options)
    return 0 if passed(outcomes) else 1


def _play(
    chosen: list[Transcript], door: EndpointDoor | AgentDoor, options: Mapping[str, Any]
) -> list[Outcome]:
    quiet = options["as_json"]
    if not quiet:
        click.echo(report.heading())
    outcomes = play_all(
        chosen, door, tls=options["tls"], slow=options["slow"], stretch=options["stretch"],
        ask=_asking(options["ask_command"]),
        say=lambda outcome: None if quiet else click.echo(report.row(outcome)),
    )  # fmt: skip
    if quiet:
        click.echo(json.dumps(report.as_json(outcomes), ensure_ascii=False, indent=1))
        return outcomes
    for outcome in outcomes:
        if outcome.status == "fail":
            click.echo("\n" + "\n".join(report.failure(outcome)))
    why = {outcome.message for outcome in outcomes if outcome.status == "skip"}
    click.echo("".join(f"\nskipped: {message}" for message in sorted(why)))
    click.echo(report.last_words(outcomes))
    return outcomes


def _endpoint_door(options: Mapping[str, Any]) -> EndpointDoor:
    address = _address(options["endpoint"], "--endpoint", least_port=1)
    if not options["tls"]:
        return EndpointDoor(address)
    return EndpointDoor.tls(
        address, ca=options["ca"], digest=options["ca_digest"], credential=_credential(options),
        token=options["token"], mac=options["mac"],
    )  # fmt: skip


def _agent_door(options: Mapping[str, Any]) -> AgentDoor:
    door = AgentDoor(
        _address(options["listen"], "--listen", least_port=0), tls=options["tls"],
        credential=_credential(options), patience=options["patience"], plan_safe=options["plan_safe"],
    )  # fmt: skip
    authority = f" ca={door.digest}" if door.digest else ""
    # On standard error: --json leaves standard output to its one object.
    click.echo(f"listening agent={show_address(door.address)}{authority}", err=True)
    return door


def _credential(options: Mapping[str, Any]) -> Credential | None:
    return load_credential(options["cert"], options["key"]) if options["cert"] else None


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises UsageError for options that contradict each other, or for one that is missing."""
    if options["list_only"] and not options["endpoint"] and not options["agent"]:
        return  # the endpoint's, then
    if bool(options["endpoint"]) == bool(options["agent"]):
        raise UsageError("say whom to test: --endpoint HOST:PORT, or --agent --listen HOST:PORT")
    if options["agent"] and not options["listen"] and not options["list_only"]:
        raise UsageError("--agent needs --listen HOST:PORT, where the agent is to dial")
    if options["listen"] and not options["agent"]:
        raise UsageError("--listen goes with --agent")
    if bool(options["cert"]) != bool(options["key"]):
        raise UsageError("--cert and --key go together")
    given = [f"--{name.replace('_', '-')}" for name in ("ca", "ca_digest", "cert", "token") if options[name]]
    if given and not options["tls"]:
        raise UsageError(f"{given[0]} goes with --tls")
    if options["agent"] and (wrong := [name for name in given if name != "--cert"]):
        raise UsageError(f"{wrong[0]} is for testing endpoints")
    if options["tls"] and options["endpoint"] and bool(options["ca"]) == bool(options["ca_digest"]):
        raise UsageError("--tls needs one of --ca FILE and --ca-digest sha256:HEX")
    if options["cert"] and options["token"]:
        raise UsageError("one of --cert and --token, not both")


def _address(text: str, option: str, *, least_port: int) -> Address:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit()) or not least_port <= int(port) <= 65535:
        raise UsageError(f"{option}: {text!r} is not HOST:PORT")
    return host, int(port)


def _asking(command: str | None) -> Ask | None:
    """``command`` with {node}, {method}, {task_id}, {params} (JSON) and {file} (with that) filled in."""
    if command is None:
        return None
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--ask: {error}") from None

    def ask(node: str, method: str, task_id: str, params: dict[str, Any]) -> None:
        text = json.dumps(params)
        with tempfile.NamedTemporaryFile("w", prefix="teeth-params-", suffix=".json") as file:
            file.write(text)
            file.flush()
            values = {"node": node, "method": method, "task_id": task_id, "params": text, "file": file.name}
            run_tool([_filled(word, values) for word in words], timeout=_ASK_SECONDS)

    return ask


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word
