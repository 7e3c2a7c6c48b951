"""What is said about one task: its statuses in order, kept until somebody has them."""

from __future__ import annotations

import collections
import concurrent.futures
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.session.spool import LogSpool
from teeth_protocol import methods
from teeth_protocol.limits import Limits
from teeth_protocol.messages import Command
from teeth_protocol.strictjson import JsonError, dumps, loads

_MAX_MSG = 4096
# A status must fit into one line beside its envelope (ids and names, all bounded).
_MAX_STATUS = Limits().line_from_agent - 1024
# Numbers are put on record in lots: a restarted agent goes on behind the last one, not after each status.
NUMBERS = 1000

Answer = concurrent.futures.Future[Mapping[str, Any]]


@dataclass(slots=True)
class Message:
    params: dict[str, Any]
    answer: Answer | None = None

    @property
    def is_end(self) -> bool:
        return bool(self.params["state"] != "running")


@dataclass(slots=True)
class TaskLog:
    """One task's state and what is still to be said about it. ``reserve`` puts numbers on record."""

    id: str
    method: str
    params_digest: str
    reserve: Callable[[str, int], None]
    guard: threading.Lock = field(default_factory=threading.Lock)
    cancelled: threading.Event = field(default_factory=threading.Event)
    state: str = "running"
    percent: float = 0.0
    seq: int = 0
    below: int = NUMBERS
    progress: dict[str, Any] | None = None
    outbox: collections.deque[Message] = field(default_factory=collections.deque)

    def put(self, params: dict[str, Any], answer: Answer | None = None) -> None:
        """Queue what must arrive. Call with the guard held; raises JsonError for what cannot be sent."""
        self.outbox.append(Message(self.sendable(params), answer))

    def sendable(self, params: dict[str, Any]) -> dict[str, Any]:
        """A status as it will be said, however often. Call with the guard held; raises JsonError.

        It is a copy: what is repeated on the next connection is what was said on this one.
        """
        status = self.stamp(params)
        # As deep and as rich as it will be on the wire: what is found too much there is never heard of.
        line = dumps(Command(id="a", method=methods.TASK_STATUS, params=status).to_json())
        if len(line) > _MAX_STATUS:
            raise JsonError(f"{len(line)} bytes are too long for a status")
        copy: dict[str, Any] = loads(line)["params"]
        return copy

    def stamp(self, params: dict[str, Any]) -> dict[str, Any]:
        """``params`` with this task's id and next sequence number. Call with the guard held."""
        self.seq += 1
        if self.seq >= self.below:
            self.below = self.seq + NUMBERS
            self.reserve(self.id, self.below)
        return {"task_id": self.id, "seq": self.seq, **params}

    def restore(self, progress: dict[str, Any]) -> None:
        """Progress that did not get home is said on the next connection, unless newer has come."""
        with self.guard:
            if self.progress is None and not self.outbox and self.state == "running":
                self.progress = progress

    @property
    def settled(self) -> bool:
        return self.state != "running" and not self.outbox


class Wake(Protocol):
    def __call__(self, *, urgent: bool = False) -> None: ...


class TaskReporter:
    """The Reporter of one task: thread-safe, thins progress, keeps the rest in order."""

    def __init__(self, task: TaskLog, wake: Wake, spool: LogSpool) -> None:
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
        return self.ask(phase, **fields).result()

    def ask(self, phase: str, **fields: Any) -> Answer:
        """``checkpoint`` for who cannot wait in a thread."""
        task = self._task
        answer: Answer = concurrent.futures.Future()
        with task.guard:
            status = {"state": "running", "phase": phase, "percent": round(task.percent, 2), "eta": None}
            try:
                task.put({**status, "fields": fields}, answer)
            except JsonError as error:
                raise AgentError(f"the phase {phase} cannot be reported: {error}", code="internal") from None
            task.progress = None  # what was not sent yet is older than this
        self._wake(urgent=True)
        return answer

    def log(self, level: str, event: str, **fields: Any) -> None:
        self._spool.add(level, self._task.method, event, task_id=self._task.id, **fields)

    def check_cancelled(self) -> None:
        if self._task.cancelled.is_set():
            raise Cancelled("the task was cancelled")


def failed(code: str, msg: str, detail: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """How a task ends that did not do what it should."""
    # Never without words: an endpoint does not take an error that says nothing.
    text = (msg or code)[:_MAX_MSG].encode("utf-8", "replace").decode()
    end: dict[str, Any] = {"state": "error", "code": code, "msg": text}
    return end if detail is None else {**end, "detail": dict(detail)}


def completed(result: Any) -> dict[str, Any]:
    return {"state": "complete", "percent": 100.0, "eta": 0, "result": result}


def reportable(ending: dict[str, Any], why: str) -> dict[str, Any]:
    """An end without what cannot be sent. Never a bare "complete": what cannot be shown is not proven."""
    if ending["state"] == "error":
        return failed(ending["code"], ending["msg"])
    return failed("internal", f"the task was completed and its result cannot be reported: {why}")
