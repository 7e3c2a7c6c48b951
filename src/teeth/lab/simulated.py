"""Simulated drives in a machine: QEMU passes the guest's SCSI commands through to where they are served, and
tells the guest where NVMe drives are served, to which its own kernel connects."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from teeth.errors import UsageError

_URL = re.compile(r"iscsi://([^/@]+:\d+)/([^/]+)/(\d+)")
# An ATA erase is one command of many hours; QEMU's own patience is 30 s.
_PATIENCE = 7 * 24 * 3600


def announced_arguments(urls: Sequence[str]) -> list[str]:
    """QEMU arguments that let a guest know addresses: OEM strings of the firmware (DMI type 11)."""
    return [
        word
        for url in urls
        for word in ("-smbios", f"type=11,value={'teeth.drive=' + url.replace(',', ',,')}")
    ]


def simulated_arguments(urls: Sequence[str]) -> list[str]:
    """QEMU arguments, for ``Machine.extra``, that give a machine the drives served at ``urls``.

    They hang on a SCSI controller of their own; nodes are called drive0, drive1, ..., devices sim0, sim1, ...
    QEMU turns their sense data into fixed format, and cannot start with a SCSI drive that is being sanitized.
    Raises UsageError for what is no such address.
    """
    words = ["-device", "virtio-scsi-pci,id=simulated"] if urls else []
    for index, url in enumerate(urls):
        match = _URL.fullmatch(url)
        if match is None:
            raise UsageError(f"simulated drive {url!r}: not iscsi://HOST:PORT/NAME/LUN")
        back = {
            "driver": "iscsi",
            "transport": "tcp",
            "portal": match[1],
            "target": match[2],
            "lun": int(match[3]),
            "node-name": f"drive{index}",
        }
        front = {
            "driver": "scsi-generic",
            "id": f"sim{index}",
            "drive": f"drive{index}",
            "bus": "simulated.0",
            "scsi-id": index,
            "io_timeout": _PATIENCE,
        }
        words += ["-blockdev", json.dumps(back), "-device", json.dumps(front)]
    return words
