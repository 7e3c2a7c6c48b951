"""The agent's only subprocess."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from teeth_agent.errors import ToolError

_log = logging.getLogger(__name__)

# Built anew, not inherited: tool output is parsed, so locale, terminal and PATH must be ours.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/", "TERM": "dumb"}
# No tool we call prints more than a few hundred KiB; a runaway one must not eat the machine's memory.
_MAX_OUTPUT = 4 << 20
_CHUNK = 64 << 10
_DEATH_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a tool ended: its status and its output, decoded leniently and cut at 4 MiB a stream."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


def environment() -> dict[str, str]:
    """The environment of every tool. A caller's PATH is kept in front, so that tests can supply tools."""
    inherited = os.environ.get("PATH", "")
    path = f"{inherited}:{_ENVIRONMENT['PATH']}" if inherited else _ENVIRONMENT["PATH"]
    return {**_ENVIRONMENT, "PATH": path}


def run(
    argv: Sequence[str], *, timeout: float = 60.0, check: bool = True, input: bytes | None = None
) -> Completed:
    """Run one tool to its end.

    ``timeout`` is in seconds. Raises ToolError when it is missing, too slow, or (with ``check``) when its
    status is not 0; the failed command is logged once, as a line a person can paste into a shell.
    """
    line = shlex.join(argv)
    try:
        returncode, stdout, stderr = _communicate(argv, input, timeout)
    except subprocess.TimeoutExpired as error:
        _log.warning("tool timed out after %g s: %s", timeout, line)
        raise ToolError(f"{argv[0]} did not end within {timeout:g} s", code="tool_timeout") from error
    result = Completed(
        argv=tuple(argv),
        returncode=returncode,
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
    )
    if check and returncode != 0:
        said = (result.stderr.strip() or result.stdout.strip()).splitlines()
        _log.warning("tool ended with %d: %s", returncode, line)
        raise ToolError(f"{argv[0]} ended with {returncode}: {said[-1] if said else 'no output'}")
    return result


def _start(argv: Sequence[str], stdin: int) -> subprocess.Popen[bytes]:
    """The tool, its outputs as unbuffered pipes. Raises ToolError."""
    try:
        return subprocess.Popen(
            list(argv),
            env=environment(),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
    except FileNotFoundError as error:
        raise ToolError(f"{argv[0]} is not in this ramdisk", code="tool_missing") from error
    except OSError as error:
        raise ToolError(f"{argv[0]} cannot be started: {error.strerror}", code="tool_missing") from error


def _communicate(argv: Sequence[str], input: bytes | None, timeout: float) -> tuple[int, bytes, bytes]:
    """Status and outputs, of each the first 4 MiB; what is beyond is read and thrown away."""
    deadline = time.monotonic() + timeout
    process = _start(argv, subprocess.DEVNULL if input is None else subprocess.PIPE)
    try:
        stdout, stderr = _exchange(process, memoryview(input or b""), deadline)
        return process.wait(max(0.0, deadline - time.monotonic())), stdout, stderr
    except BaseException:
        process.kill()
        # Not for ever: a tool that waits for a dead drive inside the kernel does not even die.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_DEATH_SECONDS)
        raise
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _exchange(process: subprocess.Popen[bytes], data: memoryview, deadline: float) -> tuple[bytes, bytes]:
    kept: dict[object, bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(process.args, 0)
            for key, _ in selector.select(left):
                if key.fileobj is process.stdin:
                    data = _feed(key.fd, data)
                    done = not data
                else:
                    chunk = os.read(key.fd, _CHUNK)
                    room = _MAX_OUTPUT - len(kept[key.fileobj])
                    kept[key.fileobj] += chunk[:room]
                    done = not chunk
                if done:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]  # always a pipe object here
    return bytes(kept[process.stdout]), bytes(kept[process.stderr])


def _feed(descriptor: int, data: memoryview) -> memoryview:
    """What is still to be written; nothing when the tool does not want more."""
    try:
        return data[os.write(descriptor, data[:_CHUNK]) :]
    except BrokenPipeError:
        return data[:0]


@contextmanager
def filter_process(argv: Sequence[str]) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A tool used as a filter: yields (its standard input, its standard output), both unbuffered pipes.

    The caller feeds and drains from two threads. Leaving the block closes both and raises ToolError if
    the tool's status is not 0; an exception inside the block kills it instead.
    """
    process = _start(argv, subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield process.stdin, process.stdout
    except BaseException:
        process.kill()
        raise
    finally:
        for pipe in (process.stdin, process.stdout):
            pipe.close()
        # Read only now: filters say at most a line or two, far below a pipe's 64 KiB.
        said = process.stderr.read(_MAX_OUTPUT).decode(errors="replace").strip().splitlines()
        process.stderr.close()
        returncode = process.wait()
    if returncode != 0:
        raise ToolError(f"{argv[0]} ended with {returncode}: {said[-1] if said else 'no output'}")
