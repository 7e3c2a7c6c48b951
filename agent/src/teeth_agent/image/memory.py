"""How much memory this process needs at its peak, as the kernel counts it. proc(5)."""

from __future__ import annotations

import contextlib
from pathlib import Path

_RESET_PEAK = "5"


def reset_peak(proc: Path = Path("/proc/self")) -> None:
    """From here on a new peak is looked for; where the kernel cannot, the old one goes on."""
    with contextlib.suppress(OSError):
        (proc / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")


def peak(proc: Path = Path("/proc/self")) -> int:
    """The most bytes resident since ``reset_peak``; 0 where the kernel does not say."""
    with contextlib.suppress(OSError):
        for line in (proc / "status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0
