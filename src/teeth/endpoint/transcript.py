"""The wire, message by message, in a file: what was said when, without the secrets."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from teeth.endpoint.secrets import redact
from teeth.errors import TeethError

# A day of one busy node is some ten MiB; beyond this it is a disk filler and not a transcript.
_LIMIT = 256 << 20


class Transcript:
    """JSON lines ``{time, session, node, direction, message}``; ``direction`` "in" is from the agent.

    ``path`` None writes nothing. The file is made anew, 0600.
    """

    def __init__(self, path: Path | None, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._left = _LIMIT
        self._stream = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise TeethError(f"the transcript {path} cannot be written: {error.strerror}") from error
        # Line by line, so that what led to a crash is there after it.
        self._stream = os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", buffering=1)

    def record(self, session: int, node: str, outgoing: bool, message: Mapping[str, Any]) -> None:
        if self._stream is None or self._left <= 0:
            return
        line = json.dumps(
            {
                "time": round(self._clock(), 6),
                "session": session,
                "node": node,
                "direction": "out" if outgoing else "in",
                "message": redact(message),
            },
            ensure_ascii=False,
        )
        self._left -= len(line)
        if self._left <= 0:
            line = json.dumps({"time": self._clock(), "note": "the transcript is full and ends here"})
        self._stream.write(line + "\n")

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
