"""Several machines on a bridge in a namespace: addresses from its DHCP server, an endpoint to dial on it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lab.test_machines import ended
from teeth.lab.keep.control import ask
from teeth.lab.keep.handle import MachineHandle
from teeth.lab.keep.state import Kept
from teeth.lab.netns import exists
from teeth.lab.pytest_plugin import Lab

pytestmark = [
    pytest.mark.boot,
    pytest.mark.image,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
    pytest.mark.usefixtures("ramdisk"),
]

HOME = 300.0
NETWORK = '[networks.lan]\naddress = "10.77.0.1/24"\n'


def inside(network: Kept, *words: str) -> list[str]:
    return ["ip", "netns", "exec", str(network.facts["namespace"]), sys.executable, "-m", "teeth", *words]


@contextlib.contextmanager
def endpoint_on(network: Kept, data: Path) -> Iterator[None]:
    """A real endpoint that machines of the network reach at 10.77.0.1."""
    words = ["endpoint", "run", "--data", str(data), "--listen", "10.77.0.1:0"]
    with subprocess.Popen(inside(network, *words), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("listening agents=10.77.0.1:")
            yield
        finally:
            process.terminate()


def told(network: Kept, data: Path, *words: str) -> Any:
    done = subprocess.run(
        inside(network, "--data", str(data), *words, "--json"), check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def machine(network: Kept, data: Path, name: str, mac: str, nic: str = "") -> str:
    """TOML of a machine that may dial home once."""
    words = told(network, data, "grant", "create", mac, "--reveal")["kernel_command_line"]
    return f"""
[machines.{name}]
memory = "512 MiB"
display = false
boot = {{ from = "ramdisk", append = '{words}' }}
nic = [{{ network = "lan", mac = "{mac}"{nic} }}]
"""


def connected(network: Kept, data: Path) -> list[str]:
    nodes = told(network, data, "node", "list")
    return sorted(mac for node in nodes if node["connected"] for mac in node["macs"])


def wait_home(network: Kept, data: Path, machines: Sequence[MachineHandle], macs: Sequence[str]) -> None:
    for one in machines:
        one.wait_for("teeth: network eth0 10.77.0.", within=HOME)
        one.wait_for("teeth: connected", within=HOME)
    assert connected(network, data) == sorted(macs)


def when(one: MachineHandle, text: str) -> float:
    """Seconds from the machine's start to the first line with this text."""
    lines = one.console_log.read_text().splitlines()
    return next(float(line.split()[0]) for line in lines if text in line)


def test_two_machines_dial_an_endpoint_on_their_network(lab: Lab, tmp_path: Path) -> None:
    """One of them by a port that forwards nothing for 20 s and then loses every twentieth frame."""
    lab.up(NETWORK)
    network = lab.network("lan")
    macs = ["52:54:00:00:77:01", "52:54:00:00:77:02"]
    with endpoint_on(network, tmp_path):
        bad = ', forwarding_delay = "20 s", loss = 5'
        text = machine(network, tmp_path, "one", macs[0]) + machine(network, tmp_path, "two", macs[1], bad)
        machines = lab.up(NETWORK + text)
        wait_home(network, tmp_path, list(machines.values()), macs)
        # Its port was held back for 20 s from its first frame on, which its agent had it send.
        assert when(machines["two"], "teeth: network") - when(machines["two"], "teeth: agent") >= 20
        leases = network.ask({"do": "status"})["leases_by_mac"]
        assert sorted(leases) == macs
        assert len(set(leases.values())) == 2

        # Cut off, it is missed; whole again, it comes back by itself.
        machines["one"].fault("partition")
        machines["two"].wait_for(lambda: connected(network, tmp_path) == macs[1:], within=HOME)
        machines["one"].fault("partition", off=True)
        machines["two"].wait_for(lambda: connected(network, tmp_path) == macs, within=HOME)


def test_a_vlan_is_reached_by_its_access_ports_alone(lab: Lab, tmp_path: Path) -> None:
    tagged = NETWORK + "vlan = 10\n"
    lab.up(tagged)
    network = lab.network("lan")
    macs = ["52:54:00:00:77:03", "52:54:00:00:77:04"]
    with endpoint_on(network, tmp_path):
        text = machine(network, tmp_path, "access", macs[0], ", vlan = 10")
        text += machine(network, tmp_path, "trunk", macs[1])
        machines = lab.up(tagged + text)
        wait_home(network, tmp_path, [machines["access"]], macs[:1])
        machines["trunk"].wait_for("teeth: problem no_dhcp", within=HOME)
        assert sorted(network.ask({"do": "status"})["leases_by_mac"]) == macs[:1]


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_a_machine_boots_from_what_its_network_offers(
    lab: Lab, ramdisk: Path, tmp_path: Path, firmware: str
) -> None:
    for name in ("vmlinuz", "initramfs"):
        (tmp_path / name).symlink_to(ramdisk / name)
    (tmp_path / "boot.ipxe").write_text(
        "#!ipxe\nkernel vmlinuz initrd=initramfs console=ttyS0 quiet\ninitrd initramfs\nboot\n"
    )
    one = lab.machine(
        f"""
{NETWORK}
tftp = "{tmp_path}"
[machines.one]
firmware = "{firmware}"
memory = "512 MiB"
boot.from = "network"
nic = [{{ network = "lan" }}]
"""
    )
    one.wait_for("Filename: boot.ipxe", within=HOME)
    one.wait_for("this machine has booted the teeth ramdisk", within=HOME)


def test_a_management_controllers_interface_is_not_where_home_is(lab: Lab, debug: str) -> None:
    """It comes first, has a carrier and a DHCP server, and leads nowhere; nobody says which card is right."""
    one = lab.machine(
        NETWORK
        + """
[networks.bmc]
address = "169.254.3.1/24"
[machines.one]
memory = "512 MiB"
boot = { from = "ramdisk", ramdisk = "debug", append = "BOOTIF=" }
[[machines.one.nic]]
network = "bmc"
model = "usb-net"
mac = "02:00:00:00:00:01"
[[machines.one.nic]]
network = "lan"
[machines.one.ssh]
nic = 1
"""
    )
    assert " 10.77.0." in one.wait_for("teeth: network ", within=HOME)
    one.wait_for(lambda: "link/ether 02:00:00:00:00:01" in one.succeed("ip link"), within=HOME)


def test_a_network_ends_without_a_trace_however_it_ends(lab: Lab) -> None:
    lab.up(NETWORK)
    network = lab.network("lan")
    namespace = str(network.facts["namespace"])
    assert exists(namespace)
    keeper = os.pidfd_open(network.keeper.pid)
    os.kill(network.keeper.pid, signal.SIGKILL)
    ended(keeper)
    assert exists(namespace)  # a killed keeper cannot clear away; the next one does
    lab.up('[networks.other]\naddress = "10.78.0.1/24"')
    assert not exists(namespace)
    lab.up(NETWORK)
    again = lab.network("lan")
    assert again.alive
    assert exists(namespace)
    lab.down()
    assert not again.alive
    assert not exists(namespace)
    with pytest.raises(Exception, match="nobody answers"):
        ask(network.folder / "control", {"do": "status"}, within=5)
