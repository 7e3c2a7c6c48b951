"""NVMe commands at the ioctl: what the kernel is given, and what is made of its answers."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from teeth_agent.errors import DeviceError
from teeth_agent.passthrough.nvme import NvmeDevice, open_nvme

ADMIN64, ADMIN = 0xC0504E47, 0xC0484E41


@dataclass
class Kernel:
    """Stands for ioctl(2) on an NVMe controller: reads the kernel's structure, and the data at its address.

    ``answer`` is given the command's fields and gives the ioctl's return value.
    """

    answer: Callable[[dict[str, int]], int] = lambda command: 0
    requests: tuple[int, ...] = (ADMIN64, ADMIN)
    gives: bytes = b""
    result: int = 0
    seen: list[dict[str, int]] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)

    def __call__(self, fd: int, request: int, arg: bytearray, mutate_flag: bool, /) -> int:
        assert mutate_flag
        if request not in self.requests:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        assert len(arg) == request >> 16 & 0x3FFF
        names = ("opcode", "flags", "nsid", "cdw2", "cdw3", "metadata", "addr", "metadata_len", "data_len",
                 "cdw10", "cdw11", "cdw12", "cdw13", "cdw14", "cdw15", "timeout_ms")  # fmt: skip
        command = dict(zip(names, struct.unpack_from("=BBxxIIIQQII6II", arg), strict=True))
        self.seen.append(command)
        if command["data_len"]:
            self.sent.append(ctypes.string_at(command["addr"], command["data_len"]))
            ctypes.memmove(command["addr"], self.gives, min(len(self.gives), command["data_len"]))
        struct.pack_into(
            "=Q" if request == ADMIN64 else "=I", arg, 72 if request == ADMIN64 else 68, self.result
        )
        return self.answer(command)


def device(kernel: Kernel) -> NvmeDevice:
    return NvmeDevice(path="/dev/nvme0", descriptor=-1, ioctl=kernel)


def test_a_command_that_reads() -> None:
    kernel = Kernel(gives=b"identity", result=7)
    reply = device(kernel).admin(
        0x06, nsid=3, cdw10=1, cdw11=2, cdw12=3, cdw13=4, cdw14=5, cdw15=6, receive=4096
    )
    assert reply.good
    assert reply.result == 7
    assert reply.data == b"identity".ljust(4096, b"\0")
    (seen,) = kernel.seen
    address = seen.pop("addr")
    assert address
    assert address % 4096 == 0
    assert seen == {
        "opcode": 6, "flags": 0, "nsid": 3, "cdw2": 0, "cdw3": 0, "metadata": 0, "metadata_len": 0,
        "data_len": 4096, "cdw10": 1, "cdw11": 2, "cdw12": 3, "cdw13": 4, "cdw14": 5, "cdw15": 6,
        "timeout_ms": 60000,
    }  # fmt: skip


def test_a_command_that_sends() -> None:
    kernel = Kernel()
    assert device(kernel).admin(0x15, nsid=2, send=b"\1\0\7\0", timeout=7.5).data == b""
    assert kernel.sent == [b"\1\0\7\0"]
    assert kernel.seen[0]["timeout_ms"] == 7500


def test_a_command_without_data_has_no_address() -> None:
    kernel = Kernel()
    device(kernel).admin(0x84, cdw10=2)
    assert (kernel.seen[0]["addr"], kernel.seen[0]["data_len"]) == (0, 0)


@pytest.mark.parametrize(
    ("returned", "status"),
    [
        (0x0000, 0x000),
        (0x0002, 0x002),  # Invalid Field
        (0x4002, 0x002),  # the same with Do Not Retry
        (0x610A, 0x10A),  # Invalid Format with More and Do Not Retry
        (0x1820, 0x020),  # a retry delay is no status
        (0x7FFF, 0x7FF),
    ],
)
def test_the_status_is_what_the_kernel_returns_without_its_advice(returned: int, status: int) -> None:
    reply = device(Kernel(answer=lambda command: returned)).admin(0x06)
    assert reply.status == status
    assert reply.good == (status == 0)


def test_an_old_kernel_is_asked_by_the_older_request() -> None:
    kernel = Kernel(requests=(ADMIN,), result=0xFFFFFFFF, answer=lambda command: 0x4001)
    reply = device(kernel).admin(0x06, receive=16)
    assert (reply.status, reply.result) == (0x001, 0xFFFFFFFF)
    assert len(kernel.seen) == 1


@pytest.mark.parametrize("number", [errno.EINTR, errno.EINVAL, errno.ENODEV, errno.EACCES])
def test_a_command_that_came_to_nothing_is_not_sent_again(number: int) -> None:
    def fail(command: dict[str, int]) -> int:
        raise OSError(number, os.strerror(number))

    kernel = Kernel(answer=fail)
    with pytest.raises(DeviceError, match="/dev/nvme0: admin command 80h") as caught:
        device(kernel).admin(0x80, nsid=1, cdw10=1 << 9)
    assert caught.value.code == "passthrough_failed"
    assert len(kernel.seen) == 1


@pytest.mark.parametrize("cdw10", [0, 0xF, 0x1FF, 0xFFFFF000])
def test_a_format_that_does_not_erase_never_reaches_the_kernel(cdw10: int) -> None:
    kernel = Kernel()
    with pytest.raises(ValueError, match="ses=0"):
        device(kernel).admin(0x80, nsid=1, cdw10=cdw10)
    assert kernel.seen == []


@pytest.mark.parametrize("parts", [{"send": b"x", "receive": 1}, {"receive": 1 << 24}])
def test_impossible_transfers_are_refused(parts: dict[str, Any]) -> None:
    kernel = Kernel()
    with pytest.raises(ValueError, match=r"one way|more than"):
        device(kernel).admin(0x06, **parts)
    assert kernel.seen == []


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught, open_nvme(str(tmp_path / "nvme9")):
        pass
    assert caught.value.code == "device_missing"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DeviceError) as caught, open_nvme(str(tmp_path / "loop")):
        pass
    assert caught.value.code == "open_failed"


def test_a_file_is_no_controller(tmp_path: Path) -> None:
    (tmp_path / "nvme0").touch()
    with open_nvme(str(tmp_path / "nvme0")) as port, pytest.raises(DeviceError) as caught:
        port.admin(0x06, cdw10=1, receive=4096)
    assert caught.value.code == "passthrough_failed"
