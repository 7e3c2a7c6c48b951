"""The agent's only subprocess."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from teeth_agent.errors import ToolError

_log = logging.getLogger(__name__)

# Built anew, not inherited: tool output is parsed, so locale, terminal and PATH must be ours.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/", "TERM": "dumb"}
# No tool we call prints more than a few hundred KiB; a runaway one must not eat the machine's memory.
_MAX_OUTPUT = 4 << 20
_CHUNK = 64 << 10
_DEATH_SECONDS = 10.0
# In the environment of every tool and of whatever it starts: a later agent knows them by it.
_MARK = "TEETH_TOOL_OF_BOOT"


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
    mark = {_MARK: os.environ[_MARK]} if _MARK in os.environ else {}
    return {**_ENVIRONMENT, "PATH": path, **mark}


def mark_tools(boot_id: str) -> None:
    """From now on every tool is known as one of this boot's agent: see Orphans."""
    os.environ[_MARK] = boot_id


class Orphans:
    """Tools that an agent of this boot had started and that outlived it. They may still write to a drive.

    To be made before any tool is started. ``kill`` sends SIGKILL to a pidfd (pidfd_open(2): no other process
    can be hit that got the number since).
    """

    def __init__(
        self,
        boot_id: str,
        *,
        proc: Path = Path("/proc"),
        kill: Callable[[int], None] = lambda pidfd: signal.pidfd_send_signal(pidfd, signal.SIGKILL),
    ) -> None:
        self._mark = f"{_MARK}={boot_id}".encode()
        self._proc = proc
        self._kill = kill
        self._undead: dict[int, str] = {}  # pidfd -> how a person knows the process

    def end(self, patience: float = _DEATH_SECONDS) -> None:
        """Kill them all and wait for their end, for at most ``patience`` seconds; blocks."""
        deadline = time.monotonic() + patience
        known: set[int] = set()
        while found := [pid for pid in self._marked() if pid not in known]:
            known.update(found)
            for pid in found:
                self._end(pid)
        for pidfd in list(self._undead):
            self._forget_dead(pidfd, max(0.0, deadline - time.monotonic()))
        for name in self._undead.values():
            _log.error("%s of an earlier agent process does not end", name)

    def blocked(self) -> str:
        """Why nothing may be started yet: a tool waits in the kernel, mostly for a drive. "" otherwise."""
        for pidfd in list(self._undead):
            self._forget_dead(pidfd, 0.0)
        names = ", ".join(self._undead.values())
        return f"{names} of an earlier agent process does not end" if names else ""

    def _marked(self) -> list[int]:
        pids = [int(path.name) for path in self._proc.iterdir() if path.name.isdigit()]
        return [pid for pid in pids if pid != os.getpid() and self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        try:
            return self._mark in (self._proc / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            return False

    def _end(self, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return
        if not self._is_ours(pid):  # asked again: from here on it is the process that pidfd stands for
            os.close(pidfd)
            return
        self._undead[pidfd] = f"{self._name(pid)} (pid {pid})"
        with contextlib.suppress(ProcessLookupError):
            self._kill(pidfd)

    def _name(self, pid: int) -> str:
        try:
            return (self._proc / str(pid) / "comm").read_text(errors="replace").strip()
        except OSError:
            return "a tool"

    def _forget_dead(self, pidfd: int, patience: float) -> None:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)  # readable once the process has ended
        if poll.poll(patience * 1000):
            del self._undead[pidfd]
            os.close(pidfd)


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
