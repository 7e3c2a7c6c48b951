"""Taking machines up: what is refused before anything is started, and the files that are made."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from teeth.errors import TeethError, UsageError
from teeth.lab.accel import accelerator
from teeth.lab.bridge import dnsmasq_arguments
from teeth.lab.describe import Places, parse
from teeth.lab.description import BridgeDescription
from teeth.lab.host import require_memory
from teeth.lab.keep.ssh import KEY, KNOWN_HOSTS, LAYER, Way, dial_command, make_keys, with_layer, write_config
from teeth.lab.keep.state import LabFolder
from teeth.lab.keep.up import up

from .test_keeping import kept

TCG = accelerator("tcg", "test")


def start(tmp_path: Path, document: dict[str, Any]) -> None:
    places = Places(file=tmp_path / "lab.toml", state=tmp_path / "state", build=tmp_path / "build")
    up(parse(document, places), document, places, TCG)


def nothing_is_left(tmp_path: Path) -> bool:
    return LabFolder(root=tmp_path / "state").kept() == []


def test_a_ramdisk_that_is_not_built_is_named_with_the_command_that_builds_it(tmp_path: Path) -> None:
    boot = {"from": "ramdisk", "ramdisk": "debug"}
    with pytest.raises(TeethError, match=r"ramdisk-debug is not built \(teeth image build ramdisk-debug\)$"):
        start(tmp_path, {"machines": {"a": {"boot": boot}}})
    assert nothing_is_left(tmp_path)


def test_a_kernel_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TeethError, match=f"machine a: there is no file {tmp_path}/vmlinuz"):
        start(tmp_path, {"machines": {"a": {"boot": {"from": "kernel", "kernel": "vmlinuz"}}}})


def test_more_memory_than_there_is(tmp_path: Path) -> None:
    (tmp_path / "k").touch()
    machine = {"memory": "900 TiB", "boot": {"from": "kernel", "kernel": "k"}}
    with pytest.raises(TeethError, match=r"^memory is short: 1 machine needs \d+ MiB"):
        start(tmp_path, {"machines": {"a": machine}})
    assert nothing_is_left(tmp_path)


def test_memory_is_counted_with_what_comes_on_top() -> None:
    require_memory([512, 512], (2 * (512 + 160) + 512) << 20)
    with pytest.raises(TeethError, match="memory is short: 2 machines need 1856 MiB"):
        require_memory([512, 512], ((2 * (512 + 160) + 512) << 20) - 1)


def test_a_machine_that_is_up_is_not_started_again(tmp_path: Path) -> None:
    kept(tmp_path / "state", "machine", "a")
    with pytest.raises(UsageError, match=r"^machine a is up already \(its keeper is process \d+\)"):
        start(tmp_path, {"machines": {"a": {"boot": {"from": "kernel", "kernel": "k"}}}})


def test_a_network_needs_root_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(
        UsageError, match=r"^a netns network needs root \(run it as root, or use the network user"
    ):
        start(tmp_path, {"networks": {"lan": {}}})
    assert nothing_is_left(tmp_path)


def test_a_disk_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "k").touch()
    machine = {
        "memory": "64 MiB", "boot": {"from": "kernel", "kernel": "k"},
        "disk": [{"size": "1 MiB"}, {"file": "/proc/nowhere", "size": "1 MiB"}],
    }  # fmt: skip
    with pytest.raises(
        TeethError, match=r"^disk file /proc/nowhere cannot be made: No such file or directory$"
    ):
        start(tmp_path, {"machines": {"a": machine}})
    assert list((tmp_path / "state/a").iterdir()) == []


def test_the_dhcp_servers_arguments() -> None:
    network = BridgeDescription(
        name="lan", address=IPv4Interface("10.0.0.1/24"),
        dhcp=(IPv4Address("10.0.0.5"), IPv4Address("10.0.0.9")),
        lease=600, vlan=None, tftp=Path("/t"), bootfile="boot.ipxe",
    )  # fmt: skip
    words = dnsmasq_arguments(network, "br0", Path("/leases"))
    assert {
        "--dhcp-range=10.0.0.5,10.0.0.9,255.255.255.0,600", "--interface=br0", "--bind-interfaces",
        "--dhcp-option=option:router,10.0.0.1", "--enable-tftp", "--tftp-root=/t", "--dhcp-boot=boot.ipxe",
        "--dhcp-leasefile=/leases", "--port=0", "--enable-ra",
    } <= set(words)  # fmt: skip
    words = dnsmasq_arguments(dataclasses.replace(network, tftp=None, dhcp=None), "br0", Path("/leases"))
    assert not [word for word in words if "tftp" in word or "range" in word or "enable-ra" in word]


# --- ssh


def members(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """A newc archive: mode and content by name."""
    data, found, at = gzip.decompress(archive), {}, 0
    while True:
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = data[at + 110 : at + 109 + fields[11]].decode()
        start = (at + 110 + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (fields[1], data[start : start + fields[6]])
        at = (start + fields[6] + 3) & ~3


def test_the_keys_fit_and_are_for_their_owner_alone(tmp_path: Path) -> None:
    make_keys(tmp_path)
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / LAYER).stat().st_mode & 0o777 == 0o600
    key = load_ssh_private_key((tmp_path / KEY).read_bytes(), None)
    inside = members((tmp_path / LAYER).read_bytes())
    assert {name: oct(mode) for name, (mode, _) in inside.items()} == {
        "root": "0o40700", "root/.ssh": "0o40700", "root/.ssh/authorized_keys": "0o100600",
        "etc": "0o40755", "etc/dropbear": "0o40700", "etc/dropbear/dropbear_ed25519_host_key": "0o100600",
    }  # fmt: skip
    assert load_ssh_public_key(inside["root/.ssh/authorized_keys"][1]) == key.public_key()
    host = load_ssh_public_key((tmp_path / KNOWN_HOSTS).read_bytes().removeprefix(b"* "))
    stored = inside["etc/dropbear/dropbear_ed25519_host_key"][1]
    assert stored[:15] == b"\0\0\0\x0bssh-ed25519"
    assert stored[-32:] == host.public_bytes_raw()  # type: ignore[union-attr]


def test_a_layer_begins_where_the_kernel_looks_for_it(tmp_path: Path) -> None:
    make_keys(tmp_path)
    (tmp_path / "base").write_bytes(b"base!")
    made = with_layer(tmp_path / "base", tmp_path).read_bytes()
    assert made == b"base!\0\0\0" + (tmp_path / LAYER).read_bytes()
    assert len((tmp_path / LAYER).read_bytes()) % 4 == 0


def test_sshs_configuration(tmp_path: Path) -> None:
    way = Way(user="root", host="web", port=22, proxy=dial_command("teeth-lan", tmp_path / "a%b", "52:54"))
    lines = [line.strip() for line in write_config(tmp_path, "web", way, None).read_text().splitlines()]
    assert lines[0] == "Host web"
    assert "StrictHostKeyChecking yes" in lines
    assert any(line.startswith("ProxyCommand ") and "a%%b 52:54 22" in line for line in lines)
    other = write_config(tmp_path, "web", Way(user="u", host="h", port=1), Path("/key")).read_text()
    assert "StrictHostKeyChecking no" in other
    assert 'IdentityFile "/key"' in other
    json.dumps(lines)
