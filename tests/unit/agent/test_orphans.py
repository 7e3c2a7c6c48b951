"""Tools that outlived the agent that started them are ended before another one starts any."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from teeth_agent import run
from teeth_agent.run import Orphans, environment

BOOT = f"boot-of-this-test-{os.getpid()}"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment that this boot's agent gives its tools."""
    monkeypatch.setitem(os.environ, run._MARK, "")  # restored afterwards
    run.mark_tools(BOOT)
    return environment()


def sleeper(env: dict[str, str], script: str = "exec sleep 1000") -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["sh", "-c", f"echo ready; {script}"], env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_tools_carry_their_boot(tools: dict[str, str]) -> None:
    assert run.run(["sh", "-c", f"echo ${run._MARK}"]).stdout.strip() == BOOT


def test_they_and_what_they_started_are_ended(
    tools: dict[str, str], started: list[subprocess.Popen[bytes]]
) -> None:
    theirs = [{**tools, run._MARK: boot} for boot in ("another boot", f"{BOOT}2")]
    started += [sleeper(tools), sleeper(tools, "sleep 1000 & wait"), *(sleeper(one) for one in theirs)]
    orphans = Orphans(BOOT)
    orphans.end()
    assert orphans.blocked() == ""
    assert [process.wait(30) for process in started[:2]] == [-signal.SIGKILL] * 2
    assert orphans._marked() == []
    assert [process.poll() for process in started[2:]] == [None, None]


def test_none_are_none(tools: dict[str, str]) -> None:
    orphans = Orphans(BOOT)
    orphans.end()
    assert orphans.blocked() == ""


def test_one_that_does_not_die_is_named_until_it_does(
    tools: dict[str, str], started: list[subprocess.Popen[bytes]]
) -> None:
    process = subprocess.Popen(["sleep", "1000"], env=tools)
    started.append(process)
    orphans = Orphans(BOOT, kill=lambda pidfd: None)  # as SIGKILL to a process inside the kernel
    orphans.end(patience=0.05)
    assert orphans.blocked() == f"sleep (pid {process.pid}) of an earlier agent process does not end"
    process.kill()
    process.wait(30)
    assert orphans.blocked() == ""


def test_a_process_that_ends_while_it_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(30)
    (tmp_path / str(gone.pid)).mkdir()
    (tmp_path / str(gone.pid) / "environ").write_bytes(f"A=1\0{run._MARK}={BOOT}\0".encode())
    orphans = Orphans(BOOT, proc=tmp_path)
    orphans.end()
    assert orphans.blocked() == ""
