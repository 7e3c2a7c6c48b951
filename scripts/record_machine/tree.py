"""The pieces of /sys and /proc, and udev's records of the devices in them."""

from __future__ import annotations

import os
import re
from typing import Iterable, List

from record_machine.found import DEVICES_MOST, FILE_MOST, Json, Recording, bytes_of, names, text_of, tool

BLOCK = (
    "size", "ro", "removable", "dev", "diskseq", "hidden", "partition", "start", "nsid", "wwid", "uuid",
    "nguid", "eui", "serial",
)  # fmt: skip
QUEUE = (
    "logical_block_size", "physical_block_size", "rotational", "zoned", "nr_zones", "discard_granularity",
    "discard_max_bytes", "write_zeroes_max_bytes", "write_cache", "fua", "max_hw_sectors_kb",
    "minimum_io_size", "optimal_io_size",
)  # fmt: skip
DEVICE = (
    "vendor", "model", "rev", "type", "firmware_rev", "serial", "wwid", "state", "transport", "cntlid",
    "subsysnqn", "address", "name", "cid", "csd", "manfid", "oemid", "sas_address", "queue_depth",
    "ncq_prio_supported", "scsi_level", "proc_name", "model_name", "numa_node",
)  # fmt: skip
PCI = (
    "class", "vendor", "device", "subsystem_vendor", "subsystem_device", "revision", "current_link_speed",
    "current_link_width",
)  # fmt: skip
NET = (
    "address", "addr_len", "carrier", "operstate", "speed", "mtu", "type", "dev_id", "dev_port",
    "addr_assign_type",
)  # fmt: skip
PAGES = re.compile(r"^(vpd_pg[0-9a-f]+|inquiry)$")


def read_sysfs(one: Recording) -> None:
    """The pieces that tell what storage, cards and firmware there are."""
    _blocks(one)
    for kind in ("nvme", "nvme-subsystem"):
        for name in listed(one, f"/sys/class/{kind}"):
            _nvme(one, linked(one, f"/sys/class/{kind}/{name}"))
    for kind in ("scsi_host", "sas_device", "sas_phy"):
        for name in listed(one, f"/sys/class/{kind}"):
            take(one, linked(one, f"/sys/class/{kind}/{name}"), DEVICE)
    for name in listed(one, "/sys/class/scsi_generic"):
        device(one, linked(one, linked(one, f"/sys/class/scsi_generic/{name}") + "/device"))
    for name in listed(one, "/sys/bus/pci/devices"):
        real = linked(one, f"/sys/bus/pci/devices/{name}")
        take(one, real, PCI)
        driver(one, real)
    for name in listed(one, "/sys/class/net"):
        if os.path.exists(f"/sys/class/net/{name}/device"):
            real = linked(one, f"/sys/class/net/{name}")
            take(one, real, NET)
            driver(one, linked(one, f"{real}/device"))
    take(one, "/sys/class/dmi/id", names("/sys/class/dmi/id"))
    if os.path.isdir("/sys/firmware/efi"):
        one.files["/sys/firmware/efi/fw_platform_size"] = (
            text_of("/sys/firmware/efi/fw_platform_size", FILE_MOST) or ""
        )


def _blocks(one: Recording) -> None:
    for name in listed(one, "/sys/class/block"):
        real = linked(one, f"/sys/class/block/{name}")
        take(one, real, BLOCK)
        for folder in ("holders", "slaves"):
            one.files.update({f"{real}/{folder}/{other}": "" for other in names(f"{real}/{folder}")})
        if re.match(r"(loop|ram)\d", name) and text_of(f"{real}/size", FILE_MOST) == "0":
            continue  # there are many, and nothing is in them
        take(one, f"{real}/queue", QUEUE)
        take(one, f"{real}/dm", ["name", "uuid"])
        take(one, f"{real}/md", ["level", "metadata_version"])
        if os.path.islink(f"{real}/device"):
            device(one, linked(one, f"{real}/device"))


def _nvme(one: Recording, real: str) -> None:
    """A controller or a subsystem, with the names of what hangs below."""
    device(one, real)
    for name in names(real):
        path = f"{real}/{name}"
        if re.match(r"nvme\d", name) and os.path.islink(path):
            linked(one, path)
        elif re.match(r"nvme\d", name):
            take(one, path, BLOCK)


def device(one: Recording, real: str) -> None:
    """A device that a block device or a controller is: its attributes, pages and driver."""
    take(one, real, DEVICE)
    driver(one, real)
    for name in names(real):
        if PAGES.match(name):
            data = bytes_of(f"{real}/{name}", FILE_MOST)
            if data:
                one.blobs[f"{real}/{name}"] = data.hex()


def driver(one: Recording, real: str) -> None:
    for name in ("driver", "subsystem"):
        if os.path.islink(f"{real}/{name}"):
            one.links[f"{real}/{name}"] = os.readlink(f"{real}/{name}")


def linked(one: Recording, path: str) -> str:
    """Record the link at ``path``; where it leads."""
    if os.path.islink(path):
        one.links[path] = os.readlink(path)
    return os.path.realpath(path)


def take(one: Recording, folder: str, wanted: Iterable[str]) -> None:
    for name in wanted:
        path = f"{folder}/{name}"
        if os.path.isfile(path):
            text = text_of(path, FILE_MOST)
            if text is not None:
                one.files[path] = text


def listed(one: Recording, folder: str) -> List[str]:
    found = names(folder)
    if len(found) > DEVICES_MOST:
        one.cut.append(f"{folder}: {DEVICES_MOST} of {len(found)}")
    return found[:DEVICES_MOST]


def read_proc(one: Recording) -> None:
    for name, most in (("self/mountinfo", 1 << 20), ("swaps", 1 << 16), ("meminfo", 1 << 16)):
        text = text_of(f"/proc/{name}", most)
        if text is None:
            one.lacks(f"/proc/{name}")
        else:
            one.files[f"/proc/{name}"] = text
    text = text_of("/proc/cpuinfo", 16 << 20) or ""
    first, *others = [block for block in text.split("\n\n") if block.strip()] or [""]
    # All of the first processor; of the others that they are there.
    numbers = [line for block in others for line in block.splitlines() if line.startswith("processor")]
    one.files["/proc/cpuinfo"] = "\n\n".join([first, *numbers])


SUBSYSTEMS = ("block", "nvme", "nvme-subsystem", "scsi", "net", "pci", "mmc", "usb")


def read_udev(one: Recording) -> None:
    """Devices as udev knows them; without udevadm as the kernel's uevent files tell, not initialized."""
    text = tool(one, ["udevadm", "info", "--export-db"], 64 << 20)
    one.udev = parse_export(text) if text else from_uevents()
    if text and not any(entry["initialized"] for entry in one.udev):
        one.lacks("a udev database (no udev has run its rules here)")


def parse_export(text: str) -> List[Json]:
    """``udevadm info --export-db``: a paragraph a device; P: its path, N: its node, E: a property each."""
    found = []
    for paragraph in text.split("\n\n"):
        entry: Json = {"devpath": "", "properties": {}}
        for line in paragraph.splitlines():
            mark, _, rest = line.partition(": ")
            if mark == "P":
                entry["devpath"] = rest
            elif mark == "E":
                key, _, value = rest.partition("=")
                entry["properties"][key] = value
        if entry["properties"].get("SUBSYSTEM") in SUBSYSTEMS and entry["devpath"]:
            entry["initialized"] = "USEC_INITIALIZED" in entry["properties"]
            found.append(entry)
    return found


def from_uevents() -> List[Json]:
    found = []
    for kind in ("block", "nvme", "net"):
        for name in names(f"/sys/class/{kind}")[:DEVICES_MOST]:
            path = os.path.realpath(f"/sys/class/{kind}/{name}")
            lines = (text_of(f"{path}/uevent", FILE_MOST) or "").splitlines()
            properties = dict(line.split("=", 1) for line in lines if "=" in line)
            properties["SUBSYSTEM"] = kind
            if "DEVNAME" in properties:
                properties["DEVNAME"] = "/dev/" + properties["DEVNAME"]
            found.append({"devpath": path[len("/sys") :], "properties": properties, "initialized": False})
    return found
