"""What an image reader hands to the disk writer: pieces of the raw image, in buffers that are lent.

A reader (raw, zstd frames, qcow2) yields pieces, the writer takes them. They never overlap, may come in any
order, and together cover the raw image exactly. Offsets and lengths are raw (guest) bytes and multiples of
``ALIGN``, but for the end of the image, which the writer pads with zeros to a logical block.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from teeth_agent.blockio import Device, aligned_buffer
from teeth_agent.errors import Cancelled, DeviceError

# The most of data in one piece: a chunk of a manifest.
PIECE = 4 << 20
# The largest logical block of a disk.
ALIGN = 4096
# What one buffer of the pool has room for: a piece, also as a zstd frame that could not be compressed.
ROOM = PIECE + (64 << 10)
# All that is lent at once. Each buffer costs memory only from its first use on.
BUFFERS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """``length`` bytes of the image at ``offset``; ``data`` None for zeros, then of any length.

    ``data`` has ``length`` bytes at the start of a buffer from the pool, whatever else the buffer holds, and
    goes over to the writer, which gives it back.
    """

    offset: int
    length: int
    data: memoryview | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A piece that the writer's thread unpacks itself, so that several are unpacked at once.

    ``unpack(buffer)`` fills the whole buffer, which has ``length`` bytes, at most PIECE; it raises
    AgentError for data that do not give exactly that. ``packed`` is a buffer from the pool that ``unpack``
    reads from, or None; the writer gives it back after the call.
    """

    offset: int
    length: int
    unpack: Callable[[memoryview], None]
    packed: memoryview | None = None


Pieces = Iterator[Piece | Packed]


class BufferPool:
    """Page-aligned buffers of ROOM bytes, at most ``count`` of them at once. Any thread may use it."""

    def __init__(self, count: int = BUFFERS) -> None:
        self._left = count
        self._free: list[memoryview] = []
        self._lent: dict[int, memoryview] = {}
        self._stopped = False
        self._changed = threading.Condition()

    def take(self) -> memoryview:
        """A buffer with whatever it held before; waits for one. Raises Cancelled once stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._free or self._left)
            if self._stopped:
                raise Cancelled("the writing was stopped")
            if self._free:
                buffer = self._free.pop()
            else:
                self._left -= 1
                buffer = aligned_buffer(ROOM)
            self._lent[id(buffer.obj)] = buffer
            return buffer

    def give_back(self, view: memoryview) -> None:
        """``view``: a buffer that was taken, or any part of it."""
        assert isinstance(view.obj, mmap.mmap)
        with self._changed:
            self._free.append(self._lent.pop(id(view.obj)))
            self._changed.notify()

    def stop(self) -> None:
        """Whoever waits for a buffer, or asks for one from now on, gets Cancelled."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class Window:
    """A part of a device that is a Device itself, as a partition is; ``offset`` and ``length`` in bytes.

    Nothing outside of it can be reached: DeviceError(write_failed | read_failed).
    """

    __slots__ = ("_device", "_offset", "logical_block", "path", "size")

    def __init__(self, device: Device, offset: int, length: int) -> None:
        if offset % device.logical_block or length % device.logical_block:
            raise ValueError("a window begins and ends with a logical block")
        if not 0 <= offset <= offset + length <= device.size:
            raise ValueError("a window lies inside of its device")
        self._device = device
        self._offset = offset
        self.path = device.path
        self.size = length
        self.logical_block = device.logical_block

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer), "read")
        self._device.read_into(self._offset + offset, buffer)

    def write_from(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer), "write")
        self._device.write_from(self._offset + offset, buffer)

    def zero_range(self, offset: int, length: int) -> None:
        self._check(offset, length, "write")
        self._device.zero_range(self._offset + offset, length)

    def flush(self) -> None:
        self._device.flush()

    def reread_partitions(self) -> None:
        self._device.reread_partitions()

    def _check(self, offset: int, length: int, what: str) -> None:
        if not 0 <= offset <= offset + length <= self.size:
            raise DeviceError(
                f"{self.path}: {length} bytes at {offset} are not in the {self.size} bytes from byte "
                f"{self._offset} on",
                code=f"{what}_failed",
            )
