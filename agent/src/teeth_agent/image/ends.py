"""The first and the last MiB of a disk, held back until everything between them is proven.

The first has boot sector and partition table; from the last, with the backup table, firmware may restore the
first. While both are zero, nothing of what was there can boot or be recognised.
"""

from __future__ import annotations

import threading

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.errors import DeviceError

END = 1 << 20


class Ends:
    """``front``: where the first ends; ``back``: where the last begins, in bytes. Any thread may use it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.front = min(END, device.size)
        self.back = max(self.front, device.size - END)
        self._content = {0: aligned_buffer(self.front)}
        if self.back < device.size:
            self._content[self.back] = aligned_buffer(device.size - self.back)
        self._covered = dict.fromkeys(self._content, 0)
        self._lock = threading.Lock()

    def wipe(self) -> None:
        """Zero both, whatever the disk is said to hold: a boot sector that survives is worth 2 MiB."""
        for offset, content in self._content.items():
            self._device.zero_range(offset, len(content))
        self._device.flush()

    def hold(self, offset: int, length: int, view: memoryview | None) -> int:
        """Keep what of ``view`` (None: zeros) falls on the ends; how many bytes that is."""
        held = 0
        for start, content in self._content.items():
            low, high = max(offset, start), min(offset + length, start + len(content))
            if low < high:
                if view is not None:  # else it is zero already
                    content[low - start : high - start] = view[low - offset : high - offset]
                held += high - low
                with self._lock:
                    self._covered[start] += high - low
        return held

    @property
    def front_is_here(self) -> bool:
        """Whether all of the first MiB has come."""
        with self._lock:
            return self._covered[0] == self.front

    @property
    def head(self) -> memoryview:
        """The first MiB, zeros where nothing has come yet."""
        return self._content[0]

    def overlay(self, offset: int, view: memoryview) -> None:
        """Put what is held over what was read from the disk."""
        for start, content in self._content.items():
            low, high = max(offset, start), min(offset + len(view), start + len(content))
            if low < high:
                view[low - offset : high - offset] = content[low - start : high - start]

    def write(self) -> None:
        """Complete the disk, the front last of all, then read both back. Raises DeviceError."""
        # What nothing has come for is zero since ``wipe``.
        coming = [offset for offset in sorted(self._content, reverse=True) if self._covered[offset]]
        for offset in coming:
            self._device.write_from(offset, self._content[offset])
            self._device.flush()
        for offset in coming:
            content = self._content[offset]
            found = aligned_buffer(len(content))
            self._device.read_into(offset, found)
            if bytearray(content) != found:
                raise mismatch(self._device, offset, len(content))


def mismatch(device: Device, offset: int, length: int) -> DeviceError:
    return DeviceError(
        f"{device.path}: what reads back in the {length} bytes at byte {offset} is not what was written",
        code="verify_failed",
    )
