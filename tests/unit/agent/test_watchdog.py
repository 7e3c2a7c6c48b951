"""The watch over the loop. What ends a process is tried on processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from teeth_agent.session.watchdog import EXIT_STUCK, Silence, last_words

DEADLINE = 60


def test_a_loop_that_turns_is_never_silent() -> None:
    silence = Silence(5.0)
    assert [silence.look(5.0 * n, n) for n in range(1000)] == [0.0] * 1000


def test_a_loop_that_stands_still_is_counted() -> None:
    silence = Silence(5.0)
    assert [silence.look(5.0 * n, min(n, 2)) for n in range(6)] == [0, 0, 0, 5, 10, 15]
    assert silence.look(30.0, 3) == 0


def test_a_machine_that_slept_is_not_counted_as_silent() -> None:
    """A late look counts for two intervals at the most, however long the sleep was."""
    silence = Silence(5.0)
    silence.look(0.0, 1)
    assert silence.look(1e6, 1) == 10.0
    assert silence.look(1e6 + 5, 2) == 0


SCRIPT = """
    import asyncio, faulthandler, re, sys, threading, time
    from pathlib import Path
    from teeth_agent.session.watchdog import watching

    def busy(until):
        while not until.is_set():
            sum(range(1000))

    async def main():
        with watching(Path(sys.argv[1]), limit=float(sys.argv[2])):
            {body}
    asyncio.run(main())
    print("ended by itself")
"""


def start(tmp_path: Path, body: str, limit: float) -> subprocess.Popen[str]:
    script = textwrap.dedent(SCRIPT).replace(
        "{body}", textwrap.dedent(body).strip().replace("\n", "\n" + " " * 8)
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "stuck.txt"), str(limit)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(tmp_path: Path, body: str, limit: float = 0.5) -> tuple[int, str, str]:
    with start(tmp_path, body, limit) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    return process.returncode, out, err


def test_a_loop_that_waits_for_ever_is_ended_and_shows_where(tmp_path: Path) -> None:
    status, out, err = run(tmp_path, "threading.Event().wait()")
    assert status == EXIT_STUCK
    assert (
        out == "teeth: problem agent_stuck: the agent's loop has not turned for 0.5 s: it is started again\n"
    )
    assert "Thread" in err
    assert "in main" in err
    told = last_words(tmp_path / "stuck.txt")
    assert told is not None
    assert told.startswith("the agent's loop has not turned for 0.5 s")
    assert "in wait" in told
    assert last_words(tmp_path / "stuck.txt") is None


def test_a_call_that_lets_no_other_thread_run_is_ended_too(tmp_path: Path) -> None:
    """A regular expression that tries every way keeps Python's lock: no thread of Python can see that."""
    status, out, err = run(tmp_path, 're.match(r"(a+)+$", "a" * 60 + "b")', limit=0.2)
    assert status == -signal.SIGPROF
    assert out == ""
    assert "in main" in err


def test_work_in_threads_ends_nothing(tmp_path: Path) -> None:
    body = """
        over = threading.Event()
        threads = [threading.Thread(target=busy, args=(over,)) for _ in range(4)]
        [thread.start() for thread in threads]
        used = time.process_time
        while used() < 1.5:
            await asyncio.sleep(0.01)
        over.set()
    """
    assert run(tmp_path, body, limit=0.6) == (0, "ended by itself\n", "")


def test_a_stopped_process_is_not_ended_when_it_goes_on(tmp_path: Path) -> None:
    """As after the suspension of a virtual machine: the clock has gone on, nothing else has."""
    body = """
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    """
    with start(tmp_path, body, 0.5) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            os.kill(process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            # The time that passes is what is tried here: three times the limit.
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.5)
            os.kill(process.pid, signal.SIGCONT)
            out, err = process.communicate("go\n", timeout=DEADLINE)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "ended by itself\n", "")


@pytest.mark.parametrize(
    ("text", "words"), [("", None), ("\n \n", None), ("a\n  b\n\n", "a | b"), ("x" * 5000, "x" * 900)]
)
def test_last_words_fit_one_log_record(tmp_path: Path, text: str, words: str | None) -> None:
    (tmp_path / "report").write_text(text)
    assert last_words(tmp_path / "report") == words
