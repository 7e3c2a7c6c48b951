"""Task commands on their way to an agent: sent once it may have them, and what its answer means."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from teeth.endpoint import taskstate
from teeth.endpoint.hello import Hello
from teeth.endpoint.identity import PeerIdentity
from teeth.endpoint.logs import note
from teeth.endpoint.stores import Stores
from teeth.endpoint.taskstate import Task
from teeth.endpoint.taskstore import Fit
from teeth_protocol import methods
from teeth_protocol.errors import Problem
from teeth_stream import Peer, RemoteError

_log = logging.getLogger(__name__)
# Too many commands wait for this agent's answers: it is asked again when some have come.
_RETRY = 1.0
# An agent's own word that it closes: like a connection that was lost, the next session decides.
_NOT_NOW = frozenset({"connection_lost", "draining"})


class Seat(Protocol):
    """What the hub needs of a session."""

    peer: Peer
    address: str
    hello: Hello | None
    identity: PeerIdentity | None
    session_id: int
    epoch: int

    @property
    def node_id(self) -> str: ...

    @property
    def boot_id(self) -> str: ...

    def start(self, job: Awaitable[Any]) -> None: ...


class Dispatch:
    """Sends tasks and cancellations. ``publish`` is told of every task that changed by an answer; ``fitted``
    says what a task's params become for this session's machine, None if nothing."""

    def __init__(
        self, stores: Stores, publish: Callable[[Task], None], fitted: Callable[[Seat, Task], Fit | None]
    ) -> None:
        self._fitted = fitted
        self._stores = stores
        self._publish = publish
        self._under_way: set[tuple[int, str]] = set()  # (session, task) whose command is being sent

    async def send_all(self, session: Seat, tasks: list[Task]) -> None:
        for task in tasks:
            await self.send(session, task)

    async def send_waiting(self, session: Seat) -> None:
        """What waited for this node to be free."""
        stores = self._stores
        await self.send_all(session, await stores.call(stores.tasks.waiting, session.node_id))

    async def send(self, session: Seat, task: Task) -> None:
        """Send a task's command, unless the store has a reason not to.

        Never twice at once: of two commands the agent could refuse the first and accept the second, and the
        refusal would be kept.
        """
        key = (session.session_id, task.task_id)
        if key in self._under_way:
            return
        self._under_way.add(key)
        try:
            await self._send(session, task)
        finally:
            self._under_way.discard(key)

    async def _send(self, session: Seat, task: Task) -> None:
        """The store is asked before every attempt: while this one waited the task may have been cancelled."""
        stores = self._stores
        while True:
            params = await stores.call(
                stores.tasks.sending,
                task.task_id,
                session.boot_id,
                session.epoch,
                self._fitted(session, task),
            )
            if params is None:
                return
            try:
                await session.peer.call(task.method, {"task_id": task.task_id, **params})
            except RemoteError as error:
                if not (error.unsent and error.problem.code == "busy"):
                    await self._not_accepted(session, task, error.problem)
                    return
                await asyncio.sleep(_RETRY)
            else:
                await self._apply(session, task, taskstate.accepted)
                return

    async def ask_cancel(self, session: Seat, task: Task) -> None:
        """Tell the agent that a task is to stop. Every later session repeats it, until the task is over."""
        try:
            await session.peer.call(methods.CANCEL_TASK, {"task_id": task.task_id})
        except RemoteError as error:
            problem = error.problem
            if problem.code == "unknown_task":
                await self._apply(
                    session, task, lambda old, now: taskstate.not_there(old, session.boot_id, now)
                )
            elif problem.code not in _NOT_NOW:
                note(
                    _log, logging.WARNING, "cancel not taken", task=task.task_id, node=task.node_id,
                    code=problem.code,
                )  # fmt: skip

    async def _not_accepted(self, session: Seat, task: Task, problem: Problem) -> None:
        if problem.code in _NOT_NOW:
            return  # sent again when the node is back; the id makes that harmless
        if problem.code == "timeout":
            # Only a new session can tell whether the agent has it.
            session.peer.hang_up()
            return
        note(_log, logging.WARNING, "task refused", task=task.task_id, node=task.node_id, code=problem.code)
        await self._apply(
            session, task, lambda old, now: taskstate.refused(old, problem.code, problem.msg, now)
        )

    async def _apply(self, session: Seat, task: Task, step: Callable[[Task, float], Task]) -> None:
        """What the agent answered is news only while its session is the newest one."""
        stores = self._stores
        changed, moved = await stores.call(stores.tasks.change, task.task_id, step, epoch=session.epoch)
        if moved:
            self._publish(changed)
