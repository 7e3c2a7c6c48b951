"""What the kernel has mounted and swaps to, by block device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from teeth_agent import sysfs

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Mount points by device number ("8:1") and by source name ("sda1"), and the names swapped to."""

    by_number: Mapping[str, tuple[str, ...]]
    by_name: Mapping[str, tuple[str, ...]]
    swaps: frozenset[str]

    def mounts_of(self, name: str, number: str) -> tuple[str, ...]:
        """Where a device is mounted, sorted.

        By number, and by name as well: btrfs and others show a made-up number (0:NN).
        """
        return tuple(sorted({*self.by_number.get(number, ()), *self.by_name.get(name, ())}))


def read_usage(root: Path = Path("/")) -> Usage:
    """Read /proc/self/mountinfo and /proc/swaps; unreadable ones count as empty, as without a /proc."""
    by_number: dict[str, list[str]] = {}
    by_name: dict[str, list[str]] = {}
    for line in (sysfs.read_text(root, "/proc/self/mountinfo", "") or "").splitlines():
        # proc(5): ... (3) major:minor (4) root (5) mount point ... - (9) type (10) source ...
        left, _, right = line.partition(" - ")
        head, tail = left.split(), right.split()
        if len(head) < 5 or len(tail) < 2:
            continue
        point = _unescape(head[4])
        by_number.setdefault(head[2], []).append(point)
        if tail[1].startswith("/dev/"):
            by_name.setdefault(_unescape(tail[1]).removeprefix("/dev/"), []).append(point)
    swaps = [line.split()[0] for line in (sysfs.read_text(root, "/proc/swaps", "") or "").splitlines()[1:]]
    return Usage(
        by_number={number: tuple(points) for number, points in by_number.items()},
        by_name={name: tuple(points) for name, points in by_name.items()},
        swaps=frozenset(_unescape(swap).removeprefix("/dev/") for swap in swaps),
    )


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), text)
