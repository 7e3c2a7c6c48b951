"""SANITIZE DEVICE (ACS-4 4.15 and 7.36): the commands and the states around the operation."""

from __future__ import annotations

from enum import Enum

from teeth.lab.drives import purge
from teeth.lab.drives.disk import Disk
from teeth.lab.drives.model import Method, Sanitize
from teeth.lab.drives.taskfile import ABRT, AtaError, AtaReply, Taskfile

STATUS, CRYPTO, BLOCK, OVERWRITE, FREEZE, ANTIFREEZE = 0x00, 0x11, 0x12, 0x14, 0x20, 0x40
# What must stand in the LBA field, so that no stray command erases: ASCII of the makers' jest.
KEYS = {CRYPTO: 0x43727970, BLOCK: 0x426B4572, FREEZE: 0x46724C6B, ANTIFREEZE: 0x416E7469}
OVERWRITE_KEY = 0x4F57
_METHODS = {
    CRYPTO: Method.SANITIZE_CRYPTO,
    BLOCK: Method.SANITIZE_BLOCK,
    OVERWRITE: Method.SANITIZE_OVERWRITE,
}
# Reasons in the LBA field of a refused command (ACS-4 table 159).
_LAST_FAILED, _UNSUPPORTED, _FROZEN, _ANTIFROZEN = 1, 2, 3, 4


class SanState(Enum):
    """ACS-4 figure 8."""

    IDLE = "SD0"
    FROZEN = "SD1"
    RUNNING = "SD2"
    FAILED = "SD3"
    DONE = "SD4"
    ANTIFROZEN = "SD5"


class AtaSanitize:
    """Freeze locks are volatile; the operation and its outcome are kept by the disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.frozen = False
        self.antifrozen = False

    @property
    def state(self) -> SanState:
        match self._disk.state.sanitize.state:
            case "running":
                return SanState.RUNNING
            case "failed":
                return SanState.FAILED
        if self.frozen:
            return SanState.FROZEN
        if self.antifrozen:
            return SanState.ANTIFROZEN
        return SanState.DONE if self._disk.state.sanitize.state == "done" else SanState.IDLE

    @property
    def excludes(self) -> bool:
        """Whether most commands are refused."""
        return self.state in (SanState.RUNNING, SanState.FAILED)

    def reset(self) -> None:
        """Power-on or hardware reset."""
        self.frozen = False
        self.antifrozen = False

    def execute(self, task: Taskfile, *, locked: bool) -> AtaReply:
        features = task.features & 0xFF
        if not self._disk.spec.sanitizes:
            raise AtaError
        if features == STATUS:
            return self._status(task)
        if features not in (
            FREEZE,
            ANTIFREEZE,
            *(f for f, m in _METHODS.items() if m in self._disk.spec.sanitizes),
        ):
            raise AtaError(ABRT, lba=_UNSUPPORTED)
        if self.state is SanState.RUNNING or locked or not _keyed(features, task.lba):
            raise AtaError
        if features == FREEZE:
            if self.antifrozen:
                raise AtaError(ABRT, lba=_ANTIFROZEN)
            if self.state is SanState.FAILED:
                raise AtaError(ABRT, lba=_LAST_FAILED)
            self.frozen = True
            return self._report()
        if self.frozen:
            raise AtaError(ABRT, lba=_FROZEN)
        if features == ANTIFREEZE:
            if self.state is SanState.FAILED:
                raise AtaError(ABRT, lba=_LAST_FAILED)
            self.antifrozen = True
            return self._report()
        return self._begin(features, task)

    def _begin(self, features: int, task: Taskfile) -> AtaReply:
        last = self._disk.state.sanitize
        exits = bool(task.count & 0x10)
        # After a failed operation that did not allow it, no unrestricted one is taken.
        if last.state == "failed" and not last.exit_allowed and exits:
            raise AtaError(ABRT, lba=_LAST_FAILED)
        wanted = Sanitize(method=_METHODS[features].value, exit_allowed=exits)
        if features == OVERWRITE:
            wanted.passes = task.count & 0x0F or 16
            wanted.invert = bool(task.count & 0x80)
            wanted.pattern = (task.lba & 0xFFFFFFFF).to_bytes(4, "little").hex()
        purge.begin(self._disk, wanted)
        self.antifrozen = False
        return self._report()

    def _status(self, task: Taskfile) -> AtaReply:
        last = self._disk.state.sanitize
        if last.state == "failed":
            if not task.count & 0x01 or not last.exit_allowed:
                raise AtaError(ABRT, lba=_LAST_FAILED)
            # CLEAR SANITIZE OPERATION FAILED.
            self._disk.state.sanitize = Sanitize()
            self._disk.save()
        return self._report()

    def _report(self) -> AtaReply:
        """COUNT: done, running, frozen, antifrozen; LBA (15:0): progress, FFFFh when none."""
        state = self._disk.state.sanitize.state
        running = state == "running"
        count = 0x8000 if state == "done" else 0
        count |= 0x4000 if running else 0
        count |= 0x2000 if self.frozen else 0
        count |= 0x1000 if self.antifrozen else 0
        progress = min(65535, int(self._disk.said_fraction() * 65536)) if running else 0xFFFF
        return AtaReply(count=count, lba=progress)


def _keyed(features: int, lba: int) -> bool:
    if features == OVERWRITE:
        return lba >> 32 == OVERWRITE_KEY
    return lba == KEYS[features]
