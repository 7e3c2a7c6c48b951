"""An asyncio event loop whose time is a number: nothing waits, nothing is threaded, nothing is chance.

Callbacks belong to the process (of the simulated world) in whose context they were made. Once a process is
dead none of its callbacks runs any more, whoever would have called it: that is what a kill is.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any


class Process:
    """One incarnation of something that can be killed."""

    __slots__ = ("dead", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False


class Killed(BaseException):
    """Raised into code that is running at the very instant in which its process is killed."""


WORLD = Process("world")
_OWNER: contextvars.ContextVar[Process] = contextvars.ContextVar("owner", default=WORLD)


def owner() -> Process:
    """The process to which the running code belongs."""
    return _OWNER.get()


def context_of(process: Process) -> contextvars.Context:
    context = contextvars.Context()
    context.run(_OWNER.set, process)
    return context


class SimLoop(asyncio.BaseEventLoop):
    """Use ``run``; ``close`` ends whatever is left without letting it do anything."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._turn = 0
        self._queue: deque[tuple[asyncio.Handle, Process]] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Process]] = []
        self._made: list[asyncio.Task[Any]] = []
        self.world = context_of(WORLD)
        self.faults: list[str] = []  # exceptions that nobody caught
        self.steps = 0
        self._most = 0

    # --- what asyncio asks of a loop

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        process = _OWNER.get() if context is None else context.get(_OWNER, WORLD)
        handle = asyncio.Handle(callback, args, self, context)
        self._queue.append((handle, process))
        return handle

    call_soon_threadsafe = call_soon  # there is one thread

    def call_at(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        process = _OWNER.get() if context is None else context.get(_OWNER, WORLD)
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._turn += 1
        heapq.heappush(self._timers, (when, self._turn, handle, process))
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:  # fmt: skip
        return self.call_at(self._now + delay, callback, *args, context=context)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        # Kept to the end: a task of a dead process that was collected would run its finally blocks.
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        self._made.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """A thread that is done at once, but not in this instant."""
        future = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:
                future.set_exception(error)

        self.call_later(0.001, work)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.faults.append(f"{context.get('message')}: {type(error).__name__}: {error}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """BaseEventLoop would count them; here they are skipped when their time comes."""

    # --- what the simulation asks

    def spawn(self, process: Process, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of a process. What it raises is a fault, unless it is the death of its process."""
        task = self.create_task(coro, context=context_of(process))
        task.add_done_callback(self._ended, context=self.world)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, Killed):
            place = traceback.extract_tb(error.__traceback__)[-1]
            self.faults.append(f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})")

    def run(self, main: Coroutine[Any, Any, Any], *, until: float, most: int) -> None:
        """Run to the end of ``main``, or until the clock says ``until`` or ``most`` callbacks were run."""
        asyncio._set_running_loop(self)
        try:
            task = self.spawn(WORLD, main)
            self._most = most
            while not task.done() and self._now <= until and self._turn_once():
                pass
            if task.done():
                task.result()
            else:
                self.faults.append(f"the simulation did not end: {self.steps} steps, {self._now:.0f} s")
        finally:
            asyncio._set_running_loop(None)

    def _turn_once(self) -> bool:
        queue = self._queue
        if not queue:
            while self._timers:
                when, _, handle, process = heapq.heappop(self._timers)
                if handle._cancelled or process.dead:
                    continue
                self._now = max(self._now, when)
                queue.append((handle, process))
                break
            else:
                return False
        while queue:
            handle, process = queue.popleft()
            if not handle._cancelled and not process.dead:
                self.steps += 1
                handle._run()
                if self.steps > self._most:
                    return False
        return True

    def dispose(self) -> None:
        """End everything that was never finished. Its processes are to be dead: then it touches nothing."""
        asyncio._set_running_loop(self)
        try:
            for task in self._made:  # which may grow meanwhile
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                if task.done():
                    if not task.cancelled():
                        task.exception()  # seen
                else:
                    _exhaust(task.get_coro())
        finally:
            asyncio._set_running_loop(None)
        self._queue.clear()
        self._timers.clear()
        self._made.clear()
        self.close()


def _exhaust(coro: Any) -> None:
    """Close a coroutine that may want to wait in its finally blocks: there is nothing left to wait for."""
    for _ in range(50):
        try:
            coro.close()
        except BaseException:
            continue
        return
