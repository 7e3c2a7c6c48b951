"""The sanitize operation as such, behind SCSI SANITIZE, ATA SANITIZE DEVICE and NVMe Sanitize (SBC-4 4.11,
ACS-4 4.15, NVMe base 2.0 5.24)."""

from __future__ import annotations

from collections.abc import Callable

from teeth.lab.drives.disk import Disk, Job
from teeth.lab.drives.model import Method, Sanitize

Then = Callable[[bool], None]


def begin(disk: Disk, wanted: Sanitize, then: Then | None = None) -> None:
    """Start, or after a power cut resume, the operation that ``wanted`` describes; ``then`` is told how it
    ended."""
    disk.state.sanitize = wanted
    wanted.state = "running"
    method = Method(wanted.method)
    disk.start(
        Job(
            method=method,
            # Everything that ever held user data: hidden areas and retired blocks too.
            spans=[disk.all_blocks],
            pattern=_leaves(disk, wanted, method),
            seconds=disk.spec.seconds(method, wanted.passes),
            since=disk.clock(),
            done=wanted.done,
            ended=lambda well: _ended(disk, well, then),
        )
    )


def _leaves(disk: Disk, wanted: Sanitize, method: Method) -> bytes | None:
    """What blocks read as afterwards; None is noise."""
    match method:
        case Method.SANITIZE_OVERWRITE:
            pattern = bytes.fromhex(wanted.pattern)
            # INVERT: each pass is the one before inverted, so an even number of passes ends inverted.
            turned = wanted.invert and wanted.passes % 2 == 0
            return bytes(byte ^ 0xFF for byte in pattern) if turned else pattern
        case Method.SANITIZE_CRYPTO if (wanted.leaves or disk.spec.crypto_leaves) == "noise":
            return None
        case _:
            return b"\0"


def _ended(disk: Disk, well: bool, then: Then | None) -> None:
    state = disk.state.sanitize
    state.state = "done" if well else "failed"
    state.done = 1.0 if well else state.done
    if well:
        disk.state.format = "good"
    if then is not None:
        then(well)


def resume(disk: Disk, then: Then | None = None) -> None:
    """After power-on: an operation that was under way goes on where it was."""
    if disk.state.sanitize.state == "running":
        begin(disk, disk.state.sanitize, then)
