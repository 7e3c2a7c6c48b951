"""Taking a device-mapper device away by the kernel's own interface (<linux/dm-ioctl.h>)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from teeth_agent.errors import DeviceError

_CONTROL = "/dev/mapper/control"
# _IOWR(0xfd, 4, struct dm_ioctl)
_DEV_REMOVE = 0xC138FD04
_VERSION = (4, 0, 0)
# version[3], data_size, data_start, target_count, open_count, flags, event_nr, padding, dev, name, uuid, data
_HEADER = struct.Struct("=3I I I I i I I I Q 128s 129s 7x")


def remove(name: str, *, control: str = _CONTROL) -> None:
    """Remove the device of this name (as in /sys/block/dm-N/dm/name).

    Raises DeviceError: ``device_busy`` while it is open or something is built upon it, ``device_missing``
    when there is none, else ``teardown_failed``.
    """
    encoded = name.encode()
    if not 0 < len(encoded) < 128:
        raise DeviceError(f"{name!r} is no device-mapper name", code="teardown_failed")
    request = bytearray(_HEADER.pack(*_VERSION, _HEADER.size, _HEADER.size, 0, 0, 0, 0, 0, 0, encoded, b""))
    try:
        descriptor = os.open(control, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _DEV_REMOVE, request, True)
        finally:
            os.close(descriptor)
    except OSError as error:
        code = {errno.EBUSY: "device_busy", errno.ENXIO: "device_missing"}.get(
            error.errno or 0, "teardown_failed"
        )
        raise DeviceError(f"{name} cannot be taken apart: {error.strerror}", code=code) from error
