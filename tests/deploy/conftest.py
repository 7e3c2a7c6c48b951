"""Machines for the deploy tests: the boot tests' fixtures, and a folder that is kept when a test fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from boot.conftest import (
    _FAILED,
    accelerator,
    kernel,
    log_folder,
    paths,
    pytest_runtest_makereport,
    ramdisk,
    shares_held,
)

# The hook is a conftest's own: without it here a failure would not be known to the fixture below.
__all__ = ["accelerator", "kernel", "paths", "pytest_runtest_makereport", "ramdisk", "shares_held"]


# Disks and images that a test makes.
_LARGE = {".raw", ".disk", ".zst", ".qcow2", ".tar"}


@pytest.fixture
def kept(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The test's folder build/tests/TEST. When it fails the console's log, the wire's transcript and the
    endpoint's log stay there; disks never do."""
    folder = log_folder(request.node) / "deploy"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    for file in folder.rglob("*"):
        if file.suffix in _LARGE and file.name != "console.raw":
            file.unlink()
    if not request.node.stash.get(_FAILED, False):
        shutil.rmtree(folder.parent, ignore_errors=True)
