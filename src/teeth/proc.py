"""The host side's only subprocess."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from teeth.errors import TeethError

# Tools are parsed: their words must not depend on the user's language.
_LOCALE = {"LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}
_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
Process = subprocess.Popen[bytes]  # what background() yields, for annotations elsewhere
_TAIL = 20  # lines of a failed tool's output worth showing


class CommandError(TeethError):
    """A tool ended with a non-zero status; ``tail`` holds the last lines it printed."""

    def __init__(self, argv: Sequence[str], returncode: int, tail: str, log: Path | None) -> None:
        last = tail.strip().splitlines()[-1] if tail.strip() else "no output"
        super().__init__(
            f"{shlex.join(argv)} ended with {returncode}: {last}",
            hint=f"its whole output is in {log}" if log else "",
        )
        self.argv = tuple(argv)
        self.returncode = returncode
        self.tail = tail


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with a fixed locale, the system's own tools and ``extra`` on top."""
    return {**os.environ, **_LOCALE, "PATH": _path(os.environ.get("PATH", "")), **(extra or {})}


def _path(inherited: str) -> str:
    """Debian leaves the folders of sgdisk, mke2fs and losetup out of a plain user's PATH."""
    folders = [folder for folder in inherited.split(":") if folder]
    return ":".join((*folders, *(folder for folder in _SYSTEM_FOLDERS if folder not in folders)))


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    timeout: float | None = None,
    input: bytes | None = None,
) -> str:
    """Run one tool to its end and return its standard output.

    With ``log``, both output streams go to that file instead and "" is returned. Standard input is
    ``input`` or nothing at all, so no tool can wait for a terminal. Raises CommandError on a non-zero
    status, and TeethError when the tool is missing or outlives ``timeout`` seconds.
    """
    words = [os.fspath(word) for word in argv]
    try:
        with _sink(log) as sink:
            done = subprocess.run(
                words,
                env=environment(env),
                cwd=cwd,
                stdout=sink or subprocess.PIPE,
                stderr=subprocess.STDOUT if sink else subprocess.PIPE,
                timeout=timeout,
                check=False,
                # None with input: subprocess makes the pipe itself.
                stdin=subprocess.DEVNULL if input is None else None,
                input=input,
            )
        output = (done.stdout or b"").decode(errors="replace")
        said = output + (done.stderr or b"").decode(errors="replace")
        tail = "\n".join((log.read_text(errors="replace") if log else said).splitlines()[-_TAIL:])
    except OSError as error:
        raise _not_started(words, cwd, error) from error
    except subprocess.TimeoutExpired as error:
        raise TeethError(f"{shlex.join(words)} did not end within {timeout:g} s") from error
    if done.returncode != 0:
        raise CommandError(words, done.returncode, tail, log)
    return output


@contextmanager
def _sink(log: Path | None) -> Iterator[IO[bytes] | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        yield sink


@contextmanager
def background(
    argv: Sequence[str | os.PathLike[str]],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stop_timeout: float = 10.0,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """A tool that runs while the block runs: it and what it started are terminated at the block's end, killed
    after ``stop_timeout`` s.

    It gets a session of its own, so that Ctrl-C at the terminal reaches only us and we choose the order
    of ending. The descriptors ``pass_fds`` stay open in it under their own numbers.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [os.fspath(word) for word in argv]
    with log.open("ab") as sink:
        try:
            process = subprocess.Popen(
                words,
                env=environment(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        except OSError as error:
            raise _not_started(words, cwd, error) from error
    try:
        yield process
    finally:
        if process.poll() is None:
            _signal_group(process, signal.SIGTERM)
            try:
                process.wait(stop_timeout)
            except subprocess.TimeoutExpired:
                _signal_group(process, signal.SIGKILL)
                process.wait()


def detach(
    argv: Sequence[str | os.PathLike[str]],
    *,
    log: Path,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> None:
    """Start a program that outlives this one, in a session of its own and nobody's child; its output goes to
    the end of ``log``. Raises TeethError when it cannot be started at all."""
    log.parent.mkdir(parents=True, exist_ok=True)
    words = ["setsid", "--fork", *(os.fspath(word) for word in argv)]
    with log.open("ab") as sink:
        try:
            status = subprocess.run(
                words,
                env=environment(),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                check=False,
            ).returncode
        except OSError as error:
            raise _not_started(words, cwd, error) from error
    if status != 0:
        raise TeethError(f"{words[2]} could not be started", hint=f"see {log}")


def _signal_group(process: Process, number: signal.Signals) -> None:
    """The tool and what it started; not reaped yet, so the number is still its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _not_started(words: Sequence[str], cwd: Path | None, error: OSError) -> TeethError:
    if cwd is not None and not cwd.is_dir():
        return TeethError(f"{words[0]} cannot be run in {cwd}: there is no such folder")
    if isinstance(error, FileNotFoundError) and error.filename in (None, words[0]):
        return TeethError(f"the tool {words[0]} is not installed", hint="run make setup")
    return TeethError(f"{words[0]} cannot be run: {error.strerror or error}")
