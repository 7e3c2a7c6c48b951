"""Disks in memory, honest and lying ones, and the machine around them."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from teeth_agent.erase.examine import Examination
from teeth_agent.erase.execute import World
from teeth_agent.erase.hidden import Hidden, State
from teeth_agent.erase.kernellog import KernelLog
from teeth_agent.erase.methods import DeviceErase, Poll, Ports
from teeth_agent.erase.methods import State as Standing
from teeth_agent.erase.model import Medium, Method, Unit
from teeth_agent.errors import DeviceError

PATTERN = b"REMAINS "


class MemoryDisk:
    """An honest teeth_agent.blockio.Device, full of a pattern."""

    logical_block = 512

    def __init__(self, name: str, size: int = 8 << 20) -> None:
        self.path = f"/dev/{name}"
        self.size = size
        self.content = bytearray(PATTERN * (size // len(PATTERN)))
        self.written = 0
        self.partitions_read = 0
        self.guard = threading.Lock()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.content[offset : offset + len(buffer)]

    def write_from(self, offset: int, buffer: memoryview) -> None:
        with self.guard:
            self.written += len(buffer)
        self.store(offset, bytes(buffer))

    def store(self, offset: int, data: bytes) -> None:
        self.content[offset : offset + len(data)] = data

    def flush(self) -> None:
        pass

    def reread_partitions(self) -> None:
        self.partitions_read += 1

    def zero_range(self, offset: int, length: int) -> None:
        self.store(offset, bytes(length))

    def erase(self) -> None:
        """What the drive does on an erase of its own."""
        self.content[:] = bytes(self.size)


class KeepsNothing(MemoryDisk):
    """Accepts every write and does nothing."""

    def store(self, offset: int, data: bytes) -> None:
        pass


class SkipsLastBlock(MemoryDisk):
    """Never writes its last block."""

    def store(self, offset: int, data: bytes) -> None:
        room = self.size - self.logical_block - offset
        super().store(offset, data[: max(room, 0)])


class ErasesHalf(MemoryDisk):
    """Takes small writes anywhere, large ones only in its first half; erases half by itself, too."""

    def store(self, offset: int, data: bytes) -> None:
        if len(data) <= 4096 or offset < self.size // 2:
            super().store(offset, data)

    def erase(self) -> None:
        self.content[: self.size // 2] = bytes(self.size // 2)


class KeepsOneBlock(MemoryDisk):
    """Returns what was written first at one place for ever: a stale block that only a canary shows."""

    def __init__(self, name: str, size: int = 8 << 20) -> None:
        super().__init__(name, size)
        self.stale: tuple[int, bytes] | None = None

    def store(self, offset: int, data: bytes) -> None:
        if self.stale is None and len(data) == 4096 and offset:
            self.stale = (offset, data)
        super().store(offset, data)
        if self.stale is not None:
            super().store(*self.stale)


class ShowsCanaryOnce(KeepsOneBlock):
    """Shows the stale block only to the first small read after an erase, and zeros to the full read-back."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        super().read_into(offset, buffer)
        if self.stale is not None and len(buffer) > 4096:
            buffer[:] = bytes(len(buffer))


class FailsHalfway(MemoryDisk):
    """A write error in the middle."""

    def store(self, offset: int, data: bytes) -> None:
        if len(data) > 4096 and offset >= self.size // 2:
            raise DeviceError(f"{self.path}: write at byte {offset} failed", code="write_failed")
        super().store(offset, data)


class CannotBeRead(MemoryDisk):
    """Writes well; its last MiB cannot be read once it has been overwritten."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if self.written > self.size and offset + len(buffer) > self.size - (1 << 20):
            raise DeviceError(f"{self.path}: read at byte {offset} failed", code="read_failed")
        super().read_into(offset, buffer)


def medium(name: str, **changes: Any) -> Medium:
    """A SCSI disk as the inventory would give it; ``changes`` are fields of Medium."""
    fields: dict[str, Any] = {
        "name": name,
        "devnode": f"/dev/{name}",
        "sysfs_path": f"/devices/pci0000:00/0000:00:05.0/virtio1/host2/target2:0:0/2:0:0:0/block/{name}",
        "serial": f"S-{name}",
        "wwn": f"0x5000{name.encode().hex()}",
        "vendor": "ACME",
        "model": "DISK",
        "firmware": "1.0",
        "transport": "scsi",
        "size": 8 << 20,
        "logical_block": 512,
        "rotational": False,
        "removable": False,
        "read_only": False,
        "diskseq": 3,
        "controller": None,
        "namespace": None,
        "in_use": (),
        "partitions": (),
        "out_of_scope": None,
        "virtual_media": None,
    }
    return Medium(**{**fields, **changes})


def nvme_medium(controller: str, namespace: int = 1, **changes: Any) -> Medium:
    name = f"{controller}n{namespace}"
    fields = {
        "sysfs_path": f"/devices/pci0000:00/0000:00:06.0/nvme/{controller}/{name}",
        "serial": f"S-{controller}",
        "wwn": f"eui.{name.encode().hex()}",
        "transport": "nvme",
        "controller": controller,
        "namespace": namespace,
    }
    return medium(name, **{**fields, **changes})


def no_erase(method: Method, unit: Unit) -> DeviceErase:
    raise AssertionError(f"{method.value} is not expected here")


def no_port(devnode: str) -> Any:
    raise AssertionError(f"nobody speaks to {devnode} here")


class FakeErase:
    """A teeth_agent.erase.methods.DeviceErase of disks in memory: done at the last of ``polls``.

    A poll is a fraction, None, or a state that ends it, or an error to be raised.
    """

    def __init__(
        self,
        disks: Sequence[MemoryDisk],
        polls: Sequence[float | Standing | DeviceError | None] = (Standing.DONE,),
        *,
        estimate: float | None = None,
    ) -> None:
        self.estimate = estimate
        self.commands: list[str] = []
        self.abandoned = 0
        self.refusal: DeviceError | None = None
        self.left: DeviceError | None = None
        self.incomplete: DeviceError | None = None
        self._disks = disks
        self._polls = list(polls)

    def start(self) -> None:
        self.commands.append("erase")
        if self.refusal is not None:
            raise self.refusal

    def adopt(self) -> bool:
        return False

    def poll(self) -> Poll:
        answer = self._polls.pop(0) if len(self._polls) > 1 else self._polls[0]
        if isinstance(answer, DeviceError):
            raise answer
        if isinstance(answer, Standing):
            if answer is Standing.DONE:
                for disk in self._disks:
                    disk.erase()
            return Poll(state=answer, fraction=None, evidence={"raw": "00"})
        return Poll(state=Standing.RUNNING, fraction=answer, evidence={"raw": "01"})

    def complete(self) -> dict[str, Any]:
        if self.incomplete is not None:
            raise self.incomplete
        return {"raw": "00"}

    def abandon(self) -> None:
        self.abandoned += 1
        if self.left is not None:
            raise self.left


class Bench:
    """The world of the executor, with these disks in it."""

    def __init__(self, disks: Sequence[MemoryDisk], media: Sequence[Medium]) -> None:
        self.disks = {disk.path: disk for disk in disks}
        self.media = tuple(media)
        self.look: Callable[[], tuple[Medium, ...]] = lambda: self.media
        self.hidden = Hidden(state=State.NONE, reason="looked")
        self.busy: dict[str, int] = {}
        self.records: list[bytes | OSError] = []
        self.erases: Callable[[Method, Unit], DeviceErase] = no_erase
        self.recovered: list[dict[str, Any]] = []
        self.opened: list[str] = []
        self.rescanned: list[Medium] = []
        self.allowed_exits: list[bool] = []

    @contextmanager
    def open(self, path: str, *, write: bool) -> Iterator[MemoryDisk]:
        if write and self.busy.get(path, 0) > 0:
            self.busy[path] -= 1
            raise DeviceError(f"{path} is in use", code="device_busy")
        yield self.disks[path]

    @contextmanager
    def make_erase(
        self, method: Method, unit: Unit, ports: Ports, *, allow_exit: bool, tries: object = None
    ) -> Iterator[DeviceErase]:
        self.allowed_exits.append(allow_exit)
        yield self.erases(method, unit)

    def world(self) -> World:
        return World(
            open=self.open,
            ports=Ports(open_scsi=no_port, open_nvme=no_port),
            look=lambda: self.look(),
            settle=lambda: None,
            make_erase=self.make_erase,
            examine=lambda unit, ports: Examination(identity={}, hidden=self.hidden),
            recover=lambda unit, rescue: self.recovered,
            open_up=lambda unit, ports, commands: self.opened,
            rescan=self.rescanned.append,
            clock=iter(range(1 << 40)).__next__,
            pause=lambda seconds: None,
        )

    def kernel_log(self) -> KernelLog:
        def read() -> bytes:
            record = self.records.pop(0) if self.records else BlockingIOError(errno.EAGAIN, "")
            if isinstance(record, OSError):
                raise record
            return record

        return KernelLog(read)
