"""What a command and its answer look like, apart from any transport."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from teeth.lab.drives.sense import Sense, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One SCSI command. ``nexus`` names who sent it: reservations and unit attentions belong to it."""

    cdb: bytes
    data: bytes = b""
    nexus: str = "test"
    # How many bytes the initiator is ready to take, None where that is not known.
    expected: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The end of a command: ``data`` may come with a check condition too (ATA pass-through)."""

    status: Status = Status.GOOD
    data: bytes = b""
    sense: Sense | None = None
    # The sense data as they go over the wire; set where the device knows which format is wanted.
    raw: bytes = b""

    @property
    def good(self) -> bool:
        return self.status is Status.GOOD


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """The command is under way until clock time ``until``; then ``finish`` gives the reply, or another wait.
    Infinity means never: only a reset or a power cut ends it. Meanwhile the drive takes no other command,
    unless ``shares``."""

    until: float
    finish: Callable[[], Reply | Wait]
    shares: bool = False


Answer = Reply | Wait


def check(sense: Sense, data: bytes = b"") -> Reply:
    """CHECK CONDITION with this sense."""
    return Reply(status=Status.CHECK_CONDITION, sense=sense, data=data)


def good(data: bytes = b"", limit: int | None = None) -> Reply:
    """GOOD, with ``data`` cut to the allocation length."""
    return Reply(data=data if limit is None else data[:limit])


class Refused(Exception):
    """Raised inside a model: the command ends with this sense."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(sense)
        self.sense = sense


def take(data: bytes, offset: int, length: int) -> int:
    """The big-endian number at ``offset``; a field beyond the end counts as zero."""
    return int.from_bytes(data[offset : offset + length], "big")
