"""A machine's facts as the real agent reads them, here from a /sys and /proc where there is nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes.machine_disks import disk_at
from teeth_agent.inventory import machine
from teeth_agent.netlink import Link

MAC = "52:54:00:00:00:01"
_LINK = Link(index=2, name="eth0", mac=MAC, up=True, carrier=True, kind="", mtu=1500)


def inventory(root: Path, serial: str = "S1") -> dict[str, Any]:
    """With one disk."""
    return {
        "firmware": machine.firmware(root),
        "processor": machine.processor(root),
        "memory": machine.memory(root),
        "interfaces": machine.interfaces(root, [_LINK], MAC),
        "disks": [disk_at(root, serial=serial, name="sda", size=1 << 30).to_json()],
    }


def status(root: Path) -> dict[str, Any]:
    return machine.status(root, version="test", ramdisk="r", boot="b1")
