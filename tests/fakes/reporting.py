"""A reporter that keeps what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teeth_agent.errors import Cancelled


class ToldReporter:
    """A teeth_agent.reporter.Reporter; ``cancel_after`` that many progress reports the task is to stop."""

    def __init__(self, cancel_after: int | None = None) -> None:
        self.progress_calls: list[dict[str, Any]] = []
        self.logs: list[dict[str, Any]] = []
        self.checkpoints: list[str] = []
        self._cancel_after = cancel_after

    def progress(self, percent: float, *, eta: float | None = None, step: str = "", **fields: Any) -> None:
        self.progress_calls.append({"percent": percent, "eta": eta, "step": step, **fields})

    def checkpoint(self, phase: str, **fields: Any) -> Mapping[str, Any]:
        self.checkpoints.append(phase)
        return {}

    def log(self, level: str, event: str, **fields: Any) -> None:
        self.logs.append({"level": level, "event": event, **fields})

    def check_cancelled(self) -> None:
        if self._cancel_after is not None and len(self.progress_calls) >= self._cancel_after:
            raise Cancelled("told to stop")
