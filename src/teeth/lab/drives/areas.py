"""Hidden ends of a drive: HPA, accessible max address, configuration overlay (ACS-2 4.7, 7.8, 7.12)."""

from __future__ import annotations

from teeth.lab.drives.disk import Disk
from teeth.lab.drives.taskfile import IDNF, AtaError, AtaReply, Taskfile

_28BIT = (1 << 28) - 1


class Areas:
    """What moves the last address: ``native`` is what DCO leaves, ``disk.accessible`` what HPA leaves."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.read_native_before = False
        self._changed = False
        self._max_frozen = False
        self._dco_frozen = False

    def power_on(self) -> None:
        self.read_native_before = False
        self._changed = self._max_frozen = self._dco_frozen = False

    @property
    def native(self) -> int:
        return self._disk.state.configured

    # --- host protected area

    def read_native(self, task: Taskfile) -> AtaReply:
        last = self.native - 1
        self.read_native_before = True
        return AtaReply(lba=last if task.command == 0x27 else min(last, _28BIT - 1))

    def set_max(self, task: Taskfile, *, after_native: bool) -> AtaReply:
        """SET MAX ADDRESS: right after READ NATIVE MAX ADDRESS, for good at most once a power cycle."""
        if task.command == 0xF9 and task.features == 0x04:
            self._max_frozen = True
            return AtaReply()
        if task.command == 0xF9 and task.features in (1, 2, 3):  # passwords of their own: not had
            raise AtaError
        if not after_native or self._max_frozen:
            raise AtaError
        last = task.lba if task.command == 0x37 else task.lba & _28BIT
        keeps = bool(task.count & 0x01)
        if last >= self.native:
            raise AtaError(IDNF)
        if keeps and self._changed:
            raise AtaError(IDNF)
        self._changed |= keeps
        self._disk.set_accessible(last + 1, volatile=not keeps)
        return AtaReply(lba=last)

    # --- accessible max address

    def accessible_max(self, task: Taskfile) -> AtaReply:
        match task.features:
            case 0x0000:
                return AtaReply(lba=self.native - 1)
            case 0x0001:
                if self._max_frozen:
                    raise AtaError
                if task.lba >= self.native or self._changed:
                    raise AtaError(IDNF if task.lba >= self.native else 0x04)
                self._changed = True
                self._disk.set_accessible(task.lba + 1, volatile=False)
                return AtaReply(lba=task.lba)
            case 0x0002:
                self._max_frozen = True
                return AtaReply()
            case _:
                raise AtaError

    # --- device configuration overlay

    def overlay(self, task: Taskfile, data: bytes) -> AtaReply:
        if self._dco_frozen:
            raise AtaError
        match task.features & 0xFF:
            case 0xC0:
                self._restore()
                return AtaReply()
            case 0xC1:
                self._dco_frozen = True
                return AtaReply()
            case 0xC2:
                return AtaReply(data=self._overlay_data())
            case 0xC3:
                self._set(data)
                return AtaReply()
            case _:
                raise AtaError

    def _restore(self) -> None:
        state = self._disk.state
        # A host protected area must be gone first (ACS-2 7.8.2).
        if self._disk.accessible < state.configured or state.configured == self._disk.spec.blocks:
            raise AtaError
        state.configured = self._disk.spec.blocks
        self._disk.set_accessible(state.configured, volatile=False)

    def _set(self, data: bytes) -> None:
        last = int.from_bytes(data[6:14], "little")
        state = self._disk.state
        if sum(data) & 0xFF or last >= self._disk.spec.blocks or self._disk.accessible < state.configured:
            raise AtaError
        state.configured = last + 1
        self._disk.set_accessible(last + 1, volatile=False)

    def _overlay_data(self) -> bytes:
        """Revision 2; DMA modes; the greatest address there can be; SMART, security, HPA, 48 bits."""
        data = bytearray(512)
        data[0:6] = bytes((2, 0, 7, 0, 0x7F, 0))
        data[6:14] = (self._disk.spec.blocks - 1).to_bytes(8, "little")
        data[14:16] = (0x0001 | 0x0008 | 0x0080 | 0x0100).to_bytes(2, "little")
        data[510] = 0xA5
        data[511] = -sum(data) & 0xFF
        return bytes(data)
