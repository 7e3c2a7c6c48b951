"""Bugs put in on purpose, one at a time, to see that they are found. The product's code has none of this."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from teeth.endpoint import taskstate
from teeth.endpoint.events import TaskChanged
from teeth.endpoint.hub import Hub
from teeth.endpoint.taskstate import Task, TaskState, Verdict
from teeth.endpoint.taskstore import TaskStore
from teeth_agent.session.journal import MemoryJournal
from teeth_agent.session.report import TaskLog
from teeth_agent.session.taskrunner import TaskRunner
from teeth_agent.tasks.context import Claims
from teeth_stream import Peer

Patch = contextlib.AbstractContextManager[Any]


def _nothing(world: Any) -> None:
    """An honest disk keeps what it said it keeps."""


@dataclass(frozen=True)
class Plants:
    """Where the world asks before it uses the product's own. ``patches`` are entered for the run."""

    name: str = "honest"
    what: str = "the product as it is"
    runner: type[TaskRunner] = TaskRunner
    journal: Callable[[Any], Any] = lambda journal: journal
    endpoint_died: Callable[[Any], None] = _nothing
    patches: Callable[[], list[Patch]] = field(default=list)

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for patch in self.patches():
                stack.enter_context(patch)
            yield


HONEST = Plants()


# --- the endpoint says yes before its disk does


class _Cache:
    """Reports stay in memory for a while: a kill of the endpoint loses them."""

    def __init__(self) -> None:
        self.fresh: list[tuple[float, Task]] = []

    def patches(self) -> list[Patch]:
        self.fresh.clear()
        report = TaskStore.report

        def cached(store: Any, node_id: str, epoch: int, status: Any) -> Any:
            before = store.get(status.task_id)
            result = report(store, node_id, epoch, status)
            if before is not None:
                self.fresh.append((store._clock(), before))
            return result

        return [mock.patch.object(TaskStore, "report", cached)]

    def lost(self, world: Any) -> None:
        now = world.endpoint.clock()
        for at, before in reversed(self.fresh):
            if 0 <= now - at < 1.5:
                world.endpoint.disk.tasks[before.task_id] = before
                world.endpoint.disk.params.setdefault(before.task_id, {})
        self.fresh.clear()


_cache = _Cache()


# --- the agent


class _StartsAgain(TaskRunner):
    """A repeated command is taken for a new one."""

    def start(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        known = self._tasks.pop(str(params.get("task_id")), None)
        if known is not None:
            self._claims.leave(known.id)
        return super().start(method, params)


class _ChangesItsMind(TaskRunner):
    """An end that has to be said again gets another number."""

    async def _send_outbox(self, peer: Peer, task: TaskLog) -> bool:
        if task.outbox and task.outbox[0].is_end:
            task.outbox[0].params = {**task.outbox[0].params, "seq": task.seq + 1}
            task.seq += 1
        return await super()._send_outbox(peer, task)


# --- the endpoint's rules


def _last_end_wins() -> list[Patch]:
    report = taskstate.report

    def again(task: Task, status: Any, now: float) -> tuple[Task, Verdict]:
        if task.state.over and status.state.over and status.digest != task.final_digest:
            return dataclasses.replace(task, final_digest=status.digest, seq=status.seq), Verdict.APPLIED
        return report(task, status, now)

    return [mock.patch.object(taskstate, "report", again)]


def _no_fence() -> list[Patch]:
    report, fatal = TaskStore.report, Peer.fatal

    def unfenced(store: Any, node_id: str, epoch: int, status: Any) -> Any:
        with store._begin() as rows:
            newest = rows.epoch(node_id)
        return report(store, node_id, newest, status)

    def polite(peer: Peer, message: str) -> None:
        if not message.startswith("a newer session"):
            fatal(peer, message)

    return [mock.patch.object(TaskStore, "report", unfenced), mock.patch.object(Peer, "fatal", polite)]


def _unknown_is_free() -> list[Patch]:
    reconnected = taskstate.reconnected

    def again(task: Task, **what: Any) -> tuple[Task, bool]:
        after, send = reconnected(task, **what)
        if after.state is TaskState.UNKNOWN and after.phase != "leaving":
            return dataclasses.replace(after, state=TaskState.QUEUED, boot_id=None), True
        return after, send

    return [mock.patch.object(taskstate, "reconnected", again)]


def _unknown_holds_nothing() -> list[Patch]:
    return [mock.patch.object(Task, "holds_node", property(lambda task: False))]


def _cancel_is_an_end() -> list[Patch]:
    def ended(task: Task, now: float) -> Task:
        return task if task.state.over else taskstate._cancelled(task, "cancelled before it was sent", now)

    return [mock.patch.object(taskstate, "cancel_asked", ended)]


def _waiting_is_forgotten() -> list[Patch]:
    return [
        mock.patch.object(TaskStore, "waiting", return_value=[]),
        mock.patch.object(taskstate, "may_send", lambda task, others: task.boot_id is None),
    ]


def _watched_by_the_clock() -> list[Patch]:
    async def task_events(hub: Any, task_id: str) -> AsyncIterator[TaskChanged]:
        with hub.feed.subscribe() as watcher:
            task = await hub.task(task_id)
            yield TaskChanged(task=task, fields={}, progress=False)
            updated = task.updated
            while not task.state.over and (event := await watcher.get()) is not None:
                mine = isinstance(event, TaskChanged) and event.task_id == task_id
                if mine and event.task.updated >= updated:
                    task = event.task
                    yield event

    return [mock.patch.object(Hub, "task_events", task_events)]


def _no_claims() -> list[Patch]:
    return [
        mock.patch.object(Claims, "enter", return_value=None),
        mock.patch.object(Claims, "claim", return_value=None),
    ]


PLANTS: Mapping[str, Plants] = {
    plant.name: plant
    for plant in (
        Plants(
            name="ack-not-persisted", what="the endpoint acknowledges a status before it is on its disk",
            patches=_cache.patches, endpoint_died=_cache.lost,
        ),
        Plants(
            name="acceptance-not-kept", what="the agent's journal does not outlive its process",
            journal=lambda journal: MemoryJournal(),
        ),
        Plants(
            name="repeat-starts-again", what="a repeated command starts its task again", runner=_StartsAgain
        ),
        Plants(name="end-changes", what="an end is not repeated word for word", runner=_ChangesItsMind),
        Plants(
            name="last-end-wins", what="an acknowledged end is followed by another", runner=_ChangesItsMind,
            patches=_last_end_wins,
        ),
        Plants(name="no-fence", what="an older session goes on talking and is believed", patches=_no_fence),
        Plants(
            name="unknown-is-free", what="a task that may have been begun is sent to the next boot",
            patches=_unknown_is_free,
        ),
        Plants(
            name="unknown-holds-nothing", what="a node in doubt gets the next destructive task",
            patches=_unknown_holds_nothing,
        ),
        Plants(
            name="cancel-is-an-end", what="a task that runs is called cancelled at once",
            patches=_cancel_is_an_end,
        ),
        Plants(
            name="waiting-is-forgotten", what="a command whose answer was lost is never sent again",
            patches=_waiting_is_forgotten,
        ),
        Plants(
            name="watched-by-the-clock", what="what is newer is told by a clock that may be set",
            patches=_watched_by_the_clock,
        ),
        Plants(name="no-claims", what="two tasks may be at one drive", patches=_no_claims),
    )
}  # fmt: skip
