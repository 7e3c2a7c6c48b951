"""A file as the answer to a request: Range, If-Range, conditions (RFC 9110), without copies where the server
can (ASGI's ``http.response.zerocopysend``)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

# (name of the file, bytes sent): called when a transfer ends, whole or not.
OnServed = Callable[[str, int], None]
_EXTENSION = "http.response.zerocopysend"
_CHUNK = 1 << 20  # without it, each chunk costs a hop to a thread and back
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
# Named by its content, an address can never mean anything else.
IMMUTABLE = "public, max-age=31536000, immutable"


class FileAnswer(Response):
    """One file. ``etag`` without quotes, strong; ``cache`` as Cache-Control has it, "" for none.

    Several ranges at once are answered by the whole file, as RFC 9110 (14.2) allows.
    """

    def __init__(
        self, path: Path, name: str, on_served: OnServed, *, etag: str | None = None, cache: str = ""
    ) -> None:
        super().__init__(media_type="application/octet-stream")
        del self.headers["content-length"]
        self._path = path
        self._name = name
        self._on_served = on_served
        self._etag = etag
        self._cache = cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            gone = PlainTextResponse("the file is not there any more\n", status_code=404)
            await gone(scope, receive, send)
            return
        try:
            await self._answer(file, Headers(scope=scope), scope, send)
        finally:
            os.close(file)

    async def _answer(self, file: int, asked: Headers, scope: Scope, send: Send) -> None:
        facts = os.fstat(file)
        etag = f'"{self._etag or f"{facts.st_mtime_ns:x}-{facts.st_size:x}"}"'
        headers = self.headers
        headers["etag"], headers["accept-ranges"] = etag, "bytes"
        if self._cache:
            headers["cache-control"] = self._cache
        span: tuple[int, int] | None = (0, facts.st_size)
        if _has(asked.get("if-none-match"), etag):
            self.status_code, span = 304, None
        elif "range" in asked and asked.get("if-range", etag) == etag:
            span = self._ranged(asked["range"], facts.st_size)
        if span is not None:
            headers["content-length"] = str(span[1] - span[0])
        elif self.status_code == 416:
            headers["content-length"] = "0"
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        if span is None or scope["method"] == "HEAD" or span[0] == span[1]:
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._send(file, *span, _EXTENSION in scope.get("extensions", {}), send)

    def _ranged(self, asked: str, size: int) -> tuple[int, int] | None:
        """First byte and the one behind the last, None for a range that the file does not have."""
        match = _RANGE.fullmatch(asked.strip())
        if match is None or match[0] == "bytes=-":
            return 0, size
        first, last = match[1], match[2]
        if first and last and int(last) < int(first):
            return 0, size  # not a range at all
        begin = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if begin >= end:
            self.status_code = 416
            self.headers["content-range"] = f"bytes */{size}"
            return None
        self.status_code = 206
        self.headers["content-range"] = f"bytes {begin}-{end - 1}/{size}"
        return begin, end

    async def _send(self, file: int, begin: int, end: int, without_copies: bool, send: Send) -> None:
        os.lseek(file, begin, os.SEEK_SET)
        os.posix_fadvise(file, begin, end - begin, os.POSIX_FADV_SEQUENTIAL)
        try:
            if without_copies:
                await send({"type": _EXTENSION, "file": file, "count": end - begin})
                return
            left = end - begin
            while left:
                data = await run_in_threadpool(os.read, file, min(left, _CHUNK))
                if not data:
                    return  # it has become shorter: the server ends the connection, the client sees it
                left -= len(data)
                await send({"type": "http.response.body", "body": data, "more_body": left > 0})
        finally:
            self._on_served(self._name, os.lseek(file, 0, os.SEEK_CUR) - begin)


def _has(condition: str | None, etag: str) -> bool:
    """Whether If-None-Match names it; the weak comparison (RFC 9110, 13.1.2)."""
    if condition is None:
        return False
    named = [one.strip().removeprefix("W/") for one in condition.split(",")]
    return etag in named or named == ["*"]
