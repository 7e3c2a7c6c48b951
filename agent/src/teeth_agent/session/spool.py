"""Log records kept until somebody at home has them; the first second of boot is not lost."""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from teeth_protocol.strictjson import JsonError, dumps

# 1,000 records of at most 4 KiB: 4 MiB at the worst, hours of an ordinary machine's silence.
_MAX_RECORDS = 1000
_MAX_EVENT = 1024  # letters
_MAX_FIELDS = 2048  # bytes


class LogSpool(logging.Handler):
    """Collects records from any thread; the session drains it. Oldest records go first, and are counted."""

    def __init__(
        self,
        *,
        max_records: int = _MAX_RECORDS,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(logging.INFO)
        self._clock = clock
        self._monotonic = monotonic
        self._max_records = max_records
        self._guard = threading.Lock()
        self._records: collections.deque[dict[str, Any]] = collections.deque()
        self._dropped = 0
        self.notify: Callable[[], None] = lambda: None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, LookupError):
            # A log line whose arguments do not fit is still worth having.
            message = f"{record.msg} {record.args}"
        if record.exc_info and record.exc_info[1] is not None:
            message = f"{message}: {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        self.add(record.levelname.lower(), record.name, message)

    def add(self, level: str, logger: str, event: str, *, task_id: str | None = None, **fields: Any) -> None:
        """Spool one structured record. What is too long is cut, fields that are not JSON are left out."""
        record: dict[str, Any] = {
            "level": level,
            "time": self._clock(),
            "monotonic": self._monotonic(),
            "logger": logger,
            "event": event[:_MAX_EVENT].encode("utf-8", "replace").decode(),
        }
        if fields:
            record["fields"] = _fields(fields)
        if task_id is not None:
            record["task_id"] = task_id
        with self._guard:
            if len(self._records) >= self._max_records:
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
        """A record that did not get home stays the oldest; if no room is left, it is the first to go."""
        with self._guard:
            self._dropped += int(record.pop("dropped", 0))
            if len(self._records) >= self._max_records:
                self._dropped += 1
            else:
                self._records.appendleft(record)

    def give_up(self, record: dict[str, Any]) -> None:
        """A record that nobody wants is counted as dropped."""
        with self._guard:
            self._dropped += int(record.pop("dropped", 0)) + 1


def _fields(fields: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(dumps(fields))
    except JsonError as error:
        return {"left_out": str(error)}
    return fields if size <= _MAX_FIELDS else {"left_out": f"{size} bytes of fields"}
