"""The agent's program where it cannot work: one line, a status of its own, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from teeth_agent import __main__ as program
from teeth_agent import config


def test_without_settings_it_says_what_is_missing_and_ends() -> None:
    """This machine was not booted for it: its kernel command line names no endpoint."""
    words = [sys.executable, "-m", "teeth_agent"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert done.stdout == (
        "teeth: problem bad_config: no teeth.endpoint=HOST:PORT on the kernel command line\n"
    )
    assert done.stderr == ""


@pytest.mark.parametrize("blocked", [False, True])
def test_a_folder_for_its_key_or_no_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], blocked: bool
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text(f"teeth.endpoint=127.0.0.1:1 teeth.ca=sha256:{'0' * 64}")
    if blocked:
        (tmp_path / "run").write_text("no folder")
    monkeypatch.setattr(program, "_ROOT", tmp_path)
    monkeypatch.setattr(program, "_serve", _fails)
    monkeypatch.setattr(program.logging, "basicConfig", lambda **_: None)
    monkeypatch.setattr(program.run, "mark_tools", lambda boot: None)
    monkeypatch.setattr(program, "favour_the_loop", lambda: None)
    assert config.load(tmp_path).endpoints == (("127.0.0.1", 1),)
    assert program.main() == (78 if blocked else 1)
    said = capsys.readouterr().out
    if blocked:
        assert said == f"teeth: problem no_key: {tmp_path}/run/teeth cannot be made: Not a directory\n"
    else:
        assert "teeth: problem internal: the agent failed: ZeroDivisionError: why (test_main.py:" in said
        assert (tmp_path / "run/teeth").stat().st_mode & 0o777 == 0o700


async def _fails(parts: object) -> None:
    raise ZeroDivisionError("why")
