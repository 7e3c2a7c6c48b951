"""Who holds a drive: registered keys, the persistent reservation, and what they let through (SPC-5 5.13)."""

from __future__ import annotations

from enum import Enum

from teeth.lab.drives.disk import Disk

ALL_REGISTRANTS = (7, 8)
REGISTRANTS_ONLY = (5, 6, 7, 8)
_WRITE_EXCLUSIVE = (1, 5, 7)


class Access(Enum):
    """How a command stands to a reservation of another initiator (SPC-5 table 66, SBC-4 table 14)."""

    FREE = "free"
    READ = "read"
    WRITE = "write"


class Reservations:
    """Registered keys and the reservation. Kept over power cuts where the last REGISTER asked so (APTPL)."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.generation = 0
        self.holder: str | None = None
        self.type = 0
        self.persist = False

    def load(self, disk: Disk) -> None:
        """After power-on: what was kept."""
        state = disk.state
        self.persist = bool(state.registrations)
        self.keys = {nexus: int(key, 16) for nexus, key in state.registrations.items()}
        self.generation = 0
        self.holder, self.type = (
            (state.reservation[0], int(state.reservation[1])) if state.reservation else (None, 0)
        )

    def store(self, disk: Disk) -> None:
        state = disk.state
        keep = self.persist
        state.registrations = {nexus: f"{key:016x}" for nexus, key in self.keys.items()} if keep else {}
        state.reservation = [self.holder, str(self.type)] if keep and self.holder is not None else []
        disk.save()

    def holds(self, nexus: str) -> bool:
        if self.holder is None:
            return False
        return nexus in self.keys if self.type in ALL_REGISTRANTS else nexus == self.holder

    def admits(self, nexus: str, access: Access) -> bool:
        """SPC-5 table 66."""
        if self.holder is None or access is Access.FREE or self.holds(nexus):
            return True
        if self.type in REGISTRANTS_ONLY and nexus in self.keys:
            return True
        return access is Access.READ and self.type in _WRITE_EXCLUSIVE

    def release(self) -> None:
        self.holder, self.type = None, 0
