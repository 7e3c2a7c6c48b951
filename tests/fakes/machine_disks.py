"""Inventory records for files and loop devices that stand in for a machine's disks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from teeth_agent.inventory.block import Disk


def disk_at(path: str | Path, **changes: Any) -> Disk:
    """A SCSI disk whose device node is ``path``."""
    name = Path(path).name
    fields: dict[str, Any] = {
        "name": name,
        "devnode": str(path),
        "sysfs_path": f"/devices/pci0000:00/0000:00:05.0/virtio1/host2/target2:0:0/2:0:0:0/block/{name}",
        "serial": f"S-{name}",
        "wwn": f"0x5000{name.encode().hex()}",
        "vendor": "ACME",
        "model": "DISK",
        "firmware": "1.0",
        "transport": "scsi",
        "size": Path(path).stat().st_size,
        "logical_block": 512,
        "physical_block": 512,
        "rotational": False,
        "removable": False,
        "read_only": False,
        "by_path": None,
        "hctl": None,
        "controller": None,
        "namespace": None,
        "diskseq": 3,
        "holders": (),
        "mounts": (),
        "swap": False,
        "partitions": (),
        "out_of_scope": None,
        "virtual_media": None,
    }
    return Disk(**{**fields, **changes})
