"""Every node and every task of one endpoint: who is connected, what was asked, what became of it."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from teeth.endpoint import taskstate
from teeth.endpoint.dispatch import Dispatch, Seat
from teeth.endpoint.events import Feed, Landed, NodeConnected, NodeDisconnected, TaskChanged
from teeth.endpoint.hello import Hello
from teeth.endpoint.identity import PeerIdentity
from teeth.endpoint.logs import note
from teeth.endpoint.stores import Stores
from teeth.endpoint.taskstate import Status, Task, TaskState, Verdict
from teeth.endpoint.taskstore import Fit
from teeth.endpoint.transcript import Transcript
from teeth.errors import TeethError
from teeth_protocol.errors import ProblemError
from teeth_protocol.limits import Limits
from teeth_protocol.messages import valid_id
from teeth_protocol.strictjson import JsonError, dumps, loads
from teeth_stream import RemoteError

_log = logging.getLogger(__name__)
_ENVELOPE = 1024  # bytes a command's envelope and task_id may add to its params
# Nobody heard of for this long: their running tasks become unknown. An erase reports every half second and
# reconnects within a minute, so ten minutes is not a hiccup any more.
SILENCE = 600.0
T = TypeVar("T")


# Whether a handshake, on a connection with this identity, may become a session. Blocks. Raises ProblemError.
Admit = Callable[[Hello, PeerIdentity | None], None]


class Hub:
    """The heart of the endpoint. Use it from its event loop only."""

    def __init__(
        self,
        db: Stores,
        admit: Admit,
        transcript: Transcript,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        fit: Callable[[Seat, Task], Fit | None] = lambda _session, _task: None,
    ) -> None:
        """``jitter`` gives numbers in [0, 1), for its sessions' pings. ``fit``: see Dispatch."""
        self.db = db
        self.jitter = jitter
        self.clock = clock
        self.limits = limits or Limits()
        self.transcript = transcript
        self.nodes = db.nodes
        self.tasks = db.tasks
        self.feed = Feed()
        self._fit = fit
        self._dispatch = Dispatch(db, self._publish, self._fitted)
        self._admit = admit
        self._sessions: dict[str, Seat] = {}
        # Sessions whose end is not in the store yet: (session, reason, whether it was its node's newest).
        self._ended: dict[int, tuple[Seat, str, bool]] = {}
        self._kept: dict[asyncio.Future[Any], None] = {}
        self._joining = asyncio.Lock()

    # --- for whoever operates the endpoint

    async def run_task(
        self,
        node_id: str,
        method: str,
        params: Mapping[str, Any],
        *,
        task_id: str | None = None,
        sent: Mapping[str, Any] | None = None,
        landing_hash: str | None = None,
        hold: bool = False,
    ) -> str:
        """Ask a node to do something; returns the task's id at once.

        The task is on disk before this returns and is sent now or when the node connects. The same
        ``task_id`` with the same params asks nothing twice. ``sent`` are the params as the agent gets them,
        where they differ from ``params``. ``hold``: a two-step task that reaches "prepared" before
        ``release`` is told not to go; the agent then ends it with an error and stays where it is.
        Raises TeethError for what can never be sent, and for a destructive task while nobody knows what an
        earlier one did to this node (``settle_task``).
        """
        identity = task_id or f"t-{secrets.token_hex(8)}"
        if not valid_id(identity):
            raise TeethError(f"{identity[:128]!r} is not a task id", hint="1-128 of A-Z a-z 0-9 . _ : -")
        outgoing = params if sent is None else sent
        self._check_size(method, outgoing)
        task, new = await self.db.call(
            self.tasks.create, identity, node_id, method,
            asked=params, sent=outgoing, landing_hash=landing_hash, held=hold,
        )  # fmt: skip
        if new:
            note(_log, logging.INFO, "task asked", task=identity, node=node_id, method=method)
            self._publish(task)
        session = self._sessions.get(node_id)
        if new and session is not None:
            session.start(self._dispatch.send(session, task))
        return identity

    async def task(self, task_id: str) -> Task:
        """A task as it stands. Raises TeethError when there is none."""
        task = await self.db.call(self.tasks.get, task_id)
        if task is None:
            raise TeethError(f"there is no task {task_id}")
        return task

    async def task_events(self, task_id: str) -> AsyncIterator[TaskChanged]:
        """The task as it stands, then every change, up to the one that ends it."""
        with self.feed.subscribe() as watcher:
            task = await self.task(task_id)
            yield TaskChanged(task=task, fields={}, progress=False)
            while not task.state.over and (event := await watcher.get()) is not None:
                if not isinstance(event, TaskChanged) or event.task_id != task_id:
                    continue
                if event.task.revision <= task.revision:
                    continue  # queued before we read the task from disk
                task = event.task
                yield event

    async def wait_task(self, task_id: str) -> Task:
        """The task once it is over. Bound it with asyncio.timeout: an unknown task may stay so for ever."""
        task = await self.task(task_id)
        async for event in self.task_events(task_id):
            task = event.task
        return task

    async def call(
        self, node_id: str, method: str, params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A command that is no task (``status``, ``inventory``, ``cancel_task``), answered at once.

        Raises TeethError when the node is not connected or refuses.
        """
        session = self._sessions.get(node_id)
        if session is None:
            raise TeethError(f"node {node_id} is not connected")
        try:
            return await session.peer.call(method, dict(params or {}))
        except RemoteError as error:
            raise TeethError(f"node {node_id}: {method}: {error.problem.msg}") from error

    def connected(self) -> list[str]:
        """Ids of the nodes that have a session now."""
        return sorted(self._sessions)

    def seat(self, node_id: str) -> Seat | None:
        """The session of a node that has one now."""
        return self._sessions.get(node_id)

    async def cancel_task(self, task_id: str) -> Task:
        """Cancel a task as far as that is still possible; returns it as it stands.

        What was never sent is over (error ``cancelled``). Of all else only its agent can say what became of
        it: it is asked now and at every later handshake, and stops at its next safe point. The wish is on
        disk when this returns. A task that is over stays what it is. Raises TeethError when there is none.
        """
        task, moved = await self.db.call(self.tasks.change, task_id, taskstate.cancel_asked)
        if moved:
            note(_log, logging.INFO, "cancel asked", task=task_id, node=task.node_id)
            self._publish(task)
        session = self._sessions.get(task.node_id)
        if session is not None and not task.state.over:
            session.start(self._dispatch.ask_cancel(session, task))
        return task

    async def settle_task(self, task_id: str, state: TaskState, msg: str) -> Task:
        """What an operator found out about an ``unknown`` task: its node is free again. Returns it.

        ``state``: ERROR (code ``settled``) or COMPLETE. Raises TeethError for a task that is not unknown.
        """
        try:
            task, _ = await self.db.call(
                self.tasks.change, task_id,
                lambda old, now: taskstate.settled(old, state=state, msg=msg, now=now),
            )  # fmt: skip
        except ProblemError as error:
            raise TeethError(error.problem.msg) from error
        note(_log, logging.INFO, "task settled", task=task_id, node=task.node_id, state=state.value)
        self._publish(task)
        return task

    async def forget(self, node_id: str, remove: Callable[[str], None], *, force: bool) -> None:
        """End a node's session and let ``remove`` (which blocks) take what is known of it from the store.

        ``force``: although tasks of it are open. Those that were never sent end with an error, whatever else
        it was asked becomes unknown: nobody is left to say what it did. What ``remove`` raises comes out.
        """
        async with self._joining:
            if force:
                for task in await self.db.call(self.tasks.change_open, node_id, taskstate.forgotten):
                    self._publish(task)
            await self.db.call(remove, node_id)
            session = self._sessions.pop(node_id, None)
        note(_log, logging.INFO, "node forgotten", node=node_id)
        if session is not None:
            session.peer.fatal("not_enrolled: this node was forgotten")
            reason = "it was forgotten"
            self.feed.publish(NodeDisconnected(node_id=node_id, reason=reason, at=self.clock()))

    async def release(self, task_id: str) -> None:
        """Lift a task's hold: when it is prepared it may go."""
        task, moved = await self.db.call(self.tasks.change, task_id, taskstate.released)
        if moved:
            self._publish(task)

    # --- for the sessions

    async def joined(self, session: Seat, hello: Hello) -> tuple[dict[str, Any], list[Task]]:
        """Accept a handshake: (the rest of its answer, tasks to be sent). Raises ProblemError."""
        async with self._joining:
            await self.db.call(self._admit, hello, session.identity)
            older = self._sessions.get(hello.node_id)
            if older is not None:
                del self._sessions[hello.node_id]
                older.peer.fatal("a newer session of this node took over")
            opened = await self.db.call(
                self.nodes.open_session, hello.node_id, macs=hello.macs, boot_id=hello.boot_id,
                agent=hello.agent, peer=session.address, ramdisk=hello.ramdisk,
            )  # fmt: skip
            session.hello, session.session_id, session.epoch = hello, opened.session_id, opened.epoch
            changed, send = await self.db.call(
                self.tasks.resume, hello.node_id, boot_id=hello.boot_id, listed=hello.listed
            )
            for task in changed:
                self._publish(task)
            self._sessions[hello.node_id] = session
            known = await self.db.call(self.tasks.listing, hello.node_id)
        note(
            _log,
            logging.INFO,
            "node connected",
            node=hello.node_id,
            epoch=session.epoch,
            peer=session.address,
        )
        self.feed.publish(
            NodeConnected(
                node_id=hello.node_id, macs=hello.macs, boot_id=hello.boot_id, epoch=session.epoch,
                agent=hello.agent, at=self.clock(), timings=hello.timings,
            )
        )  # fmt: skip
        has = [
            {"task_id": task.task_id, "state": task.state.value, "seq": task.seq}
            for task in known
            if hello.listed is not None and task.task_id in hello.listed
        ]
        return {"time": self.clock(), "tasks": has}, send

    async def left(self, session: Seat, reason: str) -> None:
        """A session is over. What cannot be kept of that now is kept with the next look for silence."""
        newest = self._sessions.get(session.node_id) is session
        if newest:  # first of all: whatever becomes of the rest, nothing is sent to it any more
            del self._sessions[session.node_id]
        self._ended[session.session_id] = (session, reason, newest)
        await self._keep_end(session.session_id)

    async def ready(self, session: Seat, send: list[Task]) -> None:
        """The handshake is answered: repeat what somebody wants cancelled, then send the tasks that wait.

        Beside ``send`` these are tasks asked for while it was being answered: nothing could be sent then.
        """
        again = {task.task_id for task in send}
        waiting = []
        for task in await self.db.call(self.tasks.listing, session.node_id):
            if task.cancel_asked is not None and not task.state.over:
                session.start(self._dispatch.ask_cancel(session, task))
            elif task.task_id in again or task.state is TaskState.QUEUED:
                waiting.append(task)
        await self._dispatch.send_all(session, waiting)

    async def reported(self, session: Seat, status: Status) -> tuple[Task, Verdict]:
        """An agent said what became of a task: kept, then told to whoever watches. Raises ProblemError."""
        task, verdict = await self.db.call(self.tasks.report, session.node_id, session.epoch, status)
        if verdict is Verdict.APPLIED:
            progress = status.state is TaskState.RUNNING and not status.phase
            self.feed.publish(TaskChanged(task=task, fields=status.fields, progress=progress))
            self._freed(task)
        return task, verdict

    def keep(self, work: Awaitable[T]) -> asyncio.Future[T]:
        """Run ``work`` whatever becomes of its asker; ``close`` waits for it."""
        future = asyncio.ensure_future(work)
        self._kept[future] = None
        future.add_done_callback(lambda done: self._kept.pop(done, None))
        return future

    # --- for the landing door and the clock

    async def land(self, token_hash: str, body_digest: str, facts: dict[str, Any]) -> None:
        """A started system phoned home. Raises ProblemError when nobody waits for it."""
        task, first = await asyncio.shield(
            self.keep(self.db.call(self.tasks.land, token_hash, body_digest, facts))
        )
        if not first:
            return
        note(
            _log, logging.INFO, "landed", task=task.task_id, node=task.node_id, hostname=facts.get("hostname")
        )
        self.feed.publish(Landed(task_id=task.task_id, node_id=task.node_id, facts=facts, at=self.clock()))
        self._publish(task)

    async def recover(self) -> None:
        """At start: what was connected when the last endpoint ended is not connected now."""
        await self.db.call(self.nodes.close_stale_sessions)
        for node in await self.db.call(self.nodes.listing):
            await self.db.call(self.tasks.change_open, node.node_id, taskstate.disconnected)

    async def notice_silence(self) -> None:
        """Tasks of nodes that were silent for ten minutes become unknown: call it now and then."""
        for session_id in list(self._ended):
            await self._keep_end(session_id)
        for node_id in await self.db.call(self.nodes.silent_since, self.clock() - SILENCE):
            for task in await self.db.call(self.tasks.change_open, node_id, taskstate.silent):
                self._publish(task)

    async def close(self) -> None:
        """Hang up on everybody and finish what was begun."""
        for session in list(self._sessions.values()):
            session.peer.hang_up()
        while self._kept:
            await asyncio.gather(*self._kept, return_exceptions=True)
        self.feed.close()

    # --- inside

    async def _keep_end(self, session_id: int) -> None:
        """A session that stayed open in the store would be taken for a sign of life for ever."""
        ended = self._ended.pop(session_id, None)
        if ended is None:
            return
        session, reason, newest = ended
        try:
            await self.db.call(self.nodes.close_session, session_id, reason)
            if not newest or session.node_id in self._sessions:
                return
            changed = await self.db.call(self.tasks.change_open, session.node_id, taskstate.disconnected)
        except BaseException:
            self._ended[session_id] = ended
            raise
        for task in changed:
            self._publish(task)
        note(_log, logging.INFO, "node disconnected", node=session.node_id, reason=reason)
        self.feed.publish(NodeDisconnected(node_id=session.node_id, reason=reason, at=self.clock()))

    def _publish(self, task: Task) -> None:
        self.feed.publish(TaskChanged(task=task, fields={}, progress=False))
        self._freed(task)

    def _freed(self, task: Task) -> None:
        """A task that is over no longer holds its node: what waited for that goes out."""
        session = self._sessions.get(task.node_id)
        if session is not None and task.state.over:
            session.start(self._dispatch.send_waiting(session))

    def _fitted(self, session: Seat, task: Task) -> Fit | None:
        """What ``fit`` says, but for what would not go over the wire."""
        fit = self._fit(session, task)
        if fit is None:
            return None

        def fitted(params: Mapping[str, Any]) -> Mapping[str, Any]:
            changed = fit(params)
            try:
                self._check_size(task.method, changed)
            except TeethError:
                return params
            return changed

        return fitted

    def _check_size(self, method: str, params: Mapping[str, Any]) -> None:
        """What the agent would refuse as a broken line is refused here, where somebody can read it."""
        try:
            line = dumps({"params": {"task_id": "", **params}})
            if len(line) + _ENVELOPE > self.limits.line_from_endpoint:
                raise TeethError(
                    f"{method}: params of {len(line)} bytes are over the wire's limit of "
                    f"{self.limits.line_from_endpoint}"
                )
            loads(line, max_depth=self.limits.depth, max_values=self.limits.values)
        except (JsonError, ValueError, TypeError) as error:
            raise TeethError(f"{method}: params cannot go over the wire: {error}") from error
