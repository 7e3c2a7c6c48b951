"""A /sys and /proc below a temporary folder, with the disks that a test asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from teeth_agent.udev import UdevDevice


class SysfsTree:
    """Grows disks, partitions, mounts and PCI functions; ``records`` is what udev would say of the disks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records: list[UdevDevice] = []
        self.write("/proc/self/mountinfo", "")
        self.write("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n")

    def write(self, path: str, text: str) -> None:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def append(self, path: str, text: str) -> None:
        with (self.root / path.lstrip("/")).open("a") as stream:
            stream.write(text)

    def disk(
        self, name: str, parent: str, *, attributes: dict[str, Any] | None = None, **properties: str
    ) -> None:
        """A disk below the device ``parent`` ("/devices/..."); ``properties`` are udev's."""
        path = f"{parent}/block/{name}"
        base = {"size": 16384, "ro": 0, "removable": 0, "dev": "8:0", "diskseq": 5}
        queue = {"queue/logical_block_size": 512, "queue/physical_block_size": 4096, "queue/rotational": 0}
        for key, value in {**base, **queue, **(attributes or {})}.items():
            if not key.startswith("device/"):
                self.write(f"/sys{path}/{key}", f"{value}\n")
        (self.root / f"sys{path}/device").symlink_to(self.root / f"sys{parent}")
        for key, value in (attributes or {}).items():
            if key.startswith("device/"):
                self.write(f"/sys{parent}/{key.removeprefix('device/')}", f"{value}\n")
        link = self.root / f"sys/class/block/{name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(self.root / f"sys{path}")
        self.records.append(
            UdevDevice(
                name=name,
                devnode=f"/dev/{name}",
                sysfs_path=path,
                subsystem="block",
                devtype="disk",
                properties=properties,
                initialized=True,
            )
        )

    def partition(self, disk: str, name: str, *, dev: str, holders: tuple[str, ...] = ()) -> None:
        folder = f"/sys/class/block/{disk}/{name}"
        self.write(f"{folder}/partition", "1\n")
        self.write(f"{folder}/size", "2048\n")
        self.write(f"{folder}/dev", f"{dev}\n")
        for holder in holders:
            self.write(f"{folder}/holders/{holder}", "")

    def pci(self, address: str, kind: str, *, driver: bool) -> None:
        self.write(f"/sys/bus/pci/devices/{address}/class", f"{kind}\n")
        if driver:
            self.write(f"/sys/bus/pci/devices/{address}/driver/bind", "")
