"""What benches that compare tools have in common: a loop device past the page cache, and a command timed."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from teeth.errors import TeethError

DEADLINE = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A command that did its work: what it said, and its seconds by the clock and on the processor."""

    output: str
    seconds: float
    cpu: float


def timed(name: str, argv: Sequence[str]) -> Timed:
    """Run ``argv``. Raises TeethError if it fails: a figure of something that did not do its work is none."""
    os.sync()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE, check=False)
    except subprocess.TimeoutExpired as error:
        raise TeethError(f"{name} took more than {DEADLINE:.0f} s") from error
    seconds, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise TeethError(f"{name} ended with status {done.returncode}: {done.stderr.strip()[-600:]}")
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return Timed(output=done.stdout, seconds=seconds, cpu=cpu)


@contextmanager
def loop_device(path: Path) -> Iterator[str]:
    """``path`` as a loop device with direct I/O. Raises TeethError."""
    done = subprocess.run(
        ["losetup", "--direct-io=on", "--find", "--show", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise TeethError(f"no loop device: {done.stderr.strip()}", hint="run as root")
    device = done.stdout.strip()
    # nwipe takes every disk of the machine when it is given none.
    if not device.startswith("/dev/loop"):
        raise TeethError(f"losetup names no loop device: {device!r}")
    try:
        if Path(f"/sys/block/{Path(device).name}/loop/dio").read_text(encoding="ascii").strip() != "1":
            raise TeethError(f"{device} goes through the page cache", hint="build/ must be on a disk")
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
