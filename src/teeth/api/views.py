"""From what the endpoint knows to the shapes of the door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from teeth.api.problems import ApiError, quoted
from teeth.api.shapes import NodeBrief, TaskBrief, TaskEvent, TaskFull
from teeth.boot.ipxe import normal_mac
from teeth.endpoint.nodestore import Node
from teeth.endpoint.pages import EventRow, OpenTask
from teeth.endpoint.taskstate import Task, TaskState
from teeth.errors import TeethError, UsageError
from teeth.service import Endpoint


async def node_briefs(endpoint: Endpoint, nodes: Sequence[Node]) -> list[NodeBrief]:
    ids = [node.node_id for node in nodes]
    open_tasks = await endpoint.look(lambda pages: pages.open_tasks(ids))
    unsure = [task for task in open_tasks if task.state is TaskState.UNKNOWN]
    held = {task.node_id for task in unsure if (await endpoint.task(task.task_id)).holds_node}
    return [_brief(endpoint, node, open_tasks, node.node_id in held) for node in nodes]


def _brief(endpoint: Endpoint, node: Node, open_tasks: Sequence[OpenTask], held: bool) -> NodeBrief:
    mine = [task for task in open_tasks if task.node_id == node.node_id]
    session = endpoint.session(node.node_id)
    hello = None if session is None else session.hello
    return NodeBrief(
        id=node.node_id,
        connected=session is not None,
        held=held,
        address=None if session is None else session.address,
        agent=node.agent,
        ramdisk=None if hello is None else hello.ramdisk,
        boot_id=node.boot_id,
        macs=list(node.macs),
        first_seen=node.first_seen,
        last_seen=node.last_seen,
        open_tasks=[task.task_id for task in mine],
        methods=None if hello is None or hello.methods is None else list(hello.methods),
    )


def task_brief(task: Task) -> TaskBrief:
    return TaskBrief(
        task_id=task.task_id, node=task.node_id, method=task.method, state=task.state, held=task.held,
        percent=task.percent, eta=task.eta, step=task.step, phase=task.phase, code=task.code, msg=task.msg,
        cancel_asked=task.cancel_asked, created=task.created, updated=task.updated, finished=task.finished,
    )  # fmt: skip


def task_full(task: Task) -> TaskFull:
    return TaskFull(
        **task_brief(task).model_dump(),
        boot_id=task.boot_id,
        awaits_landing=task.awaits_landing,
        params=dict(task.params),
        result=None if task.result is None else dict(task.result),
    )


def task_event(task_id: str, row: EventRow) -> TaskEvent:
    body = row.body
    return TaskEvent(
        id=row.id, task_id=task_id, at=row.at, state=TaskState(row.state), percent=body["percent"],
        eta=body["eta"], step=body["step"], phase=body["phase"], code=body.get("code", ""),
        msg=body.get("msg", ""), fields=body.get("fields", {}),
    )  # fmt: skip


async def find_node(endpoint: Endpoint, name: str) -> Node:
    """The node that ``name`` means: its id, the beginning of it that no other has, or one of its MACs.

    Raises ApiError: node_unknown with ids that look like it, node_ambiguous with those that it may mean.
    """
    try:
        mac = normal_mac(name)
    except UsageError:
        mac = None
    found = await endpoint.look(lambda pages: pages.named(name, mac))
    if len(found) > 1:
        some = f"{', '.join(found[:10])}{', ...' if len(found) > 10 else ''}"
        raise ApiError(409, "node_ambiguous", f"{quoted(name)} may be {some}", hint="give more of the id")
    return await exact_node(endpoint, found[0] if found else name)


async def exact_node(endpoint: Endpoint, node_id: str) -> Node:
    """The node of exactly this id: what changes something never guesses. Raises ApiError node_unknown."""
    node = await endpoint.node(node_id)
    if node is None:
        near = await endpoint.look(lambda pages: pages.near(node_id))
        hint = f"near to it: {', '.join(near)}" if near else "no machine has ever dialled this endpoint"
        raise ApiError(404, "node_unknown", f"there is no node {quoted(node_id)}", hint=hint)
    return node


async def find_task(endpoint: Endpoint, task_id: str) -> Task:
    """Raises ApiError task_unknown."""
    try:
        return await endpoint.task(task_id)
    except TeethError as error:
        hint = "teeth task list shows what there is"
        raise ApiError(404, "task_unknown", f"there is no task {quoted(task_id)}", hint=hint) from error


def find_image(endpoint: Endpoint, name: str) -> dict[str, Any]:
    """The params of an image. Raises ApiError image_unknown."""
    try:
        return endpoint.image(name)
    except UsageError as error:
        names = endpoint.image_names()
        hint = f"it offers {', '.join(names[:10])}" if names else "teeth image add, or --image, gives it some"
        msg = f"this endpoint offers no image {quoted(name)}"
        raise ApiError(404, "image_unknown", msg, hint=hint) from error
