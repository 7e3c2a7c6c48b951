"""SCSI commands by SG_IO, version 3 of the interface (<scsi/sg.h>)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from teeth_agent.errors import DeviceError

_SG_IO = 0x2285
_TO_DEVICE, _FROM_DEVICE, _NONE = -2, -3, -1
_DRIVER_SENSE = 0x08  # not an error: there are sense data
_SENSE_MAX = 252  # what the additional length of sense data can say
_CDB_MAX = 32
# More than any command here moves; the kernel takes less in one piece on many adapters.
_DATA_MAX = 1 << 20
_MILLISECONDS_MAX = (1 << 31) - 1  # the kernel takes more for "never"
_GONE = frozenset({errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM, errno.ESHUTDOWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class ScsiReply:
    """How a command ended. ``status`` is SAM's; ``data`` is what the device gave, which may be less than was
    asked for, also with a check condition. ``transport``: 0 when the command arrived and was answered, else
    the kernel's host status << 8 | driver status, and nothing else here counts."""

    status: int
    sense: bytes
    data: bytes
    transport: int = 0


class ScsiPort(Protocol):
    """A way to one logical unit; SgPort is the real one. One command at a time for each caller."""

    def command(
        self, cdb: bytes, *, send: bytes = b"", receive: int = 0, timeout: float = 30.0
    ) -> ScsiReply: ...


class _Header(ctypes.Structure):
    """struct sg_io_hdr."""

    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


class SgPort:
    """An open device node. Made by ``open_scsi``."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def command(self, cdb: bytes, *, send: bytes = b"", receive: int = 0, timeout: float = 30.0) -> ScsiReply:
        """Send ``cdb`` with ``send``, or take up to ``receive`` bytes; ``timeout`` in seconds.

        Other threads run meanwhile. When time is up the kernel aborts the command, if need be by a reset: the
        reply's ``transport`` says so. Raises DeviceError(passthrough_failed | device_missing) when the
        kernel did not even send it.
        """
        assert 6 <= len(cdb) <= _CDB_MAX, cdb.hex()
        assert not (send and receive), "one direction at a time"
        assert len(send) <= _DATA_MAX, len(send)
        assert 0 <= receive <= _DATA_MAX, receive
        command = ctypes.create_string_buffer(cdb, len(cdb))
        sense = ctypes.create_string_buffer(_SENSE_MAX)
        data = ctypes.create_string_buffer(send, len(send)) if send else ctypes.create_string_buffer(receive)
        header = _Header(
            interface_id=ord("S"),
            dxfer_direction=_TO_DEVICE if send else _FROM_DEVICE if receive else _NONE,
            cmd_len=len(cdb),
            mx_sb_len=_SENSE_MAX,
            dxfer_len=len(data),
            dxferp=ctypes.addressof(data) if len(data) else None,
            cmdp=ctypes.addressof(command),
            sbp=ctypes.addressof(sense),
            timeout=min(_MILLISECONDS_MAX, max(1, int(timeout * 1000))),
        )
        try:
            # fcntl.ioctl gives up Python's lock while it waits, as long as the structure is small (it is).
            fcntl.ioctl(self._descriptor, _SG_IO, header)
        except OSError as error:
            raise _not_sent(self.path, error) from error
        received = max(0, receive - max(0, header.resid)) if receive else 0
        driver = header.driver_status & 0x0F & ~_DRIVER_SENSE
        return ScsiReply(
            status=header.status & 0x7E,
            sense=sense.raw[: min(header.sb_len_wr, _SENSE_MAX)],
            data=data.raw[:received],
            transport=header.host_status << 8 | driver,
        )


@contextmanager
def open_scsi(devnode: str) -> Iterator[SgPort]:
    """Open a disk's block device, or a generic SCSI device, for commands.

    Raises DeviceError(device_missing | open_failed).
    """
    try:
        # A block device is opened for reading: closing one that was open for writing lets udev probe it anew,
        # in the midst of an erase. The generic devices take commands only from who may write.
        generic = stat.S_ISCHR(os.stat(devnode).st_mode)  # noqa: PTH116 - a str in, errno wanted out
        flags = (os.O_RDWR if generic else os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(devnode, flags)
    except OSError as error:
        if error.errno in _GONE:
            raise DeviceError(f"{devnode} is not there: {error.strerror}", code="device_missing") from error
        raise DeviceError(f"{devnode} cannot be opened: {error.strerror}", code="open_failed") from error
    try:
        yield SgPort(devnode, descriptor)
    finally:
        os.close(descriptor)


def _not_sent(path: str, error: OSError) -> DeviceError:
    if error.errno in _GONE:
        return DeviceError(f"{path} is not there: {error.strerror}", code="device_missing")
    if error.errno in (errno.ENOTTY, errno.EINVAL):
        return DeviceError(f"{path} does not take SCSI commands", code="passthrough_failed")
    return DeviceError(f"{path}: a command could not be sent: {error.strerror}", code="passthrough_failed")
