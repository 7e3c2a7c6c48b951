"""The page for users who test their own tool against drives that lie: its files and commands, as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from teeth.paths import find_checkout

pytestmark = [pytest.mark.boot, pytest.mark.image]

SECONDS = 400.0


def page() -> str:
    return (find_checkout().root / "docs/lying-drives.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The first block of that language on the page."""
    match = re.search(rf"^```{language}\n(.*?)^```$", page(), re.MULTILINE | re.DOTALL)
    assert match, language
    return match[1]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=SECONDS, check=False,
    )  # fmt: skip


def test_the_five_commands(debug: str, tmp_path: Path) -> None:
    commands = [line.removeprefix("$ ") for line in block("console").splitlines()]
    assert len(commands) == 5
    assert all(line.startswith("teeth ") for line in commands)
    (tmp_path / "liars.toml").write_text(block("toml"))
    (tmp_path / "wipe.sh").write_text(block("sh"))
    # The lab's folder is the checkout's; the page is read in it.
    (tmp_path / "build").symlink_to(find_checkout().build)
    *first, check, down = commands
    try:
        for command in first:
            done = run(command, tmp_path)
            assert done.returncode == 0, f"{command}: {done.stderr}"
        judged = run(check, tmp_path)
        assert judged.returncode == 1, judged.stderr
        assert judged.stdout == block("text")
    finally:
        assert run(down, tmp_path).returncode == 0
