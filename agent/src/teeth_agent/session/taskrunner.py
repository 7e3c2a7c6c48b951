"""Runs tasks in threads and keeps what must be said about them until it is acknowledged."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.session.spool import LogSpool
from teeth_agent.tasks import TaskFunction
from teeth_agent.tasks.context import TaskContext
from teeth_protocol import methods
from teeth_protocol.errors import ProblemError
from teeth_protocol.fields import FieldError
from teeth_protocol.messages import valid_id
from teeth_stream import Peer, RemoteError

_log = logging.getLogger(__name__)

# Twice a second is live for a person; the overwrite loop reports a hundred times as often.
_PROGRESS_INTERVAL = 0.5
# Finished tasks remembered, so that a repeated command is answered and not repeated.
_MAX_TASKS = 64

Load = Callable[[str], TaskFunction | None]
Announce = Callable[[str], None]


@dataclass(slots=True)
class _Message:
    params: dict[str, Any]
    answer: concurrent.futures.Future[Mapping[str, Any]] | None = None


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

    def stamp(self, params: dict[str, Any]) -> dict[str, Any]:
        """``params`` with this task's id and next sequence number. Call with the guard held."""
        self.seq += 1
        return {"task_id": self.id, "seq": self.seq, **params}

    @property
    def settled(self) -> bool:
        return self.state != "running" and not self.outbox


class TaskReporter:
    """The Reporter of one task: thread-safe, thins progress, keeps the rest in order."""

    def __init__(self, task: _Task, wake: Callable[[], None], spool: LogSpool) -> None:
        self._task = task
        self._wake = wake
        self._spool = spool

    def progress(self, percent: float, *, eta: float | None = None, step: str = "", **fields: Any) -> None:
        task = self._task
        with task.guard:
            task.percent = max(task.percent, min(100.0, percent))
            task.progress = {
                "state": "running",
                "percent": round(task.percent, 2),
                "eta": None if eta is None else round(eta, 1),
                "step": step,
                "fields": fields,
            }
        self._wake()

    def checkpoint(self, phase: str, **fields: Any) -> Mapping[str, Any]:
        task = self._task
        answer: concurrent.futures.Future[Mapping[str, Any]] = concurrent.futures.Future()
        with task.guard:
            task.progress = None  # what was not sent yet is older than this
            status = {"state": "running", "phase": phase, "percent": round(task.percent, 2), "eta": None}
            task.outbox.append(_Message(task.stamp({**status, "fields": fields}), answer))
        self._wake()
        return answer.result()

    def log(self, level: str, event: str, **fields: Any) -> None:
        self._spool.add(level, self._task.method, event, task_id=self._task.id, **fields)

    def check_cancelled(self) -> None:
        if self._task.cancelled.is_set():
            raise Cancelled("the task was cancelled")


class TaskRunner:
    """All tasks of this boot. ``pump`` tells the endpoint about them, over however many connections."""

    def __init__(self, context: TaskContext, spool: LogSpool, load: Load, announce: Announce) -> None:
        self._context = context
        self._spool = spool
        self._load = load
        self._announce = announce
        self._loop = asyncio.get_running_loop()
        self._wakened = asyncio.Event()
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
        self._tasks[task_id] = task
        # Not a daemon-less pool: a task may end in kexec, which never returns to a pool that waits for it.
        threading.Thread(
            target=self._work, args=(task, function, dict(params)), name=f"task-{task_id}", daemon=True
        ).start()
        return {"task_id": task_id, "state": "running", "percent": 0.0}

    def cancel(self, task_id: str) -> dict[str, Any]:
        """Ask a task to stop at its next safe point."""
        task = self._tasks.get(task_id)
        if task is None:
            raise ProblemError("unknown_task", f"there is no task {task_id}")
        task.cancelled.set()
        return {"task_id": task_id, "state": task.state}

    def summary(self) -> list[dict[str, Any]]:
        """Running tasks and those whose end is not acknowledged, for the handshake and ``status``."""
        return [
            {"task_id": task.id, "method": task.method, "state": task.state, "percent": task.percent}
            for task in self._tasks.values()
            if not task.settled
        ]

    async def pump(self, peer: Peer) -> None:
        """Send what there is to say, in order, until the connection fails."""
        self._wakened.set()
        while True:
            await self._wakened.wait()
            self._wakened.clear()
            for task in list(self._tasks.values()):
                if not await self._send_outbox(peer, task) or not await self._send_progress(peer, task):
                    return
            await asyncio.sleep(_PROGRESS_INTERVAL if not any(t.outbox for t in self._tasks.values()) else 0)

    async def _send_outbox(self, peer: Peer, task: _Task) -> bool:
        while task.outbox:
            message = task.outbox[0]
            try:
                answer = await peer.call(methods.TASK_STATUS, message.params)
            except RemoteError as error:
                if error.problem.code in ("connection_lost", "timeout"):
                    return False
                _log.warning("the endpoint refused a status of %s: %s", task.id, error)
                answer = {"refused": error.problem.code}
            with task.guard:
                task.outbox.popleft()
            if message.answer is not None:
                message.answer.set_result(answer)
        return True

    async def _send_progress(self, peer: Peer, task: _Task) -> bool:
        with task.guard:
            if task.progress is None:
                return True
            params = task.stamp(task.progress)
            task.progress = None
        try:
            await peer.call(methods.TASK_STATUS, params)
        except RemoteError as error:
            return error.problem.code not in ("connection_lost", "timeout")
        return True

    def _work(self, task: _Task, function: TaskFunction, params: dict[str, Any]) -> None:
        reporter = TaskReporter(task, self._wake, self._spool)
        self._announce(f"{task.method} started")
        try:
            result = function(params, self._context, reporter)
        except (AgentError, FieldError) as error:
            code = error.code if isinstance(error, AgentError) else "bad_params"
            ending: dict[str, Any] = {"state": "error", "msg": str(error), "code": code}
            detail = getattr(error, "detail", None)
            if detail is not None:
                ending["detail"] = dict(detail)
        except Exception as error:
            _log.exception("%s failed inside the agent", task.method)
            ending = {"state": "error", "code": "internal", "msg": f"{type(error).__name__} in {task.method}"}
        else:
            ending = {"state": "complete", "percent": 100.0, "eta": 0, "result": result}
        with task.guard:
            task.progress = None
            task.state = ending["state"]
            task.outbox.append(_Message(task.stamp(ending)))
        told = f": {ending['code']}: {ending['msg']}" if task.state == "error" else ""
        self._announce(f"{'problem ' if told else ''}{task.method} {task.state}{told}")
        self._wake()

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._wakened.set)

    def _forget_oldest(self) -> None:
        for task in list(self._tasks.values()):
            if len(self._tasks) < _MAX_TASKS:
                return
            if task.settled:
                del self._tasks[task.id]
        if len(self._tasks) >= _MAX_TASKS:
            raise ProblemError("busy", f"{_MAX_TASKS} tasks wait for their end to be acknowledged")
