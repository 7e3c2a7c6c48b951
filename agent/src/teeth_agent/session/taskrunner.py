"""Runs tasks and keeps what must be said about them until it is acknowledged, over restarts too."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from teeth_agent.errors import AgentError
from teeth_agent.session import journal as journals
from teeth_agent.session.bell import Bell
from teeth_agent.session.journal import Journal, JournalError, MemoryJournal, Remembered
from teeth_agent.session.report import Message, TaskLog, TaskReporter, completed, failed, reportable
from teeth_agent.session.spool import LogSpool
from teeth_agent.tasks import TaskFunction
from teeth_agent.tasks.context import Claims, TaskContext, scope_of
from teeth_protocol import methods
from teeth_protocol.errors import ProblemError
from teeth_protocol.fields import FieldError
from teeth_protocol.messages import valid_id
from teeth_protocol.strictjson import JsonError
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
# Finished tasks remembered, so that a repeated command is answered and not repeated.
_MAX_TASKS = 64

Load = Callable[[str], TaskFunction | None]
Announce = Callable[[str], None]


class Job:
    """An accepted task, for what carries it out. It ends by exactly one ``complete`` or ``fail``."""

    def __init__(
        self, runner: TaskRunner, log: TaskLog, function: TaskFunction, params: dict[str, Any],
        reporter: TaskReporter,
    ) -> None:  # fmt: skip
        self._runner = runner
        self._log = log
        self._function = function
        self.params = params
        self.reporter = reporter

    @property
    def task_id(self) -> str:
        return self._log.id

    @property
    def method(self) -> str:
        return self._log.method

    @property
    def context(self) -> TaskContext:
        return self._runner.context_of(self._log)

    def run(self) -> None:
        """Do the work here and now, until it is over."""
        self._runner.begun(self._log)
        try:
            result = self._function(self.params, self.context, self.reporter)
        except BaseException as error:  # a thread that ends in silence would be a task that never ends
            self.fail(error)
        else:
            self.complete(result)

    def complete(self, result: Any) -> None:
        self._runner.over(self._log, completed(result))

    def fail(self, error: BaseException) -> None:
        if isinstance(error, AgentError):
            end = failed(error.code, str(error), error.detail)
        elif isinstance(error, FieldError):
            end = failed("bad_params", str(error))
        else:
            _log.error("%s failed inside the agent", self.method, exc_info=error)
            end = failed("internal", f"{type(error).__name__} in {self.method}")
        self._runner.over(self._log, end)


def in_thread(job: Job) -> None:
    """Carry a job out in a thread of its own."""
    # Not a daemon-less pool: a task may end in kexec, which never returns to a pool that waits for it.
    threading.Thread(target=job.run, name=f"task-{job.task_id}", daemon=True).start()


class TaskRunner:
    """All tasks of this boot. ``pump`` tells the endpoint about them, over however many connections.

    ``journal`` keeps what was promised; tasks that an earlier process of this boot began are over
    (``interrupted``) once this one exists. ``start`` carries a job out, and may raise when it cannot.
    ``blocked`` says why nothing may be started now ("" when it may): a tool of that process still runs.
    """

    def __init__(
        self,
        context: TaskContext,
        spool: LogSpool,
        load: Load,
        announce: Announce,
        *,
        journal: Journal | None = None,
        start: Callable[[Job], None] = in_thread,
        blocked: Callable[[], str] = lambda: "",
        progress_interval: float = _PROGRESS_INTERVAL,
        retry_interval: float = _RETRY_INTERVAL,
    ) -> None:
        self._context = context
        self._spool = spool
        self._load = load
        self._announce = announce
        self._journal = journal or MemoryJournal()
        self._start = start
        self._blocked = blocked
        self._progress_interval = progress_interval
        self._retry_interval = retry_interval
        self._wakened = Bell()
        self._urgent = Bell()
        self._tasks: dict[str, TaskLog] = {}
        self._claims = Claims()
        self._damage = ""
        self._remember()

    # --- for the session

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
        function = self._load(method)
        if function is None:
            raise ProblemError("unknown_method", f"this agent has no {method}")
        self._require_able()
        self._forget_oldest()
        log = TaskLog(id=task_id, method=method, params_digest=digest, reserve=self._reserve)
        try:
            self._claims.enter(task_id, method, scope_of(method, params))
        except AgentError as error:
            raise ProblemError(error.code, str(error)) from None
        self._accept(log, function, dict(params))
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

    # --- for the jobs, from whatever thread they are in

    def context_of(self, task: TaskLog) -> TaskContext:
        claim = functools.partial(self._claims.claim, task.id)
        return dataclasses.replace(self._context, claim=claim)

    def begun(self, task: TaskLog) -> None:
        self._announce(f"{task.method} started")

    def over(self, task: TaskLog, ending: dict[str, Any]) -> None:
        """A task has ended: on record before it is said."""
        with task.guard:
            task.progress = None
            try:
                status = task.sendable(ending)
            except JsonError as error:
                _log.error("the end of %s cannot be reported whole: %s", task.id, error)
                ending = reportable(ending, str(error))
                status = task.sendable(ending)
            record = journals.ended(task.id, status, state=ending["state"], percent=task.percent)
            try:
                self._journal.append(record)
            except JournalError as error:
                # Said all the same: of two ends an endpoint keeps the one that it heard first.
                _log.error("the end of %s is not on record: %s", task.id, error)
            task.outbox.append(Message(status))
            task.state = ending["state"]
        self._claims.leave(task.id)
        told = f": {ending['code']}: {ending['msg']}" if task.state == "error" else ""
        self._announce(f"{'problem ' if told else ''}{task.method} {task.state}{told}")
        self._wake(urgent=True)

    # --- inside

    def _accept(self, log: TaskLog, function: TaskFunction, params: dict[str, Any]) -> None:
        """On record first: whoever is told that it was accepted must be able to rely on it."""
        try:
            self._journal.append(journals.accepted(log.id, log.method, log.params_digest, below=log.below))
        except JournalError as error:
            self._claims.leave(log.id)
            raise ProblemError(error.code, f"the task was not started: {error}") from None
        self._tasks[log.id] = log
        try:
            self._start(Job(self, log, function, params, TaskReporter(log, self._wake, self._spool)))
        except BaseException:
            del self._tasks[log.id]
            self._claims.leave(log.id)
            self._note(journals.forgotten(log.id))
            raise

    def _require_able(self) -> None:
        if self._damage:
            raise ProblemError("journal_failed", self._damage)
        if reason := self._blocked():
            raise ProblemError("busy", reason)

    def _remember(self) -> None:
        """Take over what an earlier process of this boot has left."""
        try:
            known = journals.replay(self._journal.load())
        except JournalError as error:
            # Who does not know what was done must not begin anything.
            self._damage = f"{error}: start this machine again"
            self._announce(f"problem {error.code}: {self._damage}")
            return
        for remembered in known.values():
            task = self._tasks[remembered.task_id] = self._revive(remembered)
            if remembered.end is not None:
                task.outbox.append(Message(remembered.end))
            elif task.state == "running":
                self._interrupted(task)

    def _revive(self, remembered: Remembered) -> TaskLog:
        return TaskLog(
            id=remembered.task_id, method=remembered.method, params_digest=remembered.params_digest,
            reserve=self._reserve, state=remembered.state, percent=remembered.percent,
            seq=remembered.below, below=remembered.below + 1,
        )  # fmt: skip

    def _interrupted(self, task: TaskLog) -> None:
        left = self._blocked()
        what = left or "its tools were stopped"
        self.over(task, failed("interrupted", f"the agent was restarted while this task ran; {what}"))

    async def _send_outbox(self, peer: Peer, task: TaskLog) -> bool:
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
            self._heard(task, message, answer)
        return True

    def _heard(self, task: TaskLog, message: Message, answer: Mapping[str, Any]) -> None:
        if message.is_end:
            self._note(journals.acknowledged(task.id))
        with task.guard:
            task.outbox.popleft()
        if message.answer is not None:
            message.answer.set_result(answer)

    async def _send_progress(self, peer: Peer, task: TaskLog) -> bool:
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

    def _wake(self, *, urgent: bool = False) -> None:
        self._wakened.ring()
        if urgent:
            self._urgent.ring()

    def _reserve(self, task_id: str, below: int) -> None:
        self._note(journals.numbered(task_id, below))

    def _note(self, record: journals.Record) -> None:
        """Keep what costs at most a repetition when it is lost."""
        try:
            self._journal.append(record)
        except JournalError as error:
            _log.warning("not on record: %s", error)

    def _forget_oldest(self) -> None:
        for task in list(self._tasks.values()):
            if len(self._tasks) < _MAX_TASKS:
                return
            if task.settled:
                self._note(journals.forgotten(task.id))
                del self._tasks[task.id]
        if len(self._tasks) >= _MAX_TASKS:
            raise ProblemError("busy", f"{_MAX_TASKS} tasks wait for their end to be acknowledged")
