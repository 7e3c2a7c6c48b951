"""A machine whose drives are the lab's models, in this process: the world that an erase is carried out in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fakes.disks import medium
from fakes.simulated_kernel import Host, KernelTalk, Life, ScsiCarrier, Sent, SimulatedDevice, SimulatedPort
from fakes.simulated_nvme import NvmeCarrier, NvmeHost, SimulatedNvmePort
from fakes.virtual_time import VirtualClock
from teeth.lab.drives.answer import Reply
from teeth.lab.drives.behaviours import make
from teeth.lab.drives.media import Media
from teeth.lab.drives.model import DriveSpec, StateStore
from teeth.lab.drives.nvme import NvmeController, NvmeSpec
from teeth.lab.drives.sata import SataDrive
from teeth.lab.drives.scsi import ScsiDrive
from teeth.lab.drives.unit import Unit
from teeth_agent.erase.kernellog import KernelLog
from teeth_agent.erase.model import Medium
from teeth_agent.errors import DeviceError

_SCAN_SECONDS = 30.0
_BOOT_SECONDS = 60.0

Drive = Unit | NvmeController


class FlatMedia:
    """A drive's blocks in one bytearray: a teeth.lab.drives.media.Media for small drives."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.content = bytearray(size)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(memoryview(self.content)[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.content[offset : offset + len(data)] = data

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A drive ("scsi", "sata", "nvme") and where it sits. ``bus``: "sata" for a SATA drive on its own port,
    "sas" for either kind behind an adapter, "usb" for a SATA drive behind a bridge, "nvme"."""

    kind: str
    spec: DriveSpec
    bus: str = "sas"
    behaviours: Sequence[str] = ()


@dataclass(slots=True, kw_only=True)
class Writers:
    """How many write to a device at once; ``twice`` names every device that ever had two, ``clashes`` those
    that were written to while they erased themselves."""

    now: dict[str, int] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    clashes: list[str] = field(default_factory=list)


class SimulatedMachine:
    """Drives in slots, a kernel and a clock. ``boot`` begins a life, ``power_cut`` ends it.

    ``sent`` are all commands that went through to drives by themselves, of every life.
    """

    def __init__(self, slots: Sequence[Slot], media: Sequence[Media] | None = None) -> None:
        self.clock = VirtualClock()
        self.talk = KernelTalk(self.clock)
        self.sent: list[Sent] = []
        self.said: list[str] = []  # by the kernels of all lives
        self.writers = Writers()
        self.slots = tuple(slots)
        self.media = [FlatMedia(slot.spec.media_size) for slot in slots] if media is None else list(media)
        self.units = [self._drive(slot, held) for slot, held in zip(self.slots, self.media, strict=True)]
        self.life = Life(0, alive=False)
        # What the kernel has found: SCSI disks with what it has read of them (it does not look again by
        # itself), and NVMe controllers.
        self.disks: dict[str, tuple[Host, Medium]] = {}
        self.controllers: dict[str, NvmeHost] = {}

    def _drive(self, slot: Slot, held: Media) -> Drive:
        rest: dict[str, Any] = {"clock": lambda: self.clock.now, "store": StateStore()}
        drive: Drive
        if isinstance(slot.spec, NvmeSpec):
            drive = NvmeController(slot.spec, held, **rest)
        else:
            drive = (ScsiDrive if slot.kind == "scsi" else SataDrive)(slot.spec, held, **rest)
        for behaviour in slot.behaviours:
            drive.disk.add(make(behaviour))
        return drive

    # --- lives

    def boot(
        self, *, cut_after_ops: float = math.inf, cut_after_seconds: float = math.inf
    ) -> SimulatedMachine:
        """Power on, drives found. The power goes after so many questions to drives or so much time."""
        assert not self.life.alive
        with self.clock.lock:
            if self.life.number:
                for unit in self.units:
                    unit.power_on()
            self.life = Life(self.life.number + 1)
            self.clock.now += _BOOT_SECONDS
            self.talk = KernelTalk(self.clock)
            self.talk.said = self.said
            self.disks, self.controllers = {}, {}
            for index, (slot, unit) in enumerate(zip(self.slots, self.units, strict=True)):
                self._attach(index, slot, unit)
            self.life.ops, self.life.cut_at = 0, cut_after_ops
            self.clock.alarm, self.clock.on_alarm = self.clock.now + cut_after_seconds, self.power_cut
        return self

    def _attach(self, index: int, slot: Slot, unit: Drive) -> None:
        rest: dict[str, Any] = {
            "clock": self.clock,
            "talk": self.talk,
            "life": self.life,
            "cut": self.power_cut,
            "sent": self.sent,
            "clashes": self.writers.clashes,
        }
        if isinstance(unit, NvmeController):
            controller = NvmeHost(name=f"nvme{index}", number=index, drive=unit, **rest)
            controller.scan()
            self.controllers[controller.name] = controller
            return
        host = Host(
            name=f"sd{chr(ord('a') + index)}",
            hctl=f"{index}:0:0:0",
            port=f"ata{index + 1}" if slot.bus == "sata" else "",
            drive=unit,
            usb=slot.bus == "usb",
            **rest,
        )
        self.disks[host.name] = host, _scan(host, slot)

    def power_cut(self) -> None:
        """The machine is dark: whoever still runs learns of it with the next thing it does."""
        with self.clock.lock:
            if not self.life.alive:
                return
            self.life.alive = False
            self.clock.alarm = math.inf
            self.writers.now.clear()
            for unit in self.units:
                unit.power_off()
            self.clock.lock.notify_all()

    def later(self, ops: int, event: Callable[[], None]) -> None:
        """Let something happen after so many questions to drives in this life."""
        self.life.event_at, self.life.event = self.life.ops + ops, event

    def arm(self, index: int, behaviour: str) -> None:
        """From now on the drive has this lie or fault."""
        with self.clock.lock:
            self.units[index].disk.add(make(behaviour))

    # --- what World needs

    def look(self) -> tuple[Medium, ...]:
        """Every block device there is now."""
        self.life.check()
        with self.clock.lock:
            media = [medium for _, medium in self.disks.values()]
            for controller in self.controllers.values():
                media += controller.media.values()
        return tuple(media)

    def rescan(self, medium: Medium) -> None:
        """The kernel looks at a drive anew; behind libata it is taken out for that and found again."""
        self.life.check()
        if medium.controller is not None:
            self.controllers[medium.controller].scan()
            return
        host, before = self.disks[medium.name]
        found = _scan(host, self.slots[self.units.index(host.drive)])
        if medium.transport == "sata":
            found = replace(found, diskseq=(before.diskseq or 0) + 100)
        self.disks[medium.name] = host, found

    @contextmanager
    def open(self, path: str, *, write: bool) -> Iterator[SimulatedDevice]:
        """blockio.open_device."""
        device, life = self._device(path), self.life
        if write:
            with self.clock.lock:
                count = self.writers.now[path] = self.writers.now.get(path, 0) + 1
                if count > 1:
                    self.writers.twice.append(path)
        try:
            yield device
        finally:
            with self.clock.lock:
                if write and life.alive:
                    self.writers.now[path] -= 1

    def _device(self, path: str) -> SimulatedDevice:
        self.life.check()
        name = path.removeprefix("/dev/")
        carrier: ScsiCarrier | NvmeCarrier
        if name in self.disks:
            host, medium = self.disks[name]
            carrier = ScsiCarrier(host, medium.logical_block)
        else:
            holders = [one for one in self.controllers.values() if name in one.media]
            if not holders:
                raise _missing(path)
            medium = holders[0].media[name]
            carrier = NvmeCarrier(holders[0], medium)
        return SimulatedDevice(path, medium.size, medium.logical_block, carrier, self.life)

    @contextmanager
    def open_scsi(self, devnode: str) -> Iterator[SimulatedPort]:
        """passthrough.scsi.open_scsi."""
        self.life.check()
        if devnode.removeprefix("/dev/") not in self.disks:
            raise _missing(devnode)
        yield SimulatedPort(self.disks[devnode.removeprefix("/dev/")][0])

    @contextmanager
    def open_nvme(self, devnode: str) -> Iterator[SimulatedNvmePort]:
        """passthrough.nvme.open_nvme."""
        self.life.check()
        if devnode.removeprefix("/dev/") not in self.controllers:
            raise _missing(devnode)
        yield SimulatedNvmePort(self.controllers[devnode.removeprefix("/dev/")])

    def kernel_log(self) -> KernelLog:
        """The kernel's log from now on."""
        while True:
            try:
                self.talk.read()
            except BlockingIOError:
                return KernelLog(self.talk.read)

    def now(self) -> float:
        life = self.life
        life.check()
        return self.clock()

    def pause(self, seconds: float) -> None:
        life = self.life
        life.check()
        self.clock.pause(seconds)
        life.check()

    def parts(self) -> dict[str, Any]:
        """What every World is made of; the rest is its maker's."""
        return {
            "look": self.look,
            "settle": self.life.check,
            "clock": self.now,
            "pause": self.pause,
        }


def _missing(path: str) -> DeviceError:
    return DeviceError(f"{path} is not there: No such device", code="device_missing")


def _scan(host: Host, slot: Slot) -> Medium:
    """What kernel and udev make of a drive, from INQUIRY, its vital product data and READ CAPACITY."""
    standard = _ask(host, "120000006000", 96)
    serial = _page(host, 0x80).decode("ascii", "replace").strip()
    sata = slot.kind == "sata"
    identity = _page(host, 0x89)[56:568] if sata else b""
    capacity = _ask(host, "9e10" + "00" * 8 + "00000020" + "0000", 32)
    sector = int.from_bytes(capacity[8:12], "big") or 512
    size = (int.from_bytes(capacity[:8], "big") + 1) * sector if capacity else 0
    adapter = {"sata": f"0000:00:1f.2/{host.port}", "usb": "0000:00:14.0/usb2/2-1/2-1:1.0"}.get(
        slot.bus, "0000:00:05.0"
    )
    number = host.hctl.split(":", 1)[0]
    return medium(
        host.name,
        sysfs_path=f"/devices/pci0000:00/{adapter}/host{number}/target{host.hctl[:-2]}/{host.hctl}/block/{host.name}",
        serial=_ata_text(identity, 10, 10) if sata else serial,
        wwn=_naa(_page(host, 0x83)),
        vendor=standard[8:16].decode("ascii", "replace").strip(),
        model=_ata_text(identity, 27, 20) if sata else standard[16:32].decode("ascii", "replace").strip(),
        firmware=_ata_text(identity, 23, 4) if sata else standard[32:36].decode("ascii", "replace").strip(),
        transport=slot.bus,
        size=size,
        logical_block=sector,
        diskseq=1 + int(number),
    )


def _ask(host: Host, cdb: str, receive: int) -> bytes:
    """A command's data, b"" when it was refused; unit attentions of the power-on are taken off."""
    reply: Reply | None = None
    for _ in range(4):
        reply = host.run(bytes.fromhex(cdb), expected=receive, timeout=_SCAN_SECONDS)
        if reply is not None and (reply.status == 0 or (reply.sense and reply.sense.key != 6)):
            break
    return reply.data[:receive] if reply is not None and reply.status == 0 else b""


def _page(host: Host, page: int) -> bytes:
    return _ask(host, f"1201{page:02x}040000", 1024)[4:]


def _ata_text(identity: bytes, word: int, words: int) -> str:
    """ATA strings have the bytes of each word swapped."""
    raw = identity[2 * word : 2 * (word + words)]
    swapped = bytes(byte for at in range(0, len(raw), 2) for byte in (raw[at + 1], raw[at]))
    return swapped.decode("ascii", "replace").strip()


def _naa(page: bytes) -> str | None:
    """The logical unit's NAA name from the designators of page 83h."""
    at = 0
    while at + 4 <= len(page):
        length = page[at + 3]
        kind, association = page[at + 1] & 0x0F, page[at + 1] >> 4 & 0x03
        if kind == 3 and association == 0:
            return f"0x{page[at + 4 : at + 4 + length].hex()}"
        at += 4 + length
    return None
