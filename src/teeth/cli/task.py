"""``teeth task``: what machines are asked to do, and what becomes of it."""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from teeth.api.client import Operator
from teeth.cli.confirm import confirm
from teeth.cli.door import AS_JSON, operator
from teeth.cli.follow import outcome, watch
from teeth.cli.node import address, disks_of
from teeth.cli.params import read_params
from teeth.cli.show import ago, cell, clean, console, emit, facts, size, state, table, tree, when
from teeth.endpoint.taskstate import TaskState, is_destructive
from teeth.errors import UsageError
from teeth_protocol.messages import valid_id

_WATCH_HELP = """Exit status: 0 complete, 1 ended in error, 2 wrong input or refused, 3 nobody knows what
became of it, 4 no endpoint answered, 130 Ctrl-C (the task goes on)."""
_SHOWN_EVENTS = 30
TASK = click.argument("task_id", metavar="TASK")


@click.group()
def task() -> None:
    """Tasks: ask machines for something, see what becomes of it."""


@task.command(epilog=_WATCH_HELP)
@click.argument("method")
@click.argument("node")
@click.option(
    "--params",
    "params_file",
    metavar="FILE",
    help="The task's params, a JSON object; - reads them from standard input.",
)
@click.option(
    "--param", "pairs", metavar="NAME=JSON", multiple=True, help="One param, over those of --params."
)
@click.option("--image", metavar="ID", help="For standbye.prepare_image: an image of this endpoint.")
@click.option(
    "--report-file",
    "report_files",
    metavar="PATH",
    multiple=True,
    help="For standbye.run_image: what the started system reports.",
)
@click.option("--task-id", metavar="ID", help="Makes the order repeatable: the same id asks nothing twice.")
@click.option("--hold", is_flag=True, help="Prepare, but wait for teeth task release before leaving.")
@click.option("--watch", "-w", "watching", is_flag=True, help="Show it until it is over.")
@click.option("--yes", is_flag=True, help="Do not ask before what changes the machine's drives.")
@AS_JSON
def run(
    method: str,
    node: str,
    params_file: str | None,
    pairs: tuple[str, ...],
    image: str | None,
    report_files: tuple[str, ...],
    task_id: str | None,
    hold: bool,
    watching: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Ask NODE for METHOD (decom.disk_erase, standbye.prepare_image, ...).

    The task is on disk before this returns; it is sent when the machine is connected.
    """
    _require_id(task_id)
    params = read_params(params_file, pairs)
    order = {
        "method": method, "params": params, "task_id": task_id, "hold": hold, "image": image,
        "report_files": list(report_files),
    }  # fmt: skip
    with operator() as door:
        known = door.get(address(node))
        _require_served(known, method)
        if is_destructive(method, params):
            question = _question(door, known, method)
            confirm(question, yes=yes, act=f"{method} on node {clean(known['id'])} changes its drives and")
        made = door.post("/v1/tasks", {**order, "node": known["id"]})
        if watching:
            _watch(door, made["task_id"], as_json=as_json)
            return
    if as_json:
        emit(made)
    else:
        console().print(outcome(made))


@task.command("list")
@click.option("--node", "-n", help="Of this node only.")
@click.option("--method", help="Of this method only.")
@click.option(
    "--state",
    "states",
    type=click.Choice([one.value for one in TaskState]),
    multiple=True,
    help="In these states only.",
)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@AS_JSON
def list_tasks(
    node: str | None, method: str | None, states: tuple[str, ...], limit: int, as_json: bool
) -> None:
    """Tasks, the newest first."""
    with operator() as door:
        tasks = list(door.pages("/v1/tasks", "tasks", most=limit, node=node, method=method, state=states))
    if as_json:
        emit(tasks)
        return
    table(
        ("task", "node", "method", "state", "%", "step", "updated", "why"),
        (
            (
                cell(one["task_id"]), cell(one["node"]), cell(one["method"]), state(one),
                cell(f"{one['percent']:.0f}"), cell(one["step"] or one["phase"]), cell(ago(one["updated"])),
                cell(one["code"]),
            )
            for one in tasks
        ),
        empty="no tasks",
    )  # fmt: skip


@task.command()
@TASK
@AS_JSON
def show(task_id: str, as_json: bool) -> None:
    """One task: params, result and history."""
    _require_id(task_id)
    with operator() as door:
        found = door.get(f"/v1/tasks/{task_id}")
    if as_json:
        emit(found)
        return
    one = found["task"]
    facts(_facts(one))
    console().print(Text("params", "bold"), tree(one["params"]), sep="\n")
    if one["result"] is not None:
        console().print(Text("result", "bold"), tree(one["result"]), sep="\n")
    table(
        ("at", "state", "%", "step", "phase", "why"),
        (
            (
                cell(when(event["at"])), cell(event["state"]), cell(f"{event['percent']:.0f}"),
                cell(event["step"]), cell(event["phase"]), cell(event["code"]),
            )
            for event in turns(found["events"])[-_SHOWN_EVENTS:]
        ),
        empty="no history",
    )  # fmt: skip


@task.command("watch", epilog=_WATCH_HELP)
@TASK
@AS_JSON
def watch_task(task_id: str, as_json: bool) -> None:
    """Show a task until it is over. With --json: a JSON object a line."""
    _require_id(task_id)
    with operator() as door:
        door.get(f"/v1/tasks/{task_id}", limit=1)
        _watch(door, task_id, as_json=as_json)


@task.command()
@TASK
@AS_JSON
def cancel(task_id: str, as_json: bool) -> None:
    """Cancel a task: at once if it was never sent, else at its next safe point.

    What a drive has begun it may have to end: watch the task to see what became of it.
    """
    _act(task_id, "cancel", None, as_json)


@task.command()
@TASK
@click.option("--complete", "end", flag_value="complete", help="It did all that it was asked for.")
@click.option("--error", "end", flag_value="error", help="It did not.")
@click.option("--msg", required=True, help="How you know, for those who read it later.")
@AS_JSON
def settle(task_id: str, end: str | None, msg: str, as_json: bool) -> None:
    """Say how an unknown task ended, after looking at the machine: its node is free again."""
    if end is None:
        raise UsageError("say how it ended: --complete or --error")
    _act(task_id, "settle", {"state": end, "msg": msg}, as_json)


@task.command()
@TASK
@AS_JSON
def release(task_id: str, as_json: bool) -> None:
    """Let a task that was asked with --hold go on."""
    _act(task_id, "release", None, as_json)


def turns(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a history, where something else began, and its newest entry: not every percent."""
    kept = []
    before: tuple[Any, ...] = ()
    for event in events:
        now = tuple(event[name] for name in ("state", "step", "phase", "code"))
        if now != before:
            kept.append(event)
        before = now
    return kept if not events or kept[-1] is events[-1] else [*kept, events[-1]]


def _act(task_id: str, act: str, body: dict[str, Any] | None, as_json: bool) -> None:
    _require_id(task_id)
    with operator() as door:
        changed = door.post(f"/v1/tasks/{task_id}/{act}", body)
    if as_json:
        emit(changed)
        return
    said = outcome(changed)
    if act == "cancel" and changed["state"] not in ("complete", "error"):
        said.append("; the machine was asked to stop at its next safe point")
    console().print(said)


def _watch(door: Operator, task_id: str, *, as_json: bool) -> None:
    code = watch(door, task_id, as_json=as_json)
    if code:
        click.get_current_context().exit(code)


def _require_id(task_id: str | None) -> None:
    if task_id is not None and not valid_id(task_id):
        raise UsageError(f"{task_id[:128]!r} is not a task id", hint="1-128 of A-Z a-z 0-9 . _ : -")


def _require_served(known: dict[str, Any], method: str) -> None:
    """A mistyped method is told before anybody is asked whether it is meant."""
    served = known["methods"]
    if served is not None and method not in served:
        hint = f"it serves {', '.join(clean(one) for one in served)}"
        raise UsageError(f"node {clean(known['id'])} serves no {method}", hint=hint)


def _question(door: Operator, known: dict[str, Any], method: str) -> str:
    found = door.get(f"{address(known['id'])}/inventory")
    drives = [
        _drive(disk)
        for disk in disks_of(found["inventory"])
        if not (disk.get("out_of_scope") or disk.get("virtual_media"))
    ]
    listed = "\n".join(drives) if drives else "  (which drives it has is not known)"
    macs = ", ".join(known["macs"])
    return f"{method} changes the drives of node {clean(known['id'])} ({macs}):\n{listed}\nGo on?"


def _drive(disk: dict[str, Any]) -> str:
    count = disk.get("size")
    much = size(count) if isinstance(count, int | float) else "?"
    name = clean(disk.get("serial") or disk.get("name"))
    return f"  {name}  {much}  {clean(disk.get('model') or '')}".rstrip()


def _facts(one: dict[str, Any]) -> list[tuple[str, Text]]:
    pairs = [
        ("task", cell(one["task_id"])),
        ("node", cell(one["node"])),
        ("method", cell(one["method"])),
        ("state", state(one)),
        ("percent", cell(f"{one['percent']:.1f}")),
        ("step", cell(one["step"])),
        ("phase", cell(one["phase"])),
        ("boot", cell(one["boot_id"])),
        ("created", cell(when(one["created"]))),
        ("updated", cell(when(one["updated"]))),
        ("finished", cell(when(one["finished"]))),
    ]
    if one["cancel_asked"] is not None:
        pairs.append(("cancel asked", cell(when(one["cancel_asked"]))))
    if one["code"]:
        pairs.append(("why", cell(f"{one['code']}: {one['msg']}")))
    return pairs
