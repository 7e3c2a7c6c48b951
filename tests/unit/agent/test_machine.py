"""What the machine is, read from a made-up /sys and /proc."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from teeth_agent.inventory import machine
from teeth_agent.netlink import Link


def put(root: Path, path: str, text: str) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def link(**change: Any) -> Link:
    facts: dict[str, Any] = {
        "index": 2, "name": "eth0", "mac": "52:54:00:00:00:01", "up": True, "carrier": True, "kind": "",
        "mtu": 1500,
    }  # fmt: skip
    return Link(**{**facts, **change})


@pytest.mark.parametrize(
    ("uuid", "node"),
    [
        ("4C4C4544-0042-3510-8052-B4C04F4E3532\n", "4c4c4544-0042-3510-8052-b4c04f4e3532"),
        ("00000000-0000-0000-0000-000000000000", "mac-525400000001"),
        ("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "mac-525400000001"),
        ("03000200-0400-0500-0006-000700080009", "mac-525400000001"),
        ("Not Settable", "mac-525400000001"),
        ("", "mac-525400000001"),
    ],
)
def test_the_node_is_named_by_its_uuid_unless_a_placeholder_stands_there(
    tmp_path: Path, uuid: str, node: str
) -> None:
    put(tmp_path, "/sys/class/dmi/id/product_uuid", uuid)
    assert machine.node_id(tmp_path, ["52:54:00:00:00:01", "52:54:00:00:00:02"]) == node


def test_a_machine_without_anything(tmp_path: Path) -> None:
    assert machine.node_id(tmp_path, []) == "unknown"
    assert machine.boot_id(tmp_path) == "unknown"
    assert machine.memory(tmp_path) == {"total": 0, "available": 0}
    assert machine.processor(tmp_path) == {"model": None, "count": 0, "flags": []}
    assert machine.firmware(tmp_path)["boot_mode"] == "bios"
    assert machine.interfaces(tmp_path, [], "") == []


def test_firmware(tmp_path: Path) -> None:
    put(tmp_path, "/sys/class/dmi/id/sys_vendor", "QEMU\n")
    (tmp_path / "sys/firmware/efi").mkdir(parents=True)
    facts = machine.firmware(tmp_path)
    assert (facts["sys_vendor"], facts["product_serial"], facts["boot_mode"]) == ("QEMU", None, "uefi")


def test_processor_and_memory(tmp_path: Path) -> None:
    one = "processor\t: {}\nmodel name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu sse2 aes\n\n"
    put(tmp_path, "/proc/cpuinfo", one.format(0) + one.format(1))
    put(
        tmp_path,
        "/proc/meminfo",
        "MemTotal:   2048 kB\nMemFree: 9 kB\nMemAvailable: 1024 kB\nHugePages: 1\n",
    )
    assert machine.processor(tmp_path) == {
        "model": "Some CPU @ 2.00GHz", "count": 2, "flags": ["fpu", "sse2", "aes"],
    }  # fmt: skip
    assert machine.memory(tmp_path) == {"total": 2048 * 1024, "available": 1024 * 1024}
    status = machine.status(tmp_path, version="1", ramdisk="r", boot="b")
    assert (status["version"], status["ramdisk"], status["boot_id"]) == ("1", "r", "b")
    assert status["uptime"] > 0
    assert status["memory"]["total"] == 2048 * 1024


def test_addresses_are_those_that_were_given_to_hardware() -> None:
    links = [link(), link(index=3, name="br0", kind="bridge"), link(index=4, name="eth1", carrier=False)]
    assert machine.addresses(links, {2: "10.0.2.15", 3: "10.0.9.9"}) == [
        {"name": "eth0", "mac": "52:54:00:00:00:01", "address": "10.0.2.15", "carrier": True},
        {"name": "eth1", "mac": "52:54:00:00:00:01", "address": None, "carrier": False},
    ]


def test_a_uuid_is_told_only_where_there_is_one(tmp_path: Path) -> None:
    assert machine.system_uuid(tmp_path) is None
    put(tmp_path, "/sys/class/dmi/id/product_uuid", "4C4C4544-0042-3510-8052-B4C04F4E3532\n")
    assert machine.system_uuid(tmp_path) == "4c4c4544-0042-3510-8052-b4c04f4e3532"
    put(tmp_path, "/sys/class/dmi/id/product_uuid", "03000200-0400-0500-0006-000700080009")
    assert machine.system_uuid(tmp_path) is None


@pytest.mark.parametrize(("speed", "wanted"), [("10000", 10000), ("-1", None), ("0", None), ("", None)])
def test_interfaces(tmp_path: Path, speed: str, wanted: int | None) -> None:
    put(tmp_path, "/sys/class/net/eth0/speed", speed)
    driver = tmp_path / "sys/bus/pci/drivers/e1000e"
    driver.mkdir(parents=True)
    (tmp_path / "sys/class/net/eth0/device").mkdir(parents=True)
    (tmp_path / "sys/class/net/eth0/device/driver").symlink_to(driver)
    links = [link(), link(name="br0", kind="bridge"), link(name="eth1", mac="", carrier=False)]
    assert machine.interfaces(tmp_path, links, "52:54:00:00:00:01") == [
        {"name": "eth0", "mac": "52:54:00:00:00:01", "carrier": True, "mtu": 1500, "driver": "e1000e",
         "speed": wanted, "booted_from": True},
        {"name": "eth1", "mac": "", "carrier": False, "mtu": 1500, "driver": None, "speed": None,
         "booted_from": False},
    ]  # fmt: skip
    assert [x["booted_from"] for x in machine.interfaces(tmp_path, links, "")] == [False, False]
