"""The endpoint's own log: stdlib logging, one JSON object a line in its file, secrets taken out."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from teeth.endpoint.secrets import redact
from teeth.errors import TeethError

# What happens in an endpoint's process, whichever package says it. An HTTP server's starting is no news.
_LEVELS = {"teeth": logging.INFO, "teeth_stream": logging.INFO, "uvicorn": logging.WARNING}


def note(logger: logging.Logger, level: int, event: str, **fields: Any) -> None:
    """Log ``event`` with structured ``fields``."""
    shown = redact(fields)
    words = " ".join(f"{name}={value}" for name, value in shown.items())
    logger.log(level, "%s", f"{event} {words}".rstrip(), extra={"teeth_event": event, "teeth_fields": shown})


class JsonLines(logging.Formatter):
    """``{time, level, logger, event, ...fields}``, and ``error`` where an exception was logged."""

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "teeth_event", None) or redact(record.getMessage())
        line: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event,
            **getattr(record, "teeth_fields", {}),
        }
        if record.exc_info:
            line["error"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, default=str, ensure_ascii=False)


@contextlib.contextmanager
def log_to(path: Path | None) -> Iterator[None]:
    """While the block runs, this process's records also go to ``path`` (appended, 0600)."""
    if path is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        handler = logging.FileHandler(path, encoding="utf-8", errors="replace")
    except OSError as error:
        raise TeethError(f"the log {path} cannot be written: {error.strerror}") from error
    handler.setFormatter(JsonLines())
    before = {name: logging.getLogger(name).level for name in _LEVELS}
    for name, level in _LEVELS.items():
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).removeHandler(handler)
            logging.getLogger(name).setLevel(level)
        handler.close()
