"""The boot tests' machines, with simulated drives in them."""

from boot.conftest import (
    accelerator,
    boot,
    kernel,
    paths,
    pytest_runtest_makereport,
    ramdisk,
)

__all__ = ["accelerator", "boot", "kernel", "paths", "pytest_runtest_makereport", "ramdisk"]
