"""The layers hold, a planted upward import breaks the check, and the agent stands alone."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "teeth": "src",
    "teeth_agent": "agent/src",
    "teeth_image": "agent/src",
    "teeth_protocol": "agent/src",
    "teeth_stream": "agent/src",
}
# What agent/pyproject.toml installs into the ramdisk, and what travels in the same wheel.
AGENT_MAY_IMPORT = {"pyroute2", "pyudev", "teeth_agent", "teeth_image", "teeth_protocol", "teeth_stream"}


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """import-linter over the packages below ``root``, not over the installed ones."""
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{root / 'agent/src'}", "COLUMNS": "200"},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package, folder in SOURCES.items():
        shutil.copytree(
            ROOT / folder / package,
            tmp_path / folder / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return tmp_path


def test_the_layers_hold(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


# file, line, the contract that it breaks
PLANTED = {
    "the protocol looks at the clock": (
        "agent/src/teeth_protocol/limits.py", "import time", "the protocol touches no I/O and no clock",
    ),
    "an image module opens a file": (
        "agent/src/teeth_image/gpt.py", "from pathlib import Path", "images are read without I/O",
    ),
    "an image module knows the agent": (
        "agent/src/teeth_image/gpt.py", "import teeth_agent.errors",
        "what is shared knows nothing of either end",
    ),
    "siblings meet in what is shared": (
        "agent/src/teeth_image/gpt.py", "import teeth_stream.peer",
        "what is shared knows nothing of either end",
    ),
    "the stream knows the agent": (
        "agent/src/teeth_stream/peer.py", "import teeth_agent.errors",
        "what is shared knows nothing of either end",
    ),
    "the host knows the agent": (
        "src/teeth/paths.py", "import teeth_agent.config", "what is shared knows nothing of either end",
    ),
    "a tool knows its task": (
        "agent/src/teeth_agent/tools/sgdisk.py", "import teeth_agent.tasks", "agent layers",
    ),
    "siblings meet in the agent": (
        "agent/src/teeth_agent/erase/plan.py", "import teeth_agent.image.fetch", "agent layers",
    ),
    "siblings meet on the host": ("src/teeth/boot/grants.py", "import teeth.endpoint.ca", "host layers"),
    "the kit judges with the code that it judges": (
        "src/teeth/conformance/strict.py", "import teeth_protocol.limits",
        "the conformance kit reads the protocol on its own",
    ),
    "errors know everything": ("src/teeth/errors.py", "import teeth.proc", "host layers"),
    "an import in a function": ("src/teeth/paths.py", "def f():\n    from teeth import cli", "host layers"),
    "a module in no layer": ("src/teeth/stray.py", "import os", "host layers"),
    "a second subprocess door in the agent": (
        "agent/src/teeth_agent/tools/sgdisk.py", "import subprocess", "one door: subprocess in the agent",
    ),
    "a second subprocess door on the host": (
        "src/teeth/cache.py", "import subprocess", "one door: subprocess on the host",
    ),
    "a second pyudev door": ("agent/src/teeth_agent/sysfs.py", "import pyudev", "one door: pyudev"),
    "a second pyroute2 door": (
        "agent/src/teeth_agent/network/choose.py", "import pyroute2", "one door: pyroute2",
    ),
    "a second click door": ("src/teeth/errors.py", "import click", "one door: click"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "line", "contract"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_import_breaks_the_check(copy: Path, file: str, line: str, contract: str) -> None:
    path = copy / file
    before = path.read_text() if path.exists() else ""
    path.write_text(f"{before}\n{line}\n")
    done = lint(copy)
    assert done.returncode != 0
    assert f"{contract} BROKEN" in done.stdout, done.stdout + done.stderr


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, top-level module) of every import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            yield node.lineno, node.module.partition(".")[0]


def test_the_agent_imports_nothing_that_the_ramdisk_does_not_carry() -> None:
    files = sorted((ROOT / "agent/src").rglob("*.py"))
    assert len(files) > 30
    strays = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files
        for line, name in imported(path)
        if name not in sys.stdlib_module_names and name not in AGENT_MAY_IMPORT
    ]
    assert strays == []


def test_what_is_shared_needs_the_standard_library_alone() -> None:
    allowed = {"teeth_image", "teeth_protocol", "teeth_stream"}
    for package in sorted(allowed):
        for path in (ROOT / "agent/src" / package).rglob("*.py"):
            names = {name for _, name in imported(path)}
            assert names <= allowed | sys.stdlib_module_names, path


def test_the_agent_starts_without_the_host_side(tmp_path: Path) -> None:
    """Its modules load in a fresh interpreter that finds only the agent's sources and its two libraries."""
    site = tmp_path / "site"
    site.mkdir()
    for name in ("pyroute2", "pyudev"):
        found = __import__(name).__file__
        assert found is not None
        (site / name).symlink_to(Path(found).parent)
    code = (
        "import pkgutil, importlib, sys, teeth_agent, teeth_image, teeth_protocol, teeth_stream\n"
        "for package in (teeth_protocol, teeth_stream, teeth_image, teeth_agent):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "print(len(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", code],
        env={"PYTHONPATH": f"{ROOT / 'agent/src'}:{site}", "PATH": os.environ["PATH"]},
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
