"""NVMe admin commands through the kernel's ioctl, and the status that the controller gave them.

NVM Express Base Specification 2.0; the kernel's side is <linux/nvme_ioctl.h>.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from teeth_agent.errors import DeviceError

FORMAT_NVM = 0x80

# _IOWR('N', 0x47, struct nvme_passthru_cmd64) and _IOWR('N', 0x41, struct nvme_passthru_cmd): the same
# numbers on every architecture that we build for.
_ADMIN64 = 0xC0504E47
_ADMIN = 0xC0484E41
# opcode, flags, reserved, nsid, cdw2, cdw3, metadata, address, their lengths, cdw10 to cdw15, timeout in
# milliseconds; then the result, of 64 bits behind padding or of 32.
_HEAD = struct.Struct("=BBHIIIQQII6II")
_RESULT64 = struct.Struct("=IQ")
_RESULT32 = struct.Struct("=I")

# Status Code Type and Status Code of the Status Field (figure 92), as the kernel returns it: without the
# phase bit. What lies above (retry delay, More, Do Not Retry) is advice to a driver.
_STATUS = 0x7FF
_TRANSFER_MAX = 1 << 20
_TIMEOUT_MAX = 0xFFFFFFFF
_SES_SHIFT, _SES_MASK = 9, 0x7


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmeReply:
    """How a command ended. ``status``: 0 is good, else SCT << 8 | SC; More, DNR and CRD are left out.

    ``result`` is dword 0 of the completion (with dword 1 above it where the kernel gives it), ``data`` what
    was received: as many bytes as were asked for.
    """

    status: int
    result: int
    data: bytes

    @property
    def good(self) -> bool:
        return self.status == 0


class NvmePort(Protocol):
    """A way to a controller's admin queue."""

    def admin(
        self,
        opcode: int,
        *,
        nsid: int = 0,
        cdw10: int = 0,
        cdw11: int = 0,
        cdw12: int = 0,
        cdw13: int = 0,
        cdw14: int = 0,
        cdw15: int = 0,
        send: bytes = b"",
        receive: int = 0,
        timeout: float = 60.0,
    ) -> NvmeReply:
        """Carry out one admin command, with data sent or received but not both; ``timeout`` in seconds.

        When the time is over the kernel resets the controller, which may cut short whatever it does: give
        more than the command can need. Raises DeviceError(passthrough_failed) when no status came back.
        """
        ...


class Ioctl(Protocol):
    """fcntl.ioctl as it is used here: the buffer is changed in place, the return value is the kernel's."""

    def __call__(self, fd: int, request: int, arg: bytearray, mutate_flag: bool, /) -> int: ...


class NvmeDevice:
    """An open controller device, /dev/nvmeN. Made by ``open_nvme``; may be used from several threads."""

    __slots__ = ("_descriptor", "_ioctl", "_path")

    def __init__(self, *, path: str, descriptor: int, ioctl: Ioctl = fcntl.ioctl) -> None:
        self._path = path
        self._descriptor = descriptor
        self._ioctl = ioctl

    def admin(
        self,
        opcode: int,
        *,
        nsid: int = 0,
        cdw10: int = 0,
        cdw11: int = 0,
        cdw12: int = 0,
        cdw13: int = 0,
        cdw14: int = 0,
        cdw15: int = 0,
        send: bytes = b"",
        receive: int = 0,
        timeout: float = 60.0,
    ) -> NvmeReply:
        """See NvmePort. ValueError for a Format without secure erase: nothing here may ask for one."""
        refuse_plain_format(opcode, cdw10)
        if send and receive:
            raise ValueError("data goes one way")
        size = max(len(send), receive)
        if size > _TRANSFER_MAX:
            raise ValueError(f"{size} bytes are more than one command carries")
        milliseconds = min(max(int(timeout * 1000), 1), _TIMEOUT_MAX)
        # Anonymous memory begins at a page's begin, as a controller's PRP lists like it.
        with mmap.mmap(-1, max(size, 1)) as memory:
            memory[: len(send)] = send
            view = ctypes.c_char.from_buffer(memory)
            address = ctypes.addressof(view) if size else 0
            dwords = (cdw10, cdw11, cdw12, cdw13, cdw14, cdw15)
            head = _HEAD.pack(opcode, 0, 0, nsid, 0, 0, 0, address, 0, size, *dwords, milliseconds)
            try:
                status, result = self._submit(head, opcode)
            finally:
                del view
            return NvmeReply(status=status & _STATUS, result=result, data=bytes(memory[:receive]))

    def _submit(self, head: bytes, opcode: int) -> tuple[int, int]:
        try:
            return self._call(_ADMIN64, head, _RESULT64)
        except OSError as error:
            # Kernels before 5.5. Nothing was sent: an unknown request never reaches the controller.
            if error.errno != errno.ENOTTY:
                raise self._failed(opcode, error) from error
        try:
            return self._call(_ADMIN, head, _RESULT32)
        except OSError as error:
            raise self._failed(opcode, error) from error

    def _call(self, request: int, head: bytes, tail: struct.Struct) -> tuple[int, int]:
        buffer = bytearray(head + bytes(tail.size))
        status = self._ioctl(self._descriptor, request, buffer, True)
        result: int = tail.unpack_from(buffer, len(head))[-1]
        return status, result

    def _failed(self, opcode: int, error: OSError) -> DeviceError:
        why = error.strerror or str(error)
        if error.errno == errno.EINTR:
            why = "the kernel gave it up: out of time, reset or unplugged"
        return DeviceError(f"{self._path}: admin command {opcode:02x}h: {why}", code="passthrough_failed")


def refuse_plain_format(opcode: int, cdw10: int) -> None:
    """ValueError for Format NVM with SES 0, which erases nothing that anybody could rely on (5.14)."""
    if opcode == FORMAT_NVM and not cdw10 >> _SES_SHIFT & _SES_MASK:
        raise ValueError("a format with ses=0 does not erase")


@contextmanager
def open_nvme(devnode: str) -> Iterator[NvmePort]:
    """Open a controller's device, /dev/nvmeN. Raises DeviceError(device_missing | open_failed)."""
    try:
        descriptor = os.open(devnode, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV)
        code = "device_missing" if missing else "open_failed"
        raise DeviceError(f"{devnode} cannot be opened: {error.strerror}", code=code) from error
    try:
        yield NvmeDevice(path=devnode, descriptor=descriptor)
    finally:
        os.close(descriptor)
