"""The ways to erase a unit. What a drive does by itself is a ``DeviceErase``, whatever its interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from teeth_agent.passthrough.nvme import NvmePort
from teeth_agent.passthrough.scsi import ScsiPort


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """How drives are spoken to: passthrough's open_scsi and open_nvme, or what stands for them."""

    open_scsi: Callable[[str], AbstractContextManager[ScsiPort]]
    open_nvme: Callable[[str], AbstractContextManager[NvmePort]]


class State(Enum):
    """What the drive says of the operation it was given."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """The drive's answer to one look. ``fraction``: 0 to 1 by the drive's own word, None: it does not tell.

    ``evidence``: JSON values, raw status and log bytes in hex.
    """

    state: State
    fraction: float | None
    evidence: Mapping[str, Any]


class DeviceErase(Protocol):
    """One method carried out by the drive itself on one unit, for one attempt. Used from one thread.

    Every call that waits for the drive is bounded by a timeout of its own.
    """

    @property
    def estimate(self) -> float | None:
        """How long it will take in seconds, by the drive's own word; None: it does not tell."""

    @property
    def commands(self) -> list[str]:
        """What was sent so far: the command in hex, and the equivalent line of the well-known tool."""

    def start(self) -> None:
        """Begin, and return at once: a command that blocks until the end runs in a thread of its own.

        Raises DeviceError when the drive refuses; nothing is under way then.
        """

    def adopt(self) -> bool:
        """Take over an operation of this method that the drive has under way or left failed; else False.

        After True ``poll`` tells of that operation, and ``start`` may be called only if it failed.
        """

    def poll(self) -> Poll:
        """How it stands. Never blocks longer than a few seconds.

        Raises DeviceError when the drive does not answer: that alone does not mean that the erase failed.
        """

    def complete(self) -> Mapping[str, Any]:
        """After DONE, the drive's own word for it, read anew (E2): evidence for the record.

        Raises DeviceError when the drive's word does not hold.
        """

    def abandon(self) -> None:
        """Leave the drive usable after a failure of any kind: failure mode left if that is allowed, unlocked,
        the password taken away and seen to be gone. Harmless when there is nothing to do.

        Raises DeviceError(drive_left_locked), the password in its text, when the drive stays locked.
        """
