"""What stands between the agent and simulated drives: commands with timeouts, error handling, a log."""

from __future__ import annotations

import errno
import math
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fakes.virtual_time import PowerCutError, VirtualClock
from teeth.lab.drives.answer import Answer, Command, Reply, Wait
from teeth.lab.drives.nvme import NvmeController
from teeth.lab.drives.sense import NOT_PRESENT, Key, Status
from teeth.lab.drives.unit import Unit
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough.scsi import ScsiReply

_BLOCK_SECONDS = 30.0  # sd's timeout for reads and writes
_RETRIES = 5
_RECOVERY_SECONDS = 10.0
_COMMAND_SECONDS = 50e-6
_TIMED_OUT = 0x03 << 8  # DID_TIME_OUT
_BAD_TARGET = 0x01 << 8  # DID_NO_CONNECT
_MAX_PIECE = 4 << 20  # of one read or write


class KernelTalk:
    """/dev/kmsg as records of "priority,sequence,microseconds,flags;text"."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._records: deque[bytes] = deque()
        self.said: list[str] = []
        self._sequence = 0

    def say(self, text: str, level: int = 3) -> None:
        self._sequence += 1
        self.said.append(text)
        stamp = int(self._clock.now * 1e6)
        self._records.append(f"{level},{self._sequence},{stamp},-;{text}\n".encode())

    def read(self) -> bytes:
        """What reading a descriptor of it gives; EAGAIN when there is nothing new."""
        try:
            return self._records.popleft()
        except IndexError:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None


@dataclass(slots=True)
class Life:
    """One boot of the machine. ``ops`` counts what was asked of drives; at ``cut_at`` power goes, and at
    ``event_at`` something happens once."""

    number: int
    alive: bool = True
    ops: int = 0
    cut_at: float = math.inf
    event_at: float = math.inf
    event: Callable[[], None] = lambda: None

    def check(self) -> None:
        if not self.alive:
            raise PowerCutError


@dataclass(slots=True, kw_only=True)
class Sent:
    """A command that went through by itself, not from the kernel's own reads and writes: a CDB, or for NVMe
    opcode, nsid and dwords 10 to 15."""

    device: str
    cdb: bytes = b""
    nvme: tuple[int, ...] = ()
    data: bytes = b""
    usb: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Attached:
    """What every kind of drive has to do with the kernel. ``drive`` is what it is, called ``name``."""

    name: str
    drive: Unit | NvmeController
    clock: VirtualClock
    talk: KernelTalk
    life: Life
    cut: Callable[[], None]
    sent: list[Sent]
    # Writes of the kernel's while the drive erased by itself.
    clashes: list[str]
    usb: bool = False
    offline: bool = False

    def begin(self) -> None:
        """The next command: time passes, and here the power may go. The lock is held."""
        life = self.life
        life.check()
        self.clock.spend(_COMMAND_SECONDS)
        life.check()
        life.ops += 1
        if life.ops >= life.cut_at:
            self.cut()
            raise PowerCutError
        if life.ops >= life.event_at:
            life.event_at = math.inf
            life.event()

    def note_clash(self, data: bytes) -> None:
        """A write of ours while the drive is erasing itself, and does not hide that it is."""
        disk = self.drive.disk
        job = disk.job
        if not data or job is None or any(behaviour.admits(disk) for behaviour in disk.behaviours):
            return
        if job.until > self.clock.now:
            self.clashes.append(self.name)

    def wait(self, until: float) -> None:
        """Until then, or until this life is over."""
        life = self.life
        self.clock.wait(until, lambda: not life.alive)
        life.check()


@dataclass(slots=True, kw_only=True, eq=False)
class Host(Attached):
    """A SCSI device behind a bus. ``port`` is what the log calls its ATA port, "" for none."""

    drive: Unit
    hctl: str
    port: str
    busy: bool = False

    # --- commands

    def run(
        self, cdb: bytes, *, data: bytes = b"", expected: int | None = None, timeout: float
    ) -> Reply | None:
        """One command to its end; None when time was up: it has been aborted and the drive was reset."""
        with self.clock.lock:
            self._turn()
            life = self.drive.disk.state.power_cycles
            answer: Answer = self.drive.execute(
                Command(cdb=cdb.ljust(16, b"\0"), data=data, nexus="host", expected=expected)
            )
            deadline = self.clock.now + timeout
            while isinstance(answer, Wait):
                if self.drive.disk.state.power_cycles != life or self.clock.now >= deadline:
                    self._abort()
                    return None
                answer = self._pass(answer, deadline)
            return answer

    def _turn(self) -> None:
        """The drive is free for the next command."""
        self.begin()
        life = self.life
        while self.busy:
            self.clock.wait(self.clock.now + 3600, lambda: not self.busy or not life.alive)
            life.check()

    def _pass(self, wait: Wait, deadline: float) -> Answer:
        self.busy = not wait.shares
        try:
            self.wait(min(wait.until, deadline))
        finally:
            self.busy = False
        return wait.finish() if self.clock.now >= wait.until else wait

    def _abort(self) -> None:
        """Error handling of the kernel: abort, reset, and offline if that did not help."""
        waited = f"waited {_BLOCK_SECONDS:.0f}s"
        self.talk.say(f"sd {self.hctl}: [{self.name}] tag#1 timing out command, {waited}")
        if self.port:
            self.talk.say(f"{self.port}.00: exception Emask 0x0 SAct 0x0 SErr 0x0 action 0x6 frozen")
            self.talk.say(f"{self.port}: hard resetting link")
        else:
            self.talk.say(f"sd {self.hctl}: device reset")
        self.drive.reset()
        ready = self.drive.execute(Command(cdb=bytes(16), nexus="host"))
        if isinstance(ready, Wait):
            if ready.until > self.clock.now + _RECOVERY_SECONDS:
                self.clock.spend(_RECOVERY_SECONDS)
                self.offline = True
                self.talk.say(f"sd {self.hctl}: Device offlined - not ready after error recovery")
            else:
                self.clock.spend(max(0.0, ready.until - self.clock.now))
                ready = ready.finish()
        if isinstance(ready, Reply) and ready.sense and ready.sense.key is Key.UNIT_ATTENTION:
            self._attention()

    # --- pass-through

    def pass_through(self, cdb: bytes, send: bytes, receive: int, timeout: float) -> ScsiReply:
        """What SG_IO gives."""
        with self.clock.lock:
            self.life.check()
            self.sent.append(Sent(device=self.name, cdb=cdb, data=send, usb=self.usb))
            if self.offline:
                raise DeviceError(f"/dev/{self.name} is not there: offline", code="device_missing")
            reply = self.run(cdb, data=send, expected=len(send) or receive, timeout=timeout)
            if reply is None:
                return ScsiReply(status=0, sense=b"", data=b"", transport=_TIMED_OUT)
            if reply.sense == NOT_PRESENT:
                return ScsiReply(status=0, sense=b"", data=b"", transport=_BAD_TARGET)
            return ScsiReply(status=int(reply.status), sense=reply.raw, data=reply.data[:receive])

    # --- the block layer

    def block(self, what: str, cdb: bytes, lba: int, data: bytes = b"") -> bytes:
        """A read, write or flush with the kernel's retries. Raises OSError(EIO | EREMOTEIO)."""
        life = self.life
        for _ in range(_RETRIES + 1):
            life.check()
            if self.offline:
                self.talk.say(f"sd {self.hctl}: rejecting I/O to offline device")
                break
            self.note_clash(data)
            reply = self.run(cdb, data=data, timeout=_BLOCK_SECONDS)
            if reply is None:
                continue
            if reply.status is Status.GOOD:
                return reply.data
            if reply.status in (Status.BUSY, Status.TASK_SET_FULL):
                self.clock.pause(_BLOCK_SECONDS)
                continue
            if (number := self._judge(what, reply, lba)) is not None:
                raise OSError(number, os.strerror(number))
        self.talk.say(f"I/O error, dev {self.name}, sector {lba} op {what} flags 0x0 phys_seg 1 prio class 2")
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _judge(self, what: str, reply: Reply, lba: int) -> int | None:
        """The errno of a reply, None for another try; says in the log what the kernel would."""
        key = reply.sense.key if reply.sense else Key.HARDWARE_ERROR
        if key is Key.UNIT_ATTENTION:
            self._attention()
            return None
        kind = {
            Key.MEDIUM_ERROR: "critical medium error",
            Key.HARDWARE_ERROR: "critical target error",
            Key.ILLEGAL_REQUEST: "critical target error",
        }.get(key, "I/O error")
        words = key.name.replace("_", " ").title()
        self.talk.say(f"sd {self.hctl}: [{self.name}] tag#1 Sense Key : {words} [current]")
        self.talk.say(f"{kind}, dev {self.name}, sector {lba} op {what} flags 0x0 phys_seg 1 prio class 2")
        return errno.EREMOTEIO if kind == "critical target error" else errno.EIO

    def _attention(self) -> None:
        self.talk.say(f"sd {self.hctl}: Power-on or device reset occurred", 5)


class SimulatedPort:
    """A teeth_agent.passthrough.scsi.ScsiPort."""

    def __init__(self, host: Host) -> None:
        self._host, self._life = host, host.life

    def command(self, cdb: bytes, *, send: bytes = b"", receive: int = 0, timeout: float = 30.0) -> ScsiReply:
        assert not (send and receive), "one direction at a time"
        self._life.check()
        return self._host.pass_through(cdb, send, receive, timeout)


class SimulatedDevice:
    """A teeth_agent.blockio.Device; what carries its commands is its makers' ``carry``."""

    def __init__(self, path: str, size: int, logical_block: int, carrier: Carrier, life: Life) -> None:
        self.path = path
        self.size = size
        self.logical_block = logical_block
        self.partitions_read = 0
        self._carrier, self._life = carrier, life

    def read_into(self, offset: int, buffer: memoryview) -> None:
        for at in range(0, len(buffer), self._carrier.most):
            piece = buffer[at : at + self._carrier.most]
            self._check(offset + at, len(piece))
            try:
                piece[:] = self._carrier.read((offset + at) // self.logical_block, len(piece))
            except OSError as error:
                raise self._failed("read", offset + at, error) from error

    def write_from(self, offset: int, buffer: memoryview) -> None:
        for at in range(0, len(buffer), self._carrier.most):
            piece = bytes(buffer[at : at + self._carrier.most])
            self._check(offset + at, len(piece))
            try:
                self._carrier.write((offset + at) // self.logical_block, piece)
            except OSError as error:
                raise self._failed("write", offset + at, error) from error

    def flush(self) -> None:
        self._life.check()
        try:
            self._carrier.flush()
        except OSError as error:
            raise DeviceError(f"{self.path}: flush failed: {error.strerror}", code="write_failed") from error

    def reread_partitions(self) -> None:
        self._life.check()
        self.partitions_read += 1

    def zero_range(self, offset: int, length: int) -> None:
        """As BLKZEROOUT, for what has to be zero and not for proof."""
        self._check(offset, length)
        try:
            self._carrier.zero(offset // self.logical_block, length // self.logical_block)
        except OSError as error:
            raise self._failed("write", offset, error) from error

    def _check(self, offset: int, length: int) -> None:
        self._life.check()
        assert offset % self.logical_block == 0, offset
        assert length % self.logical_block == 0, length

    def _failed(self, what: str, offset: int, error: OSError) -> DeviceError:
        return DeviceError(
            f"{self.path}: {what} at byte {offset} failed: {error.strerror}", code=f"{what}_failed"
        )


class Carrier(Protocol):
    """Blocks of one device by its bus's commands, at ``most`` bytes at once; OSError as the kernel has it."""

    most: int

    def read(self, lba: int, length: int) -> bytes: ...
    def write(self, lba: int, data: bytes) -> None: ...
    def flush(self) -> None: ...
    def zero(self, lba: int, count: int) -> None: ...


class ScsiCarrier:
    """sd: READ, WRITE, SYNCHRONIZE CACHE and WRITE SAME of 16 bytes."""

    most = _MAX_PIECE

    def __init__(self, host: Host, logical_block: int) -> None:
        self._host = host
        self._size = logical_block

    def read(self, lba: int, length: int) -> bytes:
        return self._host.block("0x0:(READ)", self._cdb(0x88, lba, length // self._size), lba)

    def write(self, lba: int, data: bytes) -> None:
        self._host.block("0x1:(WRITE)", self._cdb(0x8A, lba, len(data) // self._size), lba, data)

    def flush(self) -> None:
        self._host.block("0x2:(FLUSH)", bytes((0x91,)), 0)

    def zero(self, lba: int, count: int) -> None:
        self._host.block("0x9:(WRITE_ZEROES)", self._cdb(0x93, lba, count), lba, bytes(self._size))

    @staticmethod
    def _cdb(opcode: int, lba: int, count: int) -> bytes:
        return bytes((opcode, 0)) + lba.to_bytes(8, "big") + count.to_bytes(4, "big")
