"""Machines for the erase tests: the boot tests' and the lab's fixtures."""

from boot.conftest import accelerator, kernel, paths, ramdisk, shares_held
from lab.conftest import debug

__all__ = ["accelerator", "debug", "kernel", "paths", "ramdisk", "shares_held"]
