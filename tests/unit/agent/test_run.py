"""The agent's subprocess door: what a tool may do to us, and what it may not."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path

import pytest

from teeth_agent import run as run_module
from teeth_agent.errors import ToolError
from teeth_agent.run import environment, filter_process, run


def sh(script: str, **options: object) -> tuple[int, str, str]:
    done = run(["sh", "-c", script], check=False, **options)  # type: ignore[arg-type]
    return done.returncode, done.stdout, done.stderr


def test_status_and_both_outputs() -> None:
    assert sh("echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")
    assert run(["true"]).argv == ("true",)


def test_input_goes_in_whole() -> None:
    data = b"0123456789abcdef" * 100_000  # far more than a pipe holds, in both directions
    done = run(["cat"], input=data)
    assert done.stdout.encode() == data
    assert sh("cat", input=b"") == (0, "", "")


def test_without_input_there_is_no_terminal_to_wait_for() -> None:
    assert sh("cat") == (0, "", "")


def test_a_tool_that_does_not_read_its_input() -> None:
    assert sh("exec <&-; echo done", input=b"x" * (1 << 20)) == (0, "done\n", "")


def test_an_endless_output_is_cut_and_not_kept() -> None:
    status, out, err = sh("head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2")
    assert (status, len(out), len(err)) == (0, 4 << 20, 4 << 20)


def test_output_that_is_no_text() -> None:
    assert sh(r"printf '\377a'") == (0, "�a", "")


@pytest.mark.parametrize(
    "script", ["exec sleep 1000", "exec >&- 2>&-; exec sleep 1000", "exec yes", "sleep 2 & exit 0"]
)
def test_a_tool_that_does_not_end(script: str) -> None:
    with pytest.raises(ToolError, match=r"sh did not end within 0\.2 s") as error:
        run(["sh", "-c", script], timeout=0.2)
    assert error.value.code == "tool_timeout"


def test_a_tool_that_does_not_even_die_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that waits in the kernel for a drive that no longer answers."""
    started: list[subprocess.Popen[bytes]] = []

    class Undying(subprocess.Popen[bytes]):
        def kill(self) -> None:
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Undying)
    monkeypatch.setattr(run_module, "_DEATH_SECONDS", 0.01)
    with pytest.raises(ToolError) as error:
        run(["sleep", "1000"], timeout=0.05)
    assert error.value.code == "tool_timeout"
    (process,) = started
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def test_a_tool_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no-such-tool is not in this ramdisk") as error:
        run(["no-such-tool"])
    assert error.value.code == "tool_missing"
    file = tmp_path / "tool"
    file.write_text("no program")
    with pytest.raises(ToolError, match="cannot be started: Permission denied"):
        run([str(file)])
    file.chmod(0o755)
    with pytest.raises(ToolError, match="cannot be started: Exec format error"):
        run([str(file)])


def test_a_failure_is_told_by_its_last_words() -> None:
    with pytest.raises(ToolError, match=r"^sh ended with 2: last$") as error:
        run(["sh", "-c", "echo out; echo first >&2; echo last >&2; exit 2"])
    assert error.value.code == "tool_failed"
    with pytest.raises(ToolError, match="ended with 1: out"):
        run(["sh", "-c", "echo out; exit 1"])
    with pytest.raises(ToolError, match="ended with -9: no output"):
        run(["sh", "-c", "kill -9 $$"])


def test_the_environment_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/x")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("PATH", "/first:/usr/bin")
    assert set(environment()) == {"PATH", "LC_ALL", "HOME", "TERM"}
    assert environment()["LC_ALL"] == "C"
    assert environment()["PATH"].startswith("/first:")
    monkeypatch.delenv("PATH")
    assert environment()["PATH"] == "/usr/sbin:/usr/bin:/sbin:/bin"


def test_a_filter() -> None:
    data = b"abc" * 1_000_000
    got = bytearray()
    with filter_process(["cat"]) as (into, out):

        def drain() -> None:
            while chunk := out.read(1 << 16):
                got.extend(chunk)

        thread = threading.Thread(target=drain)
        thread.start()
        view = memoryview(data)
        while view:
            view = view[into.write(view) :]
        into.close()
        thread.join(30)
    assert bytes(got) == data


def test_a_filter_that_fails() -> None:
    with (
        pytest.raises(ToolError, match="sh ended with 7: bad input"),
        filter_process(["sh", "-c", "cat >/dev/null; echo bad input >&2; exit 7"]) as (into, _),
    ):
        into.close()


def test_a_filter_whose_user_fails_is_killed() -> None:
    with pytest.raises(ZeroDivisionError), filter_process(["sleep", "1000"]):
        raise ZeroDivisionError
    with pytest.raises(ToolError, match="is not in this ramdisk"), filter_process(["no-such-tool"]):
        pass
