"""One agent's connection: who it is, what it says, what it is told."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol, TypeVar

from teeth import __version__
from teeth.endpoint.enrol import Registrar, asks_time
from teeth.endpoint.events import InventoryReceived, LogReceived, NodeRefused
from teeth.endpoint.hello import Hello, parse_hello
from teeth.endpoint.hub import Hub
from teeth.endpoint.identity import PeerIdentity
from teeth.endpoint.logs import note
from teeth.endpoint.taskstate import TaskState, parse_status
from teeth_protocol import capabilities, methods
from teeth_protocol.connection import Closed, Role
from teeth_protocol.errors import Problem, ProblemError
from teeth_protocol.messages import valid_id
from teeth_stream import Peer, Reader, RemoteError, Writer

_log = logging.getLogger(__name__)
_INVENTORY_TIMEOUT = 60.0  # reading every disk's identity may wait for a disk that spins up
# Of one connection, within an hour. An honest agent needs the time, a certificate and perhaps a repetition.
_MAX_ENROLMENTS, _ENROLMENTS_WITHIN = 4, 3600.0
_CERTIFICATE_LOOK = 60.0
_HOLD_POLL = 5.0  # seconds after which a prepared machine that is held asks again
T = TypeVar("T")


class Gate(Protocol):
    """This connection's standing with whoever counts the strangers."""

    def known(self) -> None:
        """Its handshake was accepted."""

    def may_enrol(self) -> bool:
        """Whether a stranger from where it came may try to enrol now; the try is counted."""

    def enrolment_failed(self) -> None: ...


class _OpenGate:
    """Where nobody counts."""

    def known(self) -> None: ...

    def may_enrol(self) -> bool:
        return True

    def enrolment_failed(self) -> None: ...


class Session:
    """Runs one connection to its end and answers its commands."""

    def __init__(
        self,
        hub: Hub,
        number: int,
        address: str,
        reader: Reader,
        writer: Writer,
        *,
        identity: PeerIdentity | None,
        plain: bool,
        enrol: Registrar,
        gate: Gate | None = None,
    ) -> None:
        """``identity``: by the client certificate, None without. ``plain``: on the development listener."""
        self._hub = hub
        self._registrar = enrol
        self._gate = gate or _OpenGate()
        self._enrolments: collections.deque[float] = collections.deque(maxlen=_MAX_ENROLMENTS)
        self.identity = identity
        self.plain = plain
        self._number = number
        self.address = address
        self.hello: Hello | None = None
        self.session_id = 0
        self.epoch = 0
        # In the order of their start, which is the order of their end: a set's would differ from run to run.
        self._jobs: dict[asyncio.Future[Any], None] = {}
        self._joining: asyncio.Future[Any] | None = None
        self.peer = Peer(
            Role.ENDPOINT, reader, writer, self._answer, limits=hub.limits, tap=self._tap, jitter=hub.jitter
        )

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
        if method == methods.ENROLL:
            return await self._enroll(params)
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
        hello = parse_hello(params, plain=self.plain)
        self._joining = self._hub.keep(self._hub.joined(self, hello))
        try:
            answer, send = await asyncio.shield(self._joining)
        except ProblemError as error:
            problem = error.problem
            self._note_refusal("handshake refused", hello.node_id, problem)
            # A fatal_error is a text alone: its first word is for programs.
            raise ProblemError(problem.code, f"{problem.code}: {problem.msg}") from error
        self._gate.known()
        # These begin when this coroutine has returned and the answer is written: not before it is ready.
        self.start(self._hub.ready(self, send))
        self.start(self._ask_inventory())
        if self.identity is not None:
            self.start(self._end_with_certificate())
        return {
            "id": hello.node_id, "version": __version__, "epoch": self.epoch, "protocol": hello.protocol,
            "capabilities": list(hello.capabilities), **answer,
        }  # fmt: skip

    async def _enroll(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A certificate for a stranger's token, or a new one for this session's own node and boot."""
        self._count_enrolment()
        if asks_time(params):
            return {"time": self._hub.clock()}
        renewal = self.hello is not None
        if renewal and self.identity is None:
            raise ProblemError("not_enrolled", "this session has no certificate to renew")
        if self.plain:
            raise ProblemError("not_enrolled", "there is no enrolment in plain text")
        if not renewal and not self._gate.may_enrol():
            raise ProblemError("busy", "too many enrolments from this address, try again later")
        work = self._hub.db.call(self._registrar.enroll, params, self.identity if renewal else None)
        try:
            answer = await self._whole(work)
        except ProblemError as error:
            self._gate.enrolment_failed()
            claimed = params.get("id")
            name = claimed if isinstance(claimed, str) and valid_id(claimed) else ""
            self._note_refusal("enrolment refused", self.node_id or name, error.problem)
            raise
        if renewal and self.identity is not None:
            self.identity = dataclasses.replace(self.identity, not_after=answer["not_after"])
        return answer

    def _count_enrolment(self) -> None:
        """Ends a connection that asks too often; a session of days renews now and then, and may."""
        now = asyncio.get_running_loop().time()
        full = len(self._enrolments) == _MAX_ENROLMENTS
        if full and now - self._enrolments[0] < _ENROLMENTS_WITHIN:
            self.peer.fatal("busy: too many enrolments on one connection")
            raise ProblemError("busy", "too many enrolments on one connection")
        self._enrolments.append(now)

    def _note_refusal(self, event: str, node_id: str, problem: Problem) -> None:
        note(_log, logging.WARNING, event, node=node_id, peer=self.address, code=problem.code)
        self._hub.feed.publish(
            NodeRefused(node_id=node_id, code=problem.code, msg=problem.msg, at=self._hub.clock())
        )

    async def _end_with_certificate(self) -> None:
        """A session lasts no longer than its certificate, and a renewal is a new certificate."""
        while self.identity is not None:
            left = self.identity.not_after - self._hub.clock()
            if left <= 0:
                break
            # In pieces: whoever sets the clock, and a renewal, changes what is left.
            await asyncio.sleep(min(left, _CERTIFICATE_LOOK))
        self.peer.fatal("certificate_expired: the certificate has expired and was not renewed")

    async def _task_status(self, params: Mapping[str, Any]) -> dict[str, Any]:
        hub = self._hub
        status = parse_status(params)
        task, verdict = await hub.reported(self, status)
        if status.state is TaskState.RUNNING and status.phase == "prepared":
            # One that is to be cancelled asks again too: until then it has heard of it, and stops here.
            if (task.held or task.cancel_asked is not None) and not task.state.over:
                return self._not_yet()
            return {"go": not task.state.over}
        return {"verdict": verdict.value}

    def _not_yet(self) -> dict[str, Any]:
        """To a machine that does not know to ask again it is a no: it stays in the ramdisk."""
        knows = capabilities.RETRY_AFTER in self.peer.connection.capabilities
        return {"go": False, "retry_after": _HOLD_POLL} if knows else {"go": False}

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
            # What it should have done (a task to be sent) is done on the next session, and not before.
            self.peer.hang_up()
