"""Uncached reads and writes of block devices: what is read came from the device, not from memory."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from teeth_agent.errors import DeviceError
from teeth_agent.zoned import Zone, read_zones, reset_zones

# <linux/fs.h>. These numbers are the same on every architecture Debian boots on with 64 bits, but for
# BLKGETSIZE64, whose direction bits differ on powerpc and sparc, which we do not build for.
_BLKROGET = 0x125E
_BLKRRPART = 0x125F
_BLKSSZGET = 0x1268
_BLKGETSIZE64 = 0x80081272
_BLKZEROOUT = 0x127F

# The unit in which a regular file stands in for a device: what every file system's O_DIRECT accepts.
_FILE_BLOCK = 512
# One BLKZEROOUT must return often enough to be cancelled; 256 MiB is at most seconds on a slow disk.
_ZERO_STEP = 256 << 20
_ZERO_BUFFER = 1 << 20
# udev looks into each partition that appears, and holds it for as long: milliseconds, on a busy machine more.
_REREAD_PATIENCE = 10.0
_REREAD_PAUSE = 0.05


class Device(Protocol):
    """What erase and image code need of a block device; BlockDevice is the real one.

    Offsets and lengths are bytes and multiples of ``logical_block``. A device may be used from several
    threads at once, each with a buffer of its own.
    """

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def logical_block(self) -> int: ...
    def read_into(self, offset: int, buffer: memoryview) -> None: ...
    def write_from(self, offset: int, buffer: memoryview) -> None: ...
    def flush(self) -> None: ...
    def reread_partitions(self) -> None: ...
    def zero_range(self, offset: int, length: int) -> None: ...


@runtime_checkable
class ZonedDevice(Device, Protocol):
    """A device that may have zones to be written in order; ``zones_of`` asks any device."""

    def zones(self) -> tuple[Zone, ...]: ...
    def reset_zones(self, offset: int, length: int) -> None: ...


def zones_of(device: Device) -> tuple[Zone, ...]:
    """All of its zones, () for a device that takes writes anywhere. Raises DeviceError(zones_unreadable)."""
    return device.zones() if isinstance(device, ZonedDevice) else ()


def aligned_buffer(size: int) -> memoryview:
    """A writable, zeroed, page-aligned buffer of ``size`` bytes, as O_DIRECT asks for."""
    return memoryview(mmap.mmap(-1, size))


class BlockDevice:
    """An open block device, or a regular file in its place. Made by ``open_device``."""

    __slots__ = ("_descriptor", "_regular", "logical_block", "path", "size")

    def __init__(self, *, path: str, descriptor: int, size: int, logical_block: int, regular: bool) -> None:
        self.path = path
        self.size = size
        self.logical_block = logical_block
        self._descriptor = descriptor
        self._regular = regular

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from ``offset``. Raises DeviceError(read_failed) naming the offset."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise _failed("read", self.path, offset + done, error) from error
            if count == 0:
                raise DeviceError(f"{self.path} ends at byte {offset + done}", code="read_failed")
            done += count

    def write_from(self, offset: int, buffer: memoryview) -> None:
        """Write the whole buffer at ``offset``. Raises DeviceError(write_failed) naming the offset.

        What is written may still be in the device's own cache until ``flush``.
        """
        if offset + len(buffer) > self.size:
            raise DeviceError(
                f"{self.path} has {self.size} bytes: {len(buffer)} bytes at {offset} do not fit",
                code="write_failed",
            )
        done = 0
        while done < len(buffer):
            try:
                count = os.pwritev(self._descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise _failed("write", self.path, offset + done, error) from error
            if count == 0:
                raise DeviceError(f"{self.path} takes no bytes at {offset + done}", code="write_failed")
            done += count

    def flush(self) -> None:
        """Everything written is on the medium, not in a cache. Raises DeviceError(write_failed)."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise DeviceError(f"{self.path}: flush failed: {error.strerror}", code="write_failed") from error

    def reread_partitions(self) -> None:
        """Let the kernel read the partition table again; nothing to do for files and unpartitionable devices.

        Raises DeviceError(device_busy) while a partition is in use, and stays so for ten seconds.
        """
        if self._regular:
            return
        deadline = time.monotonic() + _REREAD_PATIENCE
        while True:
            try:
                fcntl.ioctl(self._descriptor, _BLKRRPART)
            except OSError as error:
                # EINVAL: this device (a partition, a loop device without -P) cannot have partitions.
                if error.errno in (errno.EINVAL, errno.ENOTTY):
                    return
                if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                    raise self._not_reread(error) from error
                time.sleep(_REREAD_PAUSE)
            else:
                return

    def _not_reread(self, error: OSError) -> DeviceError:
        code = "device_busy" if error.errno == errno.EBUSY else "device_failed"
        return DeviceError(
            f"{self.path}: the partition table cannot be read again: {error.strerror}", code=code
        )

    def zones(self) -> tuple[Zone, ...]:
        """As they are now; () when there are none. Raises DeviceError(zones_unreadable)."""
        return () if self._regular else read_zones(self._descriptor, self.path, self.size)

    def reset_zones(self, offset: int, length: int) -> None:
        """Empty the whole zones in this range. Raises DeviceError(write_failed)."""
        reset_zones(self._descriptor, self.path, offset, length)

    def zero_range(self, offset: int, length: int) -> None:
        """Zero a range by the fastest way the device has. Raises DeviceError(write_failed).

        The device is trusted to have done it: callers who need proof read back.
        """
        end = offset + length
        buffer = aligned_buffer(min(length, _ZERO_BUFFER)) if self._regular and length else None
        while offset < end:
            if buffer is not None:
                step = min(end - offset, len(buffer))
                self.write_from(offset, buffer[:step])
            else:
                step = min(end - offset, _ZERO_STEP)
                try:
                    fcntl.ioctl(self._descriptor, _BLKZEROOUT, struct.pack("QQ", offset, step))
                except OSError as error:
                    raise _failed("write", self.path, offset, error) from error
            offset += step


@contextmanager
def open_device(path: str, *, write: bool) -> Iterator[BlockDevice]:
    """Open a block device, or a regular file in its place, past the page cache.

    For writing, a block device is opened exclusively: DeviceError(device_busy) if it or one of its
    partitions is mounted or held. DeviceError(device_missing | read_only | open_failed) otherwise. A
    regular file on a file system without O_DIRECT is opened through the cache.
    """
    descriptor, regular = _open(path, write=write)
    try:
        size, logical_block = _geometry(descriptor, regular=regular)
        if write and not regular and _integer(descriptor, _BLKROGET):
            # The kernel lets a read-only device be opened for writing; only the write itself fails.
            raise DeviceError(f"{path} is write protected", code="read_only")
        yield BlockDevice(
            path=path, descriptor=descriptor, size=size, logical_block=logical_block, regular=regular
        )
    finally:
        os.close(descriptor)


def _open(path: str, *, write: bool) -> tuple[int, bool]:
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC
    try:
        status = os.stat(path)  # noqa: PTH116 - a str in, errno wanted out
        if stat.S_ISBLK(status.st_mode):
            return os.open(path, flags | os.O_DIRECT | (os.O_EXCL if write else 0)), False
        if not stat.S_ISREG(status.st_mode):
            raise DeviceError(f"{path} is neither a block device nor a file", code="open_failed")
        if status.st_size % _FILE_BLOCK:
            return os.open(path, flags), True
        try:
            return os.open(path, flags | os.O_DIRECT), True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return os.open(path, flags), True
    except OSError as error:
        raise _open_error(path, error) from error


def _geometry(descriptor: int, *, regular: bool) -> tuple[int, int]:
    if regular:
        return os.fstat(descriptor).st_size, _FILE_BLOCK
    size = struct.unpack("Q", fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8)))[0]
    return size, _integer(descriptor, _BLKSSZGET)


def _integer(descriptor: int, request: int) -> int:
    value: int = struct.unpack("i", fcntl.ioctl(descriptor, request, bytes(4)))[0]
    return value


def _failed(what: str, path: str, offset: int, error: OSError) -> DeviceError:
    return DeviceError(f"{path}: {what} at byte {offset} failed: {error.strerror}", code=f"{what}_failed")


def _open_error(path: str, error: OSError) -> DeviceError:
    if error.errno == errno.EBUSY:
        return DeviceError(f"{path} is in use: it or a partition is mounted or held", code="device_busy")
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM):
        return DeviceError(f"{path} is not there: {error.strerror}", code="device_missing")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return DeviceError(f"{path} cannot be written: {error.strerror}", code="read_only")
    return DeviceError(f"{path} cannot be opened: {error.strerror}", code="open_failed")
