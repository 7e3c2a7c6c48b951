"""How domain code, which runs in a worker thread, speaks to whoever watches the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Reporter(Protocol):
    """One task's voice. Every method may be called from any thread.

    ``progress``  percent of the whole task, 0-100, never going backwards (a lower value is raised to the
                  last one); ``eta`` in seconds, None when honestly not known; ``step`` a stable word for
                  what is being done ("canaries", "overwrite", "fetch"); ``fields`` any JSON values that a
                  watcher may show (``unit``, ``bytes_per_second``, ...). Calls may come as often as the
                  caller likes: the implementation thins them out.
    ``checkpoint`` a phase that must be known at home before going on: blocks until the endpoint has
                  acknowledged it, over reconnects if need be, and returns what it answered.
    ``log``       a structured record tied to the task.
    ``check_cancelled`` raises errors.Cancelled when the task was told to stop: call it at safe points only.
    """

    def progress(
        self, percent: float, *, eta: float | None = None, step: str = "", **fields: Any
    ) -> None: ...

    def checkpoint(self, phase: str, **fields: Any) -> Mapping[str, Any]: ...

    def log(self, level: str, event: str, **fields: Any) -> None: ...

    def check_cancelled(self) -> None: ...
