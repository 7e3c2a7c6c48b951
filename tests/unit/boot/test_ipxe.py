from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from teeth.boot.ipxe import (
    LOCAL_DISK,
    BootTarget,
    boot_script,
    command_line,
    first_hop,
    normal_mac,
    write_first_hop,
)
from teeth.errors import UsageError

DIGEST = "sha256:" + "ab" * 32
TOKEN = "A" * 32
TARGET = BootTarget(
    base_url="http://10.0.2.2:8080", endpoints=("10.0.2.2:9443", "[fe80::1]:9443"), ca_digest=DIGEST
)
# Each would add a kernel argument, an iPXE command or an expansion if it came through.
INJECTIONS = [
    "x y",
    "x\ny",
    "x\r\nshell",
    "x\ty",
    "${net0/mac}",
    "x||shell",
    "x&&shell",
    'x"y',
    "x'y",
    "x\\y",
    "x#y",
    "x;y",
    "x\x00y",
    "x\u00a0y",
    "",
    "x" * 600,
]


def test_the_script_carries_the_boot_contract() -> None:
    script = boot_script(TARGET, token=TOKEN, mac="52:54:00:AA:BB:CC")
    assert script.startswith("#!ipxe\n")
    kernel = next(line for line in script.splitlines() if line.startswith("kernel "))
    words = kernel.split()
    assert words[1] == "http://10.0.2.2:8080/boot/files/vmlinuz"
    assert "initrd=initramfs" in words
    assert "console=ttyS0" in words
    assert "teeth.endpoint=10.0.2.2:9443,[fe80::1]:9443" in words
    assert f"teeth.ca={DIGEST}" in words
    assert f"teeth.token={TOKEN}" in words
    assert "BOOTIF=01-52-54-00-aa-bb-cc" in words
    assert "initrd --name initramfs http://10.0.2.2:8080/boot/files/initramfs" in script
    assert "\nboot" in script


def test_without_a_known_mac_ipxe_fills_in_the_interface_it_booted_from() -> None:
    assert "BOOTIF=01-${netX/mac:hexhyp}" in command_line(TARGET, token=TOKEN, mac=None)


@pytest.mark.parametrize("value", INJECTIONS)
@pytest.mark.parametrize("place", ["endpoints", "ca_digest", "base_url", "arguments", "token", "mac"])
def test_nothing_but_a_value_gets_into_a_script(place: str, value: str) -> None:
    target, token, mac = TARGET, TOKEN, "52:54:00:aa:bb:cc"
    if place == "token":
        token = value
    elif place == "mac":
        mac = value
    else:
        plural = place in ("endpoints", "arguments")
        good = {"endpoints": "10.0.2.2:1", "arguments": "quiet"}.get(place, "")
        target = dataclasses.replace(target, **{place: (good, value) if plural else value})
    with pytest.raises(UsageError):
        boot_script(target, token=token, mac=mac)


def test_a_refused_token_is_not_quoted() -> None:
    with pytest.raises(UsageError) as caught:
        command_line(TARGET, token="hunter2 hunter2", mac=None)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("argument", ["teeth.token=x", "BOOTIF=01-00-00-00-00-00-00", "teeth.ca", "initrd=x"])
def test_the_grants_own_arguments_cannot_be_given_twice(argument: str) -> None:
    with pytest.raises(UsageError, match="set by the boot grant"):
        command_line(dataclasses.replace(TARGET, arguments=(argument,)), token=TOKEN, mac=None)


@pytest.mark.parametrize("given", ["52:54:00:AA:BB:CC", "52-54-00-aa-bb-cc", " 52:54:00:aa:bb:cc "])
def test_macs_have_one_spelling(given: str) -> None:
    assert normal_mac(given) == "52:54:00:aa:bb:cc"


def test_the_local_disk_script_boots_nothing() -> None:
    commands = {line.split()[0] for line in LOCAL_DISK.splitlines()[1:]}
    assert commands == {"echo", "exit"}


def test_first_hop_asks_the_boot_door_and_falls_back_to_the_disk(tmp_path: Path) -> None:
    path = write_first_hop(tmp_path / "tftp", "http://10.0.2.2:8080")
    script = path.read_text()
    assert script == first_hop("http://10.0.2.2:8080")
    assert "dhcp" in script
    assert "http://10.0.2.2:8080/boot/ipxe?mac=${netX/mac}&uuid=${uuid}" in script
    assert script.rstrip().endswith("exit")
