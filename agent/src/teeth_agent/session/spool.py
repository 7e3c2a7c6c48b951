"""Log records kept until somebody at home has them; the first second of boot is not lost."""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

# 1,000 records of at most 2 KiB: 2 MiB at the worst, hours of an ordinary machine's silence.
_MAX_RECORDS = 1000
_MAX_MESSAGE = 2048


class LogSpool(logging.Handler):
    """Collects records from any thread; the session drains it. Oldest records go first, and are counted."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._guard = threading.Lock()
        self._records: collections.deque[dict[str, Any]] = collections.deque()
        self._dropped = 0
        self.notify: Callable[[], None] = lambda: None

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message = f"{message}: {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        self.add(record.levelname.lower(), record.name, message[:_MAX_MESSAGE])

    def add(self, level: str, logger: str, event: str, *, task_id: str | None = None, **fields: Any) -> None:
        """Spool one structured record."""
        record: dict[str, Any] = {
            "level": level,
            "time": time.time(),
            "monotonic": time.monotonic(),
            "logger": logger,
            "event": event,
        }
        if fields:
            record["fields"] = fields
        if task_id is not None:
            record["task_id"] = task_id
        with self._guard:
            if len(self._records) >= _MAX_RECORDS:
                self._records.popleft()
                self._dropped += 1
            self._records.append(record)
        self.notify()

    def take(self) -> dict[str, Any] | None:
        """The oldest record, with the count of what was dropped before it; None when empty."""
        with self._guard:
            if not self._records:
                return None
            record = self._records.popleft()
            if self._dropped:
                record["dropped"] = self._dropped
                self._dropped = 0
            return record

    def put_back(self, record: dict[str, Any]) -> None:
        """A record that did not get home stays the oldest."""
        with self._guard:
            self._dropped += int(record.pop("dropped", 0))
            self._records.appendleft(record)
