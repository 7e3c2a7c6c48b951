"""How fast the boot door serves an image, and what it costs: sendfile in threads, beside other ways.

One server process after the other on 127.0.0.1, each with the same file for 1 and for 8 clients that throw
everything away, in turn, several times; with the file in memory and not. ``stood_still_ms`` is the longest
time for which the server's event loop answered nobody. Writes build/bench/serve.json and prints it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from teeth.boot.fileanswer import FileAnswer
from teeth.endpoint.httpserver import listening_socket, serve
from teeth.errors import TeethError
from teeth.paths import find_checkout

WAYS = ("sendfile_in_threads", "loop_sendfile", "read_and_write")
CASES = ((1, True), (8, True), (1, False))  # clients, file in memory
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
_TICK = 0.005


class ReadAndWrite(FileResponse):
    chunk_size = 1 << 20


class App:
    """Answers everything by the file."""

    def __init__(self, way: str, path: Path) -> None:
        self._way = way
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = ReadAndWrite(self._path)
        if self._way == "sendfile_in_threads":
            answer = FileAnswer(self._path, "image", lambda *_: None)
        await answer(scope, receive, send)


@contextlib.asynccontextmanager
async def by_the_loop(path: Path, sock: socket.socket) -> AsyncIterator[None]:
    """The least that a server can be: a head, then the loop's own sendfile."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % path.stat().st_size  # noqa: ASYNC240 - before the start

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        await writer.drain()
        with path.open("rb") as file, contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sendfile(writer.transport, file)
        writer.close()

    async with await asyncio.start_server(answer, sock=sock):
        yield


async def server(way: str, path: Path) -> None:
    """Serve until standard input ends; then say how long the loop stood still at most."""
    loop = asyncio.get_running_loop()
    sock = listening_socket("127.0.0.1", 0, "bench")
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    print(sock.getsockname()[1], flush=True)
    served = by_the_loop(path, sock) if way == "loop_sendfile" else serve(App(way, path), sock)
    worst = 0.0
    async with served:
        while not over.is_set():
            before = loop.time()
            await asyncio.sleep(_TICK)
            worst = max(worst, loop.time() - before - _TICK)
    print(worst * 1e3, flush=True)


def fetch(port: int, size: int) -> None:
    """Take everything and look at nothing: MSG_TRUNC has the kernel throw it away."""
    scratch, got = bytearray(1 << 20), 0
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(GET)
        while got < size and (count := sock.recv_into(scratch, len(scratch), socket.MSG_TRUNC)):
            got += count
    if got < size:
        raise TeethError(f"only {got} of {size} bytes came")


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forget(path: Path) -> None:
    """Out of the kernel's memory with it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def once(way: str, path: Path, clients: int) -> dict[str, float]:
    size = path.stat().st_size
    words = [sys.executable, __file__, "--serve", way, "--file", str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())
        spent, begun = processor_seconds(process.pid), time.monotonic()
        threads = [threading.Thread(target=fetch, args=(port, size)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, spent = time.monotonic() - begun, processor_seconds(process.pid) - spent
        process.stdin.close()
        stood_still = float(process.stdout.readline())
    total = clients * size
    return {
        "mb_per_second": total / 1e6 / seconds,
        "processor_seconds_per_gb": spent / (total / 1e9),
        "stood_still_ms": stood_still,
    }


def measure(path: Path, runs: int) -> list[dict[str, Any]]:
    found = []
    for clients, in_memory in CASES:
        taken: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(runs):
            for way in WAYS:
                if not in_memory:
                    forget(path)
                taken[way].append(once(way, path, clients))
        for way, results in taken.items():
            rates = [one["mb_per_second"] for one in results]
            found.append(
                {
                    "way": way,
                    "clients": clients,
                    "in_memory": in_memory,
                    "mb_per_second": round(statistics.median(rates)),
                    "least": round(min(rates)),
                    "most": round(max(rates)),
                    "processor_seconds_per_gb": round(
                        statistics.median(one["processor_seconds_per_gb"] for one in results), 3
                    ),
                    "stood_still_ms": round(max(one["stood_still_ms"] for one in results), 1),
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(server(given.serve, given.file))
        return
    folder = find_checkout().build / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "serve.bin"
    try:
        with path.open("wb") as file:
            block = os.urandom(1 << 20)
            for _ in range(given.mib):
                file.write(block)
        result = {"bytes": given.mib << 20, "runs": given.runs, "ways": measure(path, given.runs)}
    finally:
        path.unlink(missing_ok=True)
    text = json.dumps(result, indent=2)
    (folder / "serve.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
