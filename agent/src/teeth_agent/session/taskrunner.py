"""Runs tasks in threads and keeps what must be said about them until it is acknowledged."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import hashlib
import json
import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.session.spool import LogSpool
from teeth_agent.tasks import TaskFunction
from teeth_agent.tasks.context import TaskContext
from teeth_protocol import methods
from teeth_protocol.errors import ProblemError
from teeth_protocol.fields import FieldError
from teeth_protocol.limits import Limits
from teeth_protocol.messages import valid_id
from teeth_protocol.strictjson import JsonError, dumps, loads
from teeth_stream import Peer, RemoteError

_log = logging.getLogger(__name__)

# Twice a second is live for a person; the overwrite loop reports a hundred times as often.
_PROGRESS_INTERVAL = 0.5
# An endpoint that cannot take a status now (its disk is full) is asked again, not flooded.
_RETRY_INTERVAL = 5.0
# Refusals that say nothing about the status itself. On these the session is of no use any more ...
_SESSION_OVER = frozenset({"connection_lost", "timeout", "stale_epoch", "draining"})
# ... and on these the same session may do better later.
_TRY_AGAIN = frozenset({"internal", "busy"})
_MAX_MSG = 4096
# A status must fit into one line beside its envelope (ids and names, all bounded).
_MAX_STATUS = Limits().line_from_agent - 1024
# Finished tasks remembered, so that a repeated command is answered and not repeated.
_MAX_TASKS = 64

Load = Callable[[str], TaskFunction | None]
Announce = Callable[[str], None]


_Answer = concurrent.futures.Future[Mapping[str, Any]]


@dataclass(slots=True)
class _Message:
    params: dict[str, Any]
    answer: _Answer | None = None


@dataclass(slots=True)
class _Task:
    id: str
    method: str
    params_digest: str
    guard: threading.Lock = field(default_factory=threading.Lock)
    cancelled: threading.Event = field(default_factory=threading.Event)
    state: str = "running"
    percent: float = 0.0
    seq: int = 0
    progress: dict[str, Any] | None = None
    outbox: collections.deque[_Message] = field(default_factory=collections.deque)

    def put(self, params: dict[str, Any], answer: _Answer | None = None) -> None:
        """Queue what must arrive. Call with the guard held; raises JsonError for what cannot be sent.

        A copy is kept: what is repeated on the next connection is what was said on this one.
        """
        line = dumps(self.stamp(params))
        if len(line) > _MAX_STATUS:
            raise JsonError(f"{len(line)} bytes are too long for a status")
        self.outbox.append(_Message(loads(line), answer))

    def stamp(self, params: dict[str, Any]) -> dict[str, Any]:
        """``params`` with this task's id and next sequence number. Call with the guard held."""
        self.seq += 1
        return {"task_id": self.id, "seq": self.seq, **params}

    def restore(self, progress: dict[str, Any]) -> None:
        """Progress that did not get home is said on the next connection, unless newer has come."""
        with self.guard:
            if self.progress is None and not self.outbox and self.state == "running":
                self.progress = progress

    @property
    def settled(self) -> bool:
        return self.state != "running" and not self.outbox


class _Wake(Protocol):
    def __call__(self, *, urgent: bool = False) -> None: ...


class TaskReporter:
    """The Reporter of one task: thread-safe, thins progress, keeps the rest in order."""

    def __init__(self, task: _Task, wake: _Wake, spool: LogSpool) -> None:
        self._task = task
        self._wake = wake
        self._spool = spool

    def progress(self, percent: float, *, eta: float | None = None, step: str = "", **fields: Any) -> None:
        task = self._task
        with task.guard:
            if task.state != "running":
                return  # a helper thread that outlived its task: after the end nothing more is said
            if math.isfinite(percent):
                task.percent = max(task.percent, min(100.0, percent))
            task.progress = {
                "state": "running",
                "percent": round(task.percent, 2),
                "eta": None if eta is None or not math.isfinite(eta) else round(max(0.0, eta), 1),
                "step": step,
                "fields": fields,
            }
        self._wake()

    def checkpoint(self, phase: str, **fields: Any) -> Mapping[str, Any]:
        """As Reporter says. A refusal is an answer too: {"refused": code}."""
        task = self._task
        answer: _Answer = concurrent.futures.Future()
        with task.guard:
            status = {"state": "running", "phase": phase, "percent": round(task.percent, 2), "eta": None}
            try:
                task.put({**status, "fields": fields}, answer)
            except JsonError as error:
                raise AgentError(f"the phase {phase} cannot be reported: {error}", code="internal") from None
            task.progress = None  # what was not sent yet is older than this
        self._wake(urgent=True)
        return answer.result()

    def log(self, level: str, event: str, **fields: Any) -> None:
        self._spool.add(level, self._task.method, event, task_id=self._task.id, **fields)

    def check_cancelled(self) -> None:
        if self._task.cancelled.is_set():
            raise Cancelled("the task was cancelled")


class TaskRunner:
    """All tasks of this boot. ``pump`` tells the endpoint about them, over however many connections."""

    def __init__(
        self,
        context: TaskContext,
        spool: LogSpool,
        load: Load,
        announce: Announce,
        *,
        progress_interval: float = _PROGRESS_INTERVAL,
        retry_interval: float = _RETRY_INTERVAL,
    ) -> None:
        self._context = context
        self._spool = spool
        self._load = load
        self._announce = announce
        self._loop = asyncio.get_running_loop()
        self._progress_interval = progress_interval
        self._retry_interval = retry_interval
        self._wakened = asyncio.Event()
        self._urgent = asyncio.Event()
        self._tasks: dict[str, _Task] = {}

    def start(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Accept a task, or say what became of it. Raises ProblemError when it is refused."""
        task_id = params.get("task_id")
        if not isinstance(task_id, str) or not valid_id(task_id):
            raise ProblemError("bad_params", "params.task_id: missing, or not 1-128 of A-Z a-z 0-9 . _ : -")
        digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()
        known = self._tasks.get(task_id)
        if known is not None:
            if known.params_digest != digest or known.method != method:
                raise ProblemError("task_conflict", f"task {task_id} exists with other params")
            return {"task_id": task_id, "state": known.state, "percent": known.percent}
        busy = next((task for task in self._tasks.values() if task.state == "running"), None)
        if busy is not None:
            raise ProblemError("busy", f"task {busy.id} ({busy.method}) is using this machine's disks")
        function = self._load(method)
        if function is None:
            raise ProblemError("unknown_method", f"this agent has no {method}")
        self._forget_oldest()
        task = _Task(id=task_id, method=method, params_digest=digest)
        # Not a daemon-less pool: a task may end in kexec, which never returns to a pool that waits for it.
        threading.Thread(
            target=self._work, args=(task, function, dict(params)), name=f"task-{task_id}", daemon=True
        ).start()
        self._tasks[task_id] = task
        return {"task_id": task_id, "state": "running", "percent": 0.0}

    def cancel(self, task_id: str) -> dict[str, Any]:
        """Ask a task to stop at its next safe point."""
        task = self._tasks.get(task_id)
        if task is None:
            raise ProblemError("unknown_task", f"there is no task {task_id}")
        task.cancelled.set()
        return {"task_id": task_id, "state": task.state}

    def summary(self) -> list[dict[str, Any]]:
        """Running tasks and those whose end is not acknowledged, the running ones first."""
        open_tasks = [task for task in self._tasks.values() if not task.settled]
        return [
            {"task_id": task.id, "method": task.method, "state": task.state, "percent": task.percent}
            for task in sorted(open_tasks, key=lambda task: task.state != "running")
        ]

    async def pump(self, peer: Peer) -> None:
        """Send what there is to say, in order, until the connection is of no use any more."""
        self._wakened.set()
        while True:
            await self._wakened.wait()
            self._wakened.clear()
            self._urgent.clear()
            for task in list(self._tasks.values()):
                if not await self._send_outbox(peer, task) or not await self._send_progress(peer, task):
                    return
            # Progress is thinned; what somebody waits for is not.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._progress_interval):
                    await self._urgent.wait()

    async def _send_outbox(self, peer: Peer, task: _Task) -> bool:
        while task.outbox:
            message = task.outbox[0]
            try:
                answer = await peer.call(methods.TASK_STATUS, message.params)
            except RemoteError as error:
                code = error.problem.code
                if code in _SESSION_OVER:
                    return False
                _log.warning("a status of %s was refused: %s: %s", task.id, code, error)
                if code in _TRY_AGAIN:
                    await asyncio.sleep(self._retry_interval)
                    continue
                answer = {"refused": code}
            with task.guard:
                task.outbox.popleft()
            if message.answer is not None:
                message.answer.set_result(answer)
        return True

    async def _send_progress(self, peer: Peer, task: _Task) -> bool:
        with task.guard:
            # What waits in the outbox was said before, and has its number already.
            if task.progress is None or task.outbox:
                return True
            progress, task.progress = task.progress, None
            params = task.stamp(progress)
        try:
            await peer.call(methods.TASK_STATUS, params)
        except RemoteError as error:
            if error.problem.code not in _SESSION_OVER:
                return True  # the next one may be welcome, and comes soon
            task.restore(progress)
            return False
        return True

    def _work(self, task: _Task, function: TaskFunction, params: dict[str, Any]) -> None:
        self._announce(f"{task.method} started")
        ending = self._run(task, function, params)
        with task.guard:
            task.progress = None
            try:
                task.put(ending)
            except JsonError as error:
                _log.error("the end of %s cannot be reported whole: %s", task.id, error)
                ending = _reportable(ending, str(error))
                task.put(ending)
            task.state = ending["state"]
        told = f": {ending['code']}: {ending['msg']}" if task.state == "error" else ""
        self._announce(f"{'problem ' if told else ''}{task.method} {task.state}{told}")
        self._wake(urgent=True)

    def _run(self, task: _Task, function: TaskFunction, params: dict[str, Any]) -> dict[str, Any]:
        """What the task's last status says."""
        try:
            result = function(params, self._context, TaskReporter(task, self._wake, self._spool))
        except (AgentError, FieldError) as error:
            ending = _error(error.code if isinstance(error, AgentError) else "bad_params", str(error))
            detail = getattr(error, "detail", None)
            return ending if detail is None else {**ending, "detail": dict(detail)}
        except BaseException as error:  # a thread that ends in silence would be a task that never ends
            _log.exception("%s failed inside the agent", task.method)
            return _error("internal", f"{type(error).__name__} in {task.method}")
        return {"state": "complete", "percent": 100.0, "eta": 0, "result": result}

    def _wake(self, *, urgent: bool = False) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(self._wakened.set)
            if urgent:
                self._loop.call_soon_threadsafe(self._urgent.set)

    def _forget_oldest(self) -> None:
        for task in list(self._tasks.values()):
            if len(self._tasks) < _MAX_TASKS:
                return
            if task.settled:
                del self._tasks[task.id]
        if len(self._tasks) >= _MAX_TASKS:
            raise ProblemError("busy", f"{_MAX_TASKS} tasks wait for their end to be acknowledged")


def _error(code: str, msg: str) -> dict[str, Any]:
    return {"state": "error", "code": code, "msg": msg[:_MAX_MSG].encode("utf-8", "replace").decode()}


def _reportable(ending: dict[str, Any], why: str) -> dict[str, Any]:
    """An end without what cannot be sent. Never a bare "complete": what cannot be shown is not proven."""
    if ending["state"] == "error":
        return _error(ending["code"], ending["msg"])
    return _error("internal", f"the task was completed and its result cannot be reported: {why}")
