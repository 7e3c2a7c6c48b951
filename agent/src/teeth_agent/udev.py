"""The only pyudev: the udev database as plain records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyudev
from pyudev._ctypeslib import utils


@dataclass(frozen=True, slots=True, kw_only=True)
class UdevDevice:
    """One device as udev knows it.

    ``sysfs_path`` is the kernel's device path without the leading /sys ("/devices/pci0000:00/..."),
    ``devtype`` the kernel's word ("disk", "partition", "" where it has none), ``initialized`` whether udev
    has run its rules for it: without a running udev the properties are the kernel's alone.
    """

    name: str
    devnode: str | None
    sysfs_path: str
    subsystem: str
    devtype: str
    properties: Mapping[str, str]
    initialized: bool


# "Has everything appeared that I wait for?", asked of the disks known so far.
Wanted = Callable[[Sequence[UdevDevice]], bool]


def disks() -> list[UdevDevice]:
    """Every whole block device (no partitions), by name."""
    found = _context().list_devices(subsystem="block", DEVTYPE="disk")
    return sorted((_record(device) for device in found), key=lambda record: record.name)


def nvme_controllers() -> list[UdevDevice]:
    """Every NVMe controller, those without a namespace too, by name."""
    found = _context().list_devices(subsystem="nvme")
    return sorted((_record(device) for device in found), key=lambda record: record.name)


def wait_for_disks(wanted: Wanted, timeout: float) -> list[UdevDevice]:
    """The disks, as soon as ``wanted`` is satisfied by them, at the latest after ``timeout`` seconds.

    Listens to udev's own events, which come after its rules have run; where no udev runs, to nothing, and
    looks again every second.
    """
    context = _context()
    monitor = pyudev.Monitor.from_netlink(context)
    monitor.filter_by("block")
    # Started before the first look, so that no disk can appear unseen between the two.
    monitor.start()
    deadline = time.monotonic() + timeout
    while True:
        known = disks()
        left = deadline - time.monotonic()
        if wanted(known) or left <= 0:
            return known
        monitor.poll(timeout=min(left, 1.0))


def wait_quiet(quiet: float, most: float) -> None:
    """Until no block device has come, gone or changed for ``quiet`` seconds, at the most ``most`` seconds.

    Buses are scanned in the background: an answer that is given too early misses the disks behind them.
    """
    monitor = pyudev.Monitor.from_netlink(_context())
    monitor.filter_by("block")
    monitor.start()
    deadline = time.monotonic() + most
    while (left := deadline - time.monotonic()) > 0:
        if monitor.poll(timeout=min(quiet, left)) is None:
            return


def _context() -> pyudev.Context:
    # pyudev asks ctypes for the library, and ctypes asks ldconfig, gcc or ld: three programs that a ramdisk
    # does not carry. The name is fixed by libudev's ABI since 2012.
    utils.find_library = lambda name: "libudev.so.1" if name == "udev" else None
    return pyudev.Context()


def _record(device: pyudev.Device) -> UdevDevice:
    return UdevDevice(
        name=device.sys_name,
        devnode=device.device_node,
        sysfs_path=device.device_path,
        subsystem=device.subsystem or "",
        devtype=device.device_type or "",
        properties=dict(device.properties.items()),
        initialized=device.is_initialized,
    )
