"""What this host has left for machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from teeth.errors import TeethError

MIB = 1 << 20
OVERHEAD = 160 * MIB  # QEMU itself under emulation, and the keeper beside it
RESERVE = 512 * MIB  # for everything else on the host
SHARE = 512 * MIB + OVERHEAD  # what one machine of bench/many.py takes
# Machines that boot together and dial home in time on each emulated processor of the host, by bench/many.py.
PER_PROCESSOR = 8


def memory_available() -> int:
    """Bytes the kernel says new programs can take; proc(5), /proc/meminfo."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise TeethError("/proc/meminfo does not say MemAvailable")


def require_memory(machines: list[int], available: int) -> None:
    """Raise TeethError when machines of these sizes (MiB) would leave the host too little."""
    needed = sum(size * MIB + OVERHEAD for size in machines) + RESERVE
    if needed > available:
        raise TeethError(
            f"memory is short: {len(machines)} machine{'s need' if len(machines) > 1 else ' needs'} "
            f"{needed // MIB} MiB with what the host keeps, {available // MIB} MiB are available",
            hint="give them less memory, take others down, or use --overcommit",
        )


def shares(machines: Sequence[int]) -> int:
    """How many SHAREs machines of these sizes (MiB) take together, rounded up."""
    return -(-sum(size * MIB + OVERHEAD for size in machines) // SHARE)


def room(available: int, processors: int) -> int:
    """How many SHAREs a host with so many bytes of memory and so many processors has, at least one."""
    return max(1, min((available - RESERVE) // SHARE, PER_PROCESSOR * processors))
