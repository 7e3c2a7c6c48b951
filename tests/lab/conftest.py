"""Machines for the lab's own tests: the boot tests' fixtures, and the ramdisk that can be entered."""

import pytest

from boot.conftest import (
    accelerator,
    boot,
    file_server,
    kernel,
    paths,
    pytest_runtest_makereport,
    ramdisk,
    shares_held,
)
from teeth.build.ramdisk import build_ramdisk
from teeth.paths import Paths

__all__ = [
    "accelerator",
    "boot",
    "debug",
    "file_server",
    "kernel",
    "paths",
    "pytest_runtest_makereport",
    "ramdisk",
    "shares_held",
]


@pytest.fixture(scope="session")
def debug(paths: Paths, ramdisk: object) -> str:
    """The name of the ramdisk with a way in, built first when its inputs changed."""
    build_ramdisk(paths, paths.recipes / "ramdisk-debug.yaml", say=print)
    return "debug"
