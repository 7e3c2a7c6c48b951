"""What stands between the agent and a simulated NVMe drive: its driver, with timeouts and a log."""

from __future__ import annotations

import errno
import math
import os
from dataclasses import dataclass, field

from fakes.disks import nvme_medium
from fakes.simulated_kernel import Attached, Sent
from teeth.lab.drives.nvme import NvmeController
from teeth.lab.drives.nvme.core import Host as Association
from teeth.lab.drives.submission import Code, NvmeAnswer, NvmeCommand, NvmeReply, NvmeWait
from teeth_agent.erase.model import Medium
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough import nvme as passthrough

_BLOCK_SECONDS = 30.0  # nvme_core.io_timeout
_ADMIN_SECONDS = 60.0
_RETRIES = 5  # nvme_core.max_retries
_MOST = 1 << 20
_IDENTIFY, _ATTACHMENT, _MANAGEMENT, _FORMAT = 0x06, 0x15, 0x0D, 0x80
_CHANGES_NAMESPACES = frozenset({_ATTACHMENT, _MANAGEMENT, _FORMAT})
_GONE = frozenset({int(Code.ABORT_REQUESTED), int(Code.INTERRUPTED)})


@dataclass(slots=True, kw_only=True, eq=False)
class NvmeHost(Attached):
    """A controller, called ``name`` ("nvme0"). ``media`` are its namespaces as block devices, by name."""

    drive: NvmeController
    number: int
    media: dict[str, Medium] = field(default_factory=dict)
    association: Association = field(default_factory=lambda: Association(name="host"))

    def run(self, command: NvmeCommand, timeout: float) -> NvmeReply | None:
        """One command to its end; None when time was up: the controller was reset."""
        with self.clock.lock:
            self.begin()
            drive = self.drive
            if self.association not in drive.hosts:
                drive.hosts.append(self.association)
            life = drive.disk.state.power_cycles
            answer: NvmeAnswer = drive.execute(command, self.association)
            deadline = self.clock.now + timeout
            while isinstance(answer, NvmeWait):
                if drive.disk.state.power_cycles != life or self.clock.now >= deadline:
                    self._reset()
                    return None
                self.wait(min(answer.until, deadline))
                answer = answer.finish() if self.clock.now >= answer.until else answer
            return answer

    def _reset(self) -> None:
        self.talk.say(f"nvme {self.name}: I/O tag 1 (1001) opcode 0x2 timeout, reset controller")
        self.drive.reset()
        answer = self.drive.execute(NvmeCommand(opcode=_IDENTIFY, cdw10=1, expected=4096), self.association)
        if isinstance(answer, NvmeWait):
            if answer.until <= self.clock.now + _ADMIN_SECONDS:
                self.clock.spend(max(0.0, answer.until - self.clock.now))
                return
            self.clock.spend(_ADMIN_SECONDS)
            self.offline = True
            self.media.clear()
            self.talk.say(f"nvme {self.name}: Removing after probe failure status: -19")

    # --- the driver

    def scan(self) -> None:
        """Identify the controller and its active namespaces: a block device for each."""
        controller = self._identify(1)
        if not controller:
            return
        self.media = {}
        for nsid in _numbers(self._identify(2)):
            data = self._identify(0, nsid)
            if not data:
                continue
            shift = data[128 + 4 * (data[26] & 0x0F) + 2]
            size = int.from_bytes(data[:8], "little") << shift
            medium = nvme_medium(
                self.name,
                nsid,
                sysfs_path=f"/devices/pci0000:00/0000:00:{self.number:02x}.0/nvme/{self.name}/{self.name}n{nsid}",
                serial=_text(controller, 4, 20),
                model=_text(controller, 24, 40),
                firmware=_text(controller, 64, 8),
                vendor=None,
                wwn=f"eui.{data[104:120].hex()}" if any(data[104:120]) else None,
                size=size,
                logical_block=1 << shift,
                diskseq=100 + 10 * self.number + nsid,
            )
            self.media[medium.name] = medium

    def _identify(self, cns: int, nsid: int = 0) -> bytes:
        reply = self.run(NvmeCommand(opcode=_IDENTIFY, nsid=nsid, cdw10=cns, expected=4096), _ADMIN_SECONDS)
        return reply.data.ljust(4096, b"\0") if reply is not None and reply.good else b""

    def block(self, name: str, what: str, command: NvmeCommand, lba: int) -> bytes:
        """A read, write or flush with the driver's retries. Raises OSError."""
        life = self.life
        for _ in range(_RETRIES + 1):
            life.check()
            if self.offline or name not in self.media:
                break
            self.note_clash(command.data)
            reply = self.run(command, _BLOCK_SECONDS)
            if reply is None or reply.status in _GONE:
                continue
            if reply.good:
                return reply.data
            number = _ERRORS.get(reply.status, errno.EIO)
            kind = {errno.EREMOTEIO: "critical target error", errno.ENODATA: "critical medium error"}
            sct, code = reply.status >> 8, reply.status & 0xFF
            self.talk.say(f"{name}: I/O Cmd({what}) @ LBA {lba}, I/O Error (sct {sct:#x} / sc {code:#x})")
            self.talk.say(f"{kind.get(number, 'I/O error')}, dev {name}, sector {lba} op {what}")
            raise OSError(number, os.strerror(number))
        self.talk.say(f"I/O error, dev {name}, sector {lba} op {what}")
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def _numbers(data: bytes) -> list[int]:
    found = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
    return [nsid for nsid in found if nsid]


def _text(data: bytes, at: int, size: int) -> str:
    return data[at : at + size].decode("ascii", "replace").strip()


_ERRORS: dict[int, int] = {
    Code.INVALID_FIELD: errno.EREMOTEIO,
    Code.LBA_OUT_OF_RANGE: errno.EREMOTEIO,
    Code.INVALID_NAMESPACE: errno.EREMOTEIO,
    Code.UNRECOVERED_READ: errno.ENODATA,
    Code.WRITE_FAULT: errno.ENODATA,
}


class NvmeCarrier:
    """A namespace's reads, writes and flushes."""

    most = _MOST

    def __init__(self, host: NvmeHost, medium: Medium) -> None:
        assert medium.namespace is not None
        self._host, self._name, self._nsid = host, medium.name, medium.namespace
        self._size = medium.logical_block

    def read(self, lba: int, length: int) -> bytes:
        return self._host.block(self._name, "0x2", self._command(0x02, lba, length // self._size), lba)

    def write(self, lba: int, data: bytes) -> None:
        command = self._command(0x01, lba, len(data) // self._size, data)
        self._host.block(self._name, "0x1", command, lba)

    def flush(self) -> None:
        self._host.block(self._name, "0x0", NvmeCommand(opcode=0x00, nsid=self._nsid, io=True), 0)

    def zero(self, lba: int, count: int) -> None:
        while count:
            part = min(count, 0x10000)
            self._host.block(self._name, "0x8", self._command(0x08, lba, part), lba)
            lba, count = lba + part, count - part

    def _command(self, opcode: int, lba: int, count: int, data: bytes = b"") -> NvmeCommand:
        return NvmeCommand(
            opcode=opcode, nsid=self._nsid, cdw10=lba & 0xFFFFFFFF, cdw11=lba >> 32, cdw12=count - 1,
            data=data, io=True, expected=count * self._size,
        )  # fmt: skip


class SimulatedNvmePort:
    """A teeth_agent.passthrough.nvme.NvmePort."""

    def __init__(self, host: NvmeHost) -> None:
        self._host, self._life = host, host.life

    def admin(
        self, opcode: int, *, nsid: int = 0, cdw10: int = 0, cdw11: int = 0, cdw12: int = 0, cdw13: int = 0,
        cdw14: int = 0, cdw15: int = 0, send: bytes = b"", receive: int = 0, timeout: float = 60.0,
    ) -> passthrough.NvmeReply:  # fmt: skip
        self._life.check()
        host = self._host
        words = (opcode, nsid, cdw10, cdw11, cdw12, cdw13, cdw14, cdw15)
        with host.clock.lock:
            host.sent.append(Sent(device=host.name, nvme=words, data=send))
            passthrough.refuse_plain_format(opcode, cdw10)
            if host.offline:
                raise DeviceError(f"/dev/{host.name} is not there: No such device", code="device_missing")
            command = NvmeCommand(
                opcode=opcode, nsid=nsid, cdw10=cdw10, cdw11=cdw11, cdw12=cdw12, cdw13=cdw13, cdw14=cdw14,
                cdw15=cdw15, data=send, expected=receive,
            )  # fmt: skip
            reply = host.run(command, min(timeout, math.inf))
            if reply is None:
                raise DeviceError(
                    f"/dev/{host.name}: admin command {opcode:02x}h: the kernel gave it up",
                    code="passthrough_failed",
                )
            if reply.good and opcode in _CHANGES_NAMESPACES:
                host.scan()
            data = reply.data[:receive].ljust(receive, b"\0")
            return passthrough.NvmeReply(status=reply.status, result=reply.result, data=data)
