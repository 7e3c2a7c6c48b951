"""The Python that goes into the ramdisk, as wheels in a folder with lock files: see elements/teeth-agent."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from teeth.cache import file_digest, tree_files
from teeth.proc import run

PYTHON_VERSION = "3.13"  # of the ramdisk's Debian release
_PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
_BUILD_TOOLS = "setuptools>=77"  # agent/pyproject.toml's build requirement


def fetch_dependencies(lock: Path, cache: Path) -> Path:
    """A folder with ``requirements.lock`` and the wheels that it names, fetched once per content.

    Raises CommandError when a wheel is not to be had or its hash is wrong.
    """
    folder = cache / "wheels" / file_digest(lock)[:16]
    if folder.is_dir():
        return folder
    fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
    fresh.mkdir(parents=True)
    try:
        arguments = ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
        arguments += ["--python-version", PYTHON_VERSION, "--requirement", f"{lock}", "--dest", f"{fresh}"]
        run([*_PIP, "download", *arguments])
        shutil.copy(lock, fresh / "requirements.lock")
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def build_agent(agent: Path, out: Path, *, cache: Path, epoch: int) -> Path:
    """Fill ``out`` with the agent's wheel and ``agent.lock``, which names it by hash. Returns the wheel.

    The same source gives the same bytes: ``epoch`` stamps the files in the wheel.
    """
    source = out / "source"
    for path in tree_files(agent):
        if path.relative_to(agent).parts[0] in ("src", "pyproject.toml"):
            # A copy: setuptools leaves its build folder in the source, and takes stale files from it.
            target = source / path.relative_to(agent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    env = {"SOURCE_DATE_EPOCH": str(epoch), "PYTHONPATH": str(_build_tools(cache))}
    arguments = ["--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", f"{out}", f"{source}"]
    run([*_PIP, "wheel", *arguments], env=env)
    shutil.rmtree(source)
    (wheel,) = out.glob("*.whl")
    name, version = wheel.name.split("-")[:2]
    (out / "agent.lock").write_text(f"{name}=={version} --hash=sha256:{file_digest(wheel)}\n")
    return wheel


def _build_tools(cache: Path) -> Path:
    """A folder with what builds the wheel, kept, so that a changed agent needs no network."""
    folder = cache / "build-tools"
    if not folder.is_dir():
        fresh = folder.with_name(f"build-tools.{os.getpid()}")
        try:
            run([*_PIP, "install", "--target", f"{fresh}", _BUILD_TOOLS])
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder
