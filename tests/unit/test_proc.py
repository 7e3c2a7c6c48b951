"""The host's subprocess door: every failure is one line that a person can act on."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from teeth import proc
from teeth.errors import TeethError
from teeth.proc import CommandError, background, run


def test_the_output_is_returned(tmp_path: Path) -> None:
    assert run(["sh", "-c", "echo out; echo err >&2"]) == "out\n"
    assert run(["pwd"], cwd=tmp_path) == f"{tmp_path}\n"
    assert run(["cat"], input=b"x" * 300_000) == "x" * 300_000
    assert run(["cat"]) == ""
    assert run([Path("/bin/echo"), Path("a")]) == "a\n"


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("KEPT", "1")
    assert run(["sh", "-c", "echo $LC_ALL $KEPT $MORE"], env={"MORE": "2"}) == "C.UTF-8 1 2\n"


@pytest.mark.parametrize("path", ["/usr/local/bin:/usr/bin:/bin", "/opt/own/bin", ""])
def test_the_tools_of_the_system_are_found_with_a_plain_users_path(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", path)
    found = run(["sh", "-c", "echo $PATH"]).strip().split(":")
    assert found[: path.count(":") + 1] == (path.split(":") if path else ["/usr/sbin"])
    assert {"/usr/sbin", "/sbin"} <= set(found)
    assert len(found) == len(set(found))
    assert run(["sgdisk", "--version"]).startswith("GPT fdisk")


def test_a_failure_is_told_by_its_last_line() -> None:
    with pytest.raises(CommandError) as error:
        run(["sh", "-c", "echo out; echo first >&2; echo 'last one' >&2; exit 3"])
    assert str(error.value).startswith("sh -c 'echo out; ")
    assert str(error.value).endswith(" ended with 3: last one")
    assert (error.value.returncode, error.value.tail) == (3, "out\nfirst\nlast one")
    with pytest.raises(CommandError, match="ended with -9: no output"):
        run(["sh", "-c", "kill -9 $$"])


def test_a_log_takes_both_streams(tmp_path: Path) -> None:
    log = tmp_path / "logs/a.log"
    assert run(["sh", "-c", "echo out; echo err >&2"], log=log) == ""
    assert log.read_text() == "out\nerr\n"
    with pytest.raises(CommandError) as error:
        run(["sh", "-c", "seq 100; exit 1"], log=log)
    assert error.value.message == "sh -c 'seq 100; exit 1' ended with 1: 100"
    assert error.value.hint == f"its whole output is in {log}"
    assert error.value.tail.splitlines() == [str(n) for n in range(81, 101)]


@pytest.mark.parametrize("log", [False, True])
def test_what_cannot_be_started(tmp_path: Path, log: bool) -> None:
    to = tmp_path / "log" if log else None
    with pytest.raises(TeethError, match=r"^the tool no-such-tool is not installed \(run make setup\)$"):
        run(["no-such-tool"], log=to)
    with pytest.raises(TeethError, match=r"true cannot be run in .*/gone: there is no such folder"):
        run(["true"], cwd=tmp_path / "gone", log=to)
    program = tmp_path / "program"
    program.write_text("text")
    with pytest.raises(TeethError, match="program cannot be run: Permission denied"):
        run([program], log=to)


@pytest.mark.parametrize("log", [False, True])
def test_a_tool_that_does_not_end(tmp_path: Path, log: bool) -> None:
    with pytest.raises(TeethError, match=r"^sleep 1000 did not end within 0\.1 s$"):
        run(["sleep", "1000"], timeout=0.1, log=tmp_path / "log" if log else None)


def gone(fd: int) -> bool:
    """Whether everybody who held the other end of the pipe has ended."""
    ready, _, _ = select.select([fd], [], [], 20)
    return bool(ready) and os.read(fd, 1) == b""


def test_what_runs_in_the_background_ends_with_the_block(tmp_path: Path) -> None:
    """Its children too: each holds the pipe's writing end, whose end of file is the end of all of them."""
    reading, writing = os.pipe()
    script = f"sleep 1000 & echo started; echo x >/dev/fd/{writing}; wait"
    with background(["sh", "-c", script], log=tmp_path / "l/og", pass_fds=(writing,)) as process:
        os.close(writing)
        assert os.read(reading, 2) == b"x\n"
        assert process.poll() is None
        assert os.getsid(process.pid) == process.pid
    assert process.returncode == -signal.SIGTERM
    assert gone(reading)
    os.close(reading)
    assert (tmp_path / "l/og").read_text() == "started\n"


def test_what_will_not_end_is_killed(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    script = f"trap '' TERM; echo x >/dev/fd/{writing}; while :; do sleep 1000; done"
    command = ["sh", "-c", script]
    with background(command, log=tmp_path / "log", pass_fds=(writing,), stop_timeout=0.1) as process:
        os.close(writing)
        assert os.read(reading, 2) == b"x\n"
    assert process.returncode == -signal.SIGKILL
    assert gone(reading)
    os.close(reading)


def test_what_ended_by_itself(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for _ in range(2):
        with background(["sh", "-c", "echo out; exit 4"], log=log) as process:
            process.wait(20)
        assert process.returncode == 4
    assert log.read_text() == "out\nout\n"


def test_a_background_tool_that_cannot_be_started(tmp_path: Path) -> None:
    with (
        pytest.raises(TeethError, match="the tool no-such-tool is not installed"),
        background(["no-such-tool"], log=tmp_path / "log"),
    ):
        pass
    with (
        pytest.raises(TeethError, match="there is no such folder"),
        background(["true"], log=tmp_path / "log", cwd=tmp_path / "gone"),
    ):
        pass


def test_the_type_that_others_name() -> None:
    assert proc.Process.__origin__ is subprocess.Popen  # type: ignore[attr-defined]
