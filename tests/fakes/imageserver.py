"""An HTTP server for images on the loopback, honest or faulty."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Answer = Callable[["Request"], None]


class Request(http.server.BaseHTTPRequestHandler):
    """One request, as the answers below see it."""

    server: ImageServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        with self.server.guard:
            number = len(self.server.requests)
            self.server.requests.append((self.path, self.headers.get("Range")))
            self.server.headers.append(dict(self.headers))
        answers = self.server.answers
        answers[min(number, len(answers) - 1)](self)

    @property
    def start(self) -> int:
        return self.span[0]

    @property
    def span(self) -> tuple[int, int]:
        """First byte and end of what is asked for."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        size = len(self.server.content)
        if not found:
            return 0, size
        return int(found[1]), int(found[2]) + 1 if found[2] else size

    def head(self, status: int, **headers: Any) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def do_CONNECT(self) -> None:
        self.do_GET()

    def send(self, body: bytes) -> None:
        with self.server.guard:
            self.server.sent += len(body)
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class ImageServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, content: bytes, answers: Sequence[Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.content = content
        self.answers = list(answers)
        self.requests: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.sent = 0
        # Set when the test is over: what stalls on purpose ends then.
        self.over = threading.Event()
        self.guard = threading.Lock()

    def url(self, path: str = "/image") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client hung up, which is what many tests are about


@contextmanager
def serving(content: bytes, *answers: Answer) -> Iterator[ImageServer]:
    """The first request gets the first answer and so on, later ones the last; honest by default."""
    server = ImageServer(content, answers or [whole()])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def whole(
    *,
    cut_after: int | None = None,
    ranges: bool = True,
    total: int | None = None,
    content: bytes | None = None,
    etag: str | None = None,
) -> Answer:
    """The image, or another ``content``; broken off after ``cut_after`` bytes; without ranges; with a wrong
    length; with an entity tag, which If-Range is held against."""

    def answer(request: Request) -> None:
        body = request.server.content if content is None else content
        size = len(body) if total is None else total
        start, end = request.span if ranges else (0, size)
        if etag is not None and request.headers.get("If-Range") not in (None, etag):
            start, end = 0, size
        if start and start >= size:
            request.head(416, Content_Range=f"bytes */{size}", Content_Length=0)
            return
        tags = {} if etag is None else {"ETag": etag}
        if request.headers.get("Range") and ranges and (start, end) != (0, size):
            said = f"bytes {start}-{min(end, size) - 1}/{size}"
            request.head(206, Content_Range=said, Content_Length=min(end, size) - start, **tags)
        else:
            start, end = 0, size
            request.head(200, Content_Length=size, **tags)
        request.send(body[start:end][:cut_after])

    return answer


def stalling(after: int) -> Answer:
    """The head and so many bytes, then nothing, until the test is over."""

    def answer(request: Request) -> None:
        whole(cut_after=after)(request)
        request.server.over.wait()

    return answer


def silent(request: Request) -> None:
    """Not even a head."""
    request.server.over.wait()


def ranged(said: str, length: int) -> Answer:
    """A 206 with this Content-Range and so many bytes, whatever was asked for."""

    def answer(request: Request) -> None:
        request.head(206, Content_Range=said, Content_Length=length)
        request.send(request.server.content[:length])

    return answer


def forwarding(target: ImageServer) -> Answer:
    """An HTTP proxy that only knows the way to ``target``, and serves from it."""

    def answer(request: Request) -> None:
        assert request.path.startswith(f"{target.url('')}/")
        whole(content=target.content)(request)

    return answer


def status(code: int, **headers: Any) -> Answer:
    return lambda request: request.head(code, Content_Length=0, **headers)


def redirect(target: str) -> Answer:
    return status(302, Location=target)


def without_length(cut_after: int | None = None) -> Answer:
    """No Content-Length: only the closed connection says where the body ends."""

    def answer(request: Request) -> None:
        request.head(200, Connection="close")
        request.send(request.server.content[:cut_after])

    return answer
