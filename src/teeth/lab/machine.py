"""What a machine is made of, and the QEMU command line that says so: a pure function."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

from teeth.errors import UsageError
from teeth.lab.accel import QEMU, Accelerator, with_parent
from teeth.lab.disk import Bus, VirtualDisk, disk_arguments
from teeth.lab.firmware import Firmware, UefiFiles
from teeth.lab.network import Nic, network_arguments

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_MEMORY_MIN = 64  # MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectBoot:
    """The kernel is put into memory by QEMU: quick, and no network needed to start."""

    kernel: Path
    initrd: Path | None = None
    cmdline: str = "console=ttyS0"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkBoot:
    """iPXE in the first card's ROM takes ``bootfile``, an iPXE script, by TFTP from the folder ``tftp``.

    ``tftp`` None: the network that the card is on offers what to boot.
    """

    tftp: Path | None
    bootfile: str = "boot.ipxe"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskBoot:
    """The firmware starts the disks marked ``boot``, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine. Sizes: ``memory`` in MiB. ``uuid``, ``serial`` and ``asset`` (the chassis' tag) are what
    DMI tells the guest.

    With ``restart`` off, a guest's reset ends QEMU instead of running the firmware again. ``rtc`` is what its
    battery-backed clock says at the start, in UTC; None: the right time. ``display``: it has a screen, which
    can be photographed; the serial console is there either way. ``balloon``: memory can be taken from it.
    """

    name: str
    boot: DirectBoot | NetworkBoot | DiskBoot
    memory: int = 1024
    cpus: int = 2
    firmware: Firmware = Firmware.BIOS
    uuid: UUID | None = None
    serial: str = ""
    asset: str = ""
    manufacturer: str = "Teeth"
    product: str = "Lab machine"
    nics: tuple[Nic, ...] = ()
    disks: tuple[VirtualDisk, ...] = ()
    restart: bool = True
    rtc: datetime | None = None
    display: bool = False
    balloon: bool = False
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"machine name {self.name!r}: letters, digits and hyphens, at most 63")
        if self.memory < _MEMORY_MIN:
            raise UsageError(f"machine {self.name}: {self.memory} MiB of memory is less than {_MEMORY_MIN}")
        if not 1 <= self.cpus <= 64:
            raise UsageError(f"machine {self.name}: {self.cpus} CPUs is not 1 to 64")
        for what, values in (
            ("MAC address", [nic.mac for nic in self.nics]),
            ("disk file", [str(disk.path) for disk in self.disks]),
            ("disk serial", [_told_apart(disk) for disk in self.disks]),
        ):
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise UsageError(f"machine {self.name}: {what} {twice} appears twice")


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """Open descriptors that QEMU inherits: its ends of the control and of the console connection."""

    qmp: int
    console: int
    raw_log: Path


def qemu_argv(
    machine: Machine,
    accelerator: Accelerator,
    channels: Channels,
    uefi: UefiFiles | None = None,
    *,
    core: int | None = None,
    cables: Mapping[int, str] = MappingProxyType({}),
) -> list[str]:
    """The whole command line. The machine waits (-S) until it is told to go on over QMP, so that faults
    can be set and every event is seen. ``core`` is the host processor that all of QEMU is kept to, None for
    no such bond. ``cables`` are the -netdev options of cards whose network is not QEMU's own, by the card's
    number. Raises UsageError when a UEFI machine gets no firmware files.
    """
    tftp, bootfile = _network_boot(machine)
    boots = isinstance(machine.boot, NetworkBoot)
    return [
        *with_parent(QEMU, core),
        *accelerator.argv,
        *("-name", machine.name, "-S", "-nodefaults", "-no-user-config", "-display", "none"),
        # Without graphics the firmware uses the serial line as its screen.
        *("-machine", "q35,graphics=off", "-smp", str(machine.cpus), "-m", str(machine.memory)),
        *_identity(machine),
        *(("-rtc", f"base={machine.rtc:%Y-%m-%dT%H:%M:%S}") if machine.rtc else ()),
        *_firmware(machine, uefi),
        *("-chardev", f"socket,id=qmp,fd={channels.qmp}", "-mon", "chardev=qmp,mode=control"),
        *(
            "-chardev",
            f"socket,id=console,fd={channels.console},logfile={_escape(str(channels.raw_log))},logappend=on",
        ),
        *("-serial", "chardev:console"),
        *_parts(machine),
        *network_arguments(machine.nics, tftp=tftp, bootfile=bootfile, boots=boots, cables=cables),
        *disk_arguments(machine.disks),
        *_kernel(machine.boot, accelerator),
        *(() if machine.restart else ("-no-reboot",)),
        *machine.extra,
    ]


def _told_apart(disk: VirtualDisk) -> str:
    """A disk's serial; of a second NVMe namespace also its number, as its serial is the controller's."""
    return disk.serial if disk.nsid == 1 else f"{disk.serial} (namespace {disk.nsid})"


def _parts(machine: Machine) -> list[str]:
    words: list[str] = []
    if any(disk.bus is Bus.USB for disk in machine.disks) or any(nic.usb for nic in machine.nics):
        words += ["-device", "qemu-xhci,id=usb"]
    if machine.display:
        words += ["-device", "VGA,id=display"]
    if machine.balloon:
        words += ["-device", "virtio-balloon-pci,id=balloon"]
    return words


def _network_boot(machine: Machine) -> tuple[Path | None, str]:
    match machine.boot:
        case NetworkBoot(tftp=tftp, bootfile=bootfile):
            if not machine.nics:
                raise UsageError(f"machine {machine.name} boots from the network and has no network card")
            return tftp, bootfile
        case _:
            return None, ""


def _identity(machine: Machine) -> list[str]:
    system = f"type=1,manufacturer={_escape(machine.manufacturer)},product={_escape(machine.product)}"
    if machine.serial:
        system += f",serial={_escape(machine.serial)}"
    words = ["-smbios", system]
    if machine.asset:
        words += ["-smbios", f"type=3,asset={_escape(machine.asset)}"]
    return [*words, *(("-uuid", str(machine.uuid)) if machine.uuid else ())]


def _firmware(machine: Machine, uefi: UefiFiles | None) -> list[str]:
    if machine.firmware is Firmware.BIOS:
        return []
    if uefi is None:
        raise UsageError(f"machine {machine.name} is a UEFI machine and got no UEFI firmware")
    words: list[str] = []
    for file, extra in ((uefi.code, ",readonly=on"), (uefi.variables, "")):
        words += ["-drive", f"if=pflash,format=raw,file={_escape(str(file))}{extra}"]
    return words


def _kernel(boot: DirectBoot | NetworkBoot | DiskBoot, accelerator: Accelerator) -> list[str]:
    match boot:
        case DirectBoot(kernel=kernel, initrd=initrd, cmdline=cmdline):
            words = ["-kernel", str(kernel), "-append", " ".join((cmdline, *accelerator.kernel_arguments))]
            return [*words, "-initrd", str(initrd)] if initrd else words
        case _:
            return []


def _escape(value: str) -> str:
    """QEMU's option syntax: a comma inside a value is doubled."""
    return value.replace(",", ",,")
