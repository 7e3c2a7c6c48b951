"""What the machine is: identity, firmware, processor, memory, interfaces."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from teeth_agent import sysfs
from teeth_agent.netlink import Link

_DMI = "/sys/class/dmi/id"
# Placeholders that vendors ship in the UUID field; such a machine is named by its first MAC instead.
_NO_UUID = {
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "03000200-0400-0500-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def system_uuid(root: Path) -> str | None:
    """The SMBIOS system UUID in lower case, None if there is none or a placeholder stands there."""
    uuid = (sysfs.read_text(root, f"{_DMI}/product_uuid", "") or "").lower()
    return uuid if _UUID.match(uuid) and uuid not in _NO_UUID else None


def node_id(root: Path, macs: list[str]) -> str:
    """The SMBIOS system UUID, else "mac-" and the first address, else "unknown"."""
    uuid = system_uuid(root)
    if uuid is not None:
        return uuid
    return f"mac-{macs[0].replace(':', '')}" if macs else "unknown"


def boot_id(root: Path) -> str:
    """The kernel's random id of this boot."""
    return sysfs.read_text(root, "/proc/sys/kernel/random/boot_id", "unknown") or "unknown"


def firmware(root: Path) -> dict[str, Any]:
    """DMI strings and the boot mode ("uefi" or "bios")."""
    fields = ("sys_vendor", "product_name", "product_serial", "board_name", "bios_vendor", "bios_version")
    facts: dict[str, Any] = {name: sysfs.read_text(root, f"{_DMI}/{name}") for name in fields}
    facts["boot_mode"] = "uefi" if (root / "sys/firmware/efi").is_dir() else "bios"
    return facts


def processor(root: Path) -> dict[str, Any]:
    """Model, number of logical processors and flags of the first one."""
    text = sysfs.read_text(root, "/proc/cpuinfo", "") or ""
    models = re.findall(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.*)$", text, re.MULTILINE)
    return {
        "model": models[0] if models else None,
        "count": len(re.findall(r"^processor\s*:", text, re.MULTILINE)),
        "flags": flags.group(1).split() if flags else [],
    }


def memory(root: Path) -> dict[str, int]:
    """Bytes of memory: total and available now."""
    text = sysfs.read_text(root, "/proc/meminfo", "") or ""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    return {
        "total": int(found.get("MemTotal", 0)) * 1024,
        "available": int(found.get("MemAvailable", 0)) * 1024,
    }


def interfaces(root: Path, links: list[Link], boot_mac: str) -> list[dict[str, Any]]:
    """Every hardware interface with its driver and speed (Mbit/s, None when unknown)."""
    return [
        {
            "name": link.name,
            "mac": link.mac,
            "carrier": link.carrier,
            "mtu": link.mtu,
            "driver": _driver(root, link.name),
            "speed": _speed(root, link.name),
            "booted_from": boot_mac != "" and link.mac == boot_mac,
        }
        for link in links
        if link.kind == ""
    ]


def _speed(root: Path, name: str) -> int | None:
    speed = sysfs.read_int(root, f"/sys/class/net/{name}/speed")
    return speed if speed is not None and speed > 0 else None  # -1: the driver does not know


def _driver(root: Path, name: str) -> str | None:
    try:
        return (root / f"sys/class/net/{name}/device/driver").resolve(strict=True).name
    except OSError:
        return None


def addresses(links: list[Link], configured: Mapping[int, str]) -> list[dict[str, Any]]:
    """Every hardware interface; ``configured`` is the address that we gave to the link of an index."""
    return [
        {
            "name": link.name,
            "mac": link.mac,
            "address": configured.get(link.index),
            "carrier": link.carrier,
        }
        for link in links
        if link.kind == ""
    ]


def status(root: Path, *, version: str, ramdisk: str, boot: str) -> dict[str, Any]:
    """The answer to ``status``, but for what the session and the composition know themselves."""
    return {
        "version": version,
        "ramdisk": ramdisk,
        "boot_id": boot,
        "uptime": round(time.monotonic(), 3),
        "time": time.time(),
        "memory": memory(root),
    }
