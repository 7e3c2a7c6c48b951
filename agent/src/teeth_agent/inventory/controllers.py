"""Storage controllers behind which drives may be that no block device shows."""

from __future__ import annotations

import re
from pathlib import Path

from teeth_agent import sysfs

_PCI = "/sys/bus/pci/devices"
_STORAGE = 0x01
_RAID = 0x04  # Intel's VMD too


def unaccounted(root: Path = Path("/")) -> tuple[str, ...]:
    """One phrase each: storage functions without a driver or of RAID class, NVMe without a namespace."""
    found = []
    for address in sysfs.names(root, _PCI):
        kind = _class(root, address)
        if kind is None or kind >> 16 != _STORAGE:
            continue
        if (kind >> 8) & 0xFF == _RAID:
            found.append(f"PCI {address}: a RAID controller")
        elif not (root / _PCI.lstrip("/") / address / "driver").exists():
            found.append(f"PCI {address}: no driver")
    controllers = sysfs.names(root, "/sys/class/nvme")
    found += [f"NVMe {name}: no namespace" for name in controllers if not _has_namespace(root, name)]
    return tuple(found)


def _class(root: Path, address: str) -> int | None:
    text = sysfs.read_text(root, f"{_PCI}/{address}/class")
    try:
        return int(text, 16) if text else None
    except ValueError:
        return None


def _has_namespace(root: Path, controller: str) -> bool:
    # nvme0n1 and its multipath form nvme0c0n1; ng0n1 is for command sets without a block device.
    return any(
        re.fullmatch(r"nvme\d+(?:c\d+)?n\d+", name)
        for name in sysfs.names(root, f"/sys/class/nvme/{controller}")
    )
