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
        answers = self.server.answers
        answers[min(number, len(answers) - 1)](self)

    @property
    def start(self) -> int:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        return int(found[1]) if found else 0

    def head(self, status: int, **headers: Any) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class ImageServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, content: bytes, answers: Sequence[Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.content = content
        self.answers = list(answers)
        self.requests: list[tuple[str, str | None]] = []
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
        server.shutdown()
        thread.join()
        server.server_close()


def whole(*, cut_after: int | None = None, ranges: bool = True, total: int | None = None) -> Answer:
    """The image; broken off after ``cut_after`` bytes; without ranges; with a wrong length."""

    def answer(request: Request) -> None:
        content = request.server.content
        start = request.start if ranges else 0
        size = len(content) if total is None else total
        if start and start >= size:
            request.head(416, Content_Range=f"bytes */{size}", Content_Length=0)
            return
        if start:
            last = f"bytes {start}-{size - 1}/{size}"
            request.head(206, Content_Range=last, Content_Length=size - start)
        else:
            request.head(200, Content_Length=size)
        body = content[start:]
        request.wfile.write(body if cut_after is None else body[:cut_after])

    return answer


def status(code: int, **headers: Any) -> Answer:
    return lambda request: request.head(code, Content_Length=0, **headers)


def redirect(target: str) -> Answer:
    return status(302, Location=target)


def without_length(cut_after: int | None = None) -> Answer:
    """No Content-Length: only the closed connection says where the body ends."""

    def answer(request: Request) -> None:
        request.head(200, Connection="close")
        request.wfile.write(request.server.content[:cut_after])

    return answer
