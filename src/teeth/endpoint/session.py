"""One agent's connection: who it is, what it says, what it is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from teeth import __version__
from teeth.endpoint.events import InventoryReceived, LogReceived, NodeRefused, TaskChanged
from teeth.endpoint.hello import Hello, parse_hello
from teeth.endpoint.hub import Hub
from teeth.endpoint.logs import note
from teeth.endpoint.taskstate import TaskState, Verdict, parse_status
from teeth_protocol import methods
from teeth_protocol.connection import Closed, Role
from teeth_protocol.errors import ProblemError
from teeth_stream import Peer, Reader, RemoteError, Writer

_log = logging.getLogger(__name__)
_INVENTORY_TIMEOUT = 60.0  # reading every disk's identity may wait for a disk that spins up
_HOLD_POLL = 5.0  # seconds after which a prepared machine that is held asks again
T = TypeVar("T")


class Session:
    """Runs one connection to its end and answers its commands."""

    def __init__(self, hub: Hub, number: int, address: str, reader: Reader, writer: Writer) -> None:
        self._hub = hub
        self._number = number
        self.address = address
        self.hello: Hello | None = None
        self.session_id = 0
        self.epoch = 0
        # In the order of their start, which is the order of their end: a set's would differ from run to run.
        self._jobs: dict[asyncio.Future[Any], None] = {}
        self._joining: asyncio.Future[Any] | None = None
        self.peer = Peer(Role.ENDPOINT, reader, writer, self._answer, limits=hub.limits, tap=self._tap)

    @property
    def node_id(self) -> str:
        return self.hello.node_id if self.hello is not None else ""

    @property
    def boot_id(self) -> str:
        return self.hello.boot_id if self.hello is not None else ""

    async def run(self) -> None:
        """Until the connection is over."""
        closed = Closed(reason="the endpoint failed", fatal=False)
        try:
            closed = await self.peer.run()
        finally:
            for job in self._jobs:
                job.cancel()
            # A handshake that was being accepted when the connection went is accepted now, and over.
            unfinished = [] if self._joining is None else [self._joining]
            await asyncio.gather(*self._jobs, *unfinished, return_exceptions=True)
            if self.hello is not None:
                await asyncio.shield(self._hub.left(self, closed.reason))
            else:
                note(
                    _log,
                    logging.INFO,
                    "connection without a handshake",
                    peer=self.address,
                    reason=closed.reason,
                )

    def start(self, job: Awaitable[Any]) -> None:
        """Run something beside the conversation, for no longer than it lasts."""
        task = asyncio.ensure_future(job)
        self._jobs[task] = None
        task.add_done_callback(self._done)

    async def _answer(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == methods.HANDSHAKE:
            return await self._handshake(params)
        if method == methods.TASK_STATUS:
            return await self._whole(self._task_status(params))
        if method == methods.LOG:
            return await self._whole(self._take_log(params))
        raise ProblemError("unknown_method", f"this endpoint has no {method}")

    async def _whole(self, work: Awaitable[T]) -> T:
        """``work`` to its end even if the connection goes first: what is on disk must also be announced."""
        return await asyncio.shield(self._hub.keep(work))

    async def _handshake(self, params: Mapping[str, Any]) -> dict[str, Any]:
        if self._joining is not None:
            raise ProblemError("bad_state", "the handshake is done")
        hello = parse_hello(params)
        self._joining = self._hub.keep(self._hub.joined(self, hello))
        try:
            answer, send = await asyncio.shield(self._joining)
        except ProblemError as error:
            problem = error.problem
            note(
                _log,
                logging.WARNING,
                "handshake refused",
                node=hello.node_id,
                peer=self.address,
                code=problem.code,
            )
            self._hub.feed.publish(
                NodeRefused(node_id=hello.node_id, code=problem.code, msg=problem.msg, at=self._hub.clock())
            )
            raise
        # These begin when this coroutine has returned and the answer is written: not before it is ready.
        self.start(self._hub.send_all(self, send))
        self.start(self._ask_inventory())
        return {"id": hello.node_id, "version": __version__, "epoch": self.epoch, **answer}

    async def _task_status(self, params: Mapping[str, Any]) -> dict[str, Any]:
        hub = self._hub
        status = parse_status(params)
        task, verdict = await hub.db.call(hub.tasks.report, self.node_id, self.epoch, status)
        if verdict is Verdict.APPLIED:
            progress = status.state is TaskState.RUNNING and not status.phase
            hub.feed.publish(TaskChanged(task=task, fields=status.fields, progress=progress))
        if status.state is TaskState.RUNNING and status.phase == "prepared":
            if task.held and not task.state.over:
                return {"go": False, "retry_after": _HOLD_POLL}
            return {"go": not task.state.over}
        return {"verdict": verdict.value}

    async def _take_log(self, params: Mapping[str, Any]) -> dict[str, Any]:
        hub = self._hub
        kept = await hub.db.call(hub.nodes.add_log, self.node_id, params)
        hub.feed.publish(LogReceived(node_id=self.node_id, record=kept, at=hub.clock()))
        return {}

    async def _ask_inventory(self) -> None:
        hub = self._hub
        try:
            inventory = await self.peer.call(methods.INVENTORY, {}, timeout=_INVENTORY_TIMEOUT)
        except RemoteError as error:
            # Also an agent that knows only the seed: it can be worked with all the same.
            note(_log, logging.INFO, "no inventory", node=self.node_id, code=error.problem.code)
            return
        if await hub.db.call(hub.nodes.set_inventory, self.node_id, self.epoch, inventory):
            hub.feed.publish(InventoryReceived(node_id=self.node_id, inventory=inventory, at=hub.clock()))

    def _tap(self, outgoing: bool, message: Mapping[str, Any]) -> None:
        self._hub.transcript.record(self._number, self.node_id, outgoing, message)

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._jobs.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a job of node %s failed", self.node_id, exc_info=error)
