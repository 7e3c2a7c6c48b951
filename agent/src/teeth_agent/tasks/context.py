"""What every task may know about the machine it runs on, and what tasks leave for each other."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDisk:
    """An image that was written to a disk and read back: what run_image may start."""

    image_id: str
    identity: str
    digest: str


class SharedState:
    """Facts that hold for this boot. Any thread may ask and tell.

    A disk's identity is its WWN, where it has none its serial number, else its name and diskseq.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._zero: set[str] = set()
        self._prepared: dict[str, PreparedDisk] = {}

    def mark_zero(self, identity: str) -> None:
        """The whole disk was read back and is zero; nothing has been written since."""
        with self._lock:
            self._zero.add(identity)
            self._prepared.pop(identity, None)

    def is_zero(self, identity: str) -> bool:
        with self._lock:
            return identity in self._zero

    def clear_zero(self, identity: str) -> None:
        """To be called before the first byte is written to the disk."""
        with self._lock:
            self._zero.discard(identity)
            self._prepared.pop(identity, None)

    def set_prepared(self, fact: PreparedDisk) -> None:
        """The disk holds this image, verified. Holds until something else is written to it."""
        with self._lock:
            self._prepared[fact.identity] = fact

    def prepared(self, image_id: str) -> PreparedDisk | None:
        """The disk prepared last with this image."""
        with self._lock:
            found = [fact for fact in self._prepared.values() if fact.image_id == image_id]
        return found[-1] if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """``sysfs_root``: where /sys and /proc are found; ``boot_id``: the kernel's, new at every boot."""

    boot_id: str
    sysfs_root: Path = Path("/")
    state: SharedState = field(default_factory=SharedState)
