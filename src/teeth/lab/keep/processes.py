"""Processes known beyond their life: never a pid alone, which soon is another process'."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """``start``: when it began, in clock ticks since the host's start (proc_pid_stat(5), field 22); ``boot``:
    the host's boot id."""

    pid: int
    start: int
    boot: str

    def to_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "start": self.start, "boot": self.boot}


def identify(pid: int) -> ProcessId | None:
    """Who ``pid`` is now; None for nobody, and for one that has ended and only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else ProcessId(pid=pid, start=int(fields[19]), boot=boot)


def from_json(value: object) -> ProcessId | None:
    """What to_json wrote; None for anything else."""
    match value:
        case Mapping() as found if isinstance(found.get("pid"), int) and isinstance(found.get("start"), int):
            return ProcessId(pid=found["pid"], start=found["start"], boot=str(found.get("boot")))
        case _:
            return None


def lives(process: ProcessId) -> bool:
    """Whether it is still there, and still it."""
    return identify(process.pid) == process


def end(process: ProcessId, *, within: float) -> bool:
    """Terminate it and wait for its end, kill it after ``within`` seconds. False when it was gone already.

    The descriptor is taken first and the identity checked then: from there on the signal can reach no other.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not lives(process):
            return False
        for number, patience in ((signal.SIGTERM, within), (signal.SIGKILL, 5.0)):
            signal.pidfd_send_signal(descriptor, number)
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if poll.poll(patience * 1000):
                break
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)
    return True
