"""Machines and networks in a few lines of TOML, read into what the lab runs.

    [machines.web]
    firmware = "uefi"
    memory = "1 GiB"
    boot = { from = "ramdisk", ramdisk = "debug" }
    nic = [{ network = "lan" }]
    disk = [{ bus = "nvme", size = "8 GiB" }]

    [networks.lan]
    kind = "netns"

docs/lab.md lists every key. Each mistake is told in a line of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any
from uuid import UUID

from teeth.errors import UsageError
from teeth.lab.description import (
    NETWORKS,
    BridgeDescription,
    Description,
    MachineDescription,
    SshDescription,
)
from teeth.lab.disk import VirtualDisk
from teeth.lab.drives.spec import ServeSpec, SpecError
from teeth.lab.drives.spec import parse as parse_drives
from teeth.lab.firmware import Firmware
from teeth.lab.machine import DirectBoot, DiskBoot, Machine, NetworkBoot
from teeth.lab.network import HOST_ADDRESS, Bridged, Network, Nic
from teeth.lab.simulated import simulated_arguments
from teeth.lab.tabledisks import read_disks
from teeth.lab.tablenics import read_nics
from teeth.lab.tables import DescriptionError, Table, read_toml

_MIB = 1 << 20
_FROM = ("ramdisk", "kernel", "network", "disk")
# What the endpoint puts on the command line too: a serial console, and the kernel's notices but no more.
_CONSOLE = "console=tty0 console=ttyS0,115200 loglevel=6"
# tcpmux, which nobody listens on: the agent brings the network up and dials in vain.
_NOWHERE = f":1 teeth.ca=sha256:{0:064x} teeth.token=none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """``file``: where the description came from, for messages and for paths that are relative to it.
    ``state``: the folder with a folder for each machine. ``build``: where ramdisks lie. ``cpus``: how many
    processors a machine has that does not say."""

    file: Path
    state: Path
    build: Path
    cpus: int = 2

    def ramdisk(self, name: str) -> Path:
        """The folder of a built ramdisk: "ramdisk" or "debug", "ramdisk-debug"."""
        return self.build / (name if name.startswith("ramdisk") else f"ramdisk-{name}")

    def find(self, text: str) -> Path:
        return self.file.parent / Path(text).expanduser()


def load(places: Places) -> Description:
    """Read the file. Raises DescriptionError, which tells every mistake, or UsageError."""
    return parse(read_toml(places.file), places)


def parse(document: Mapping[str, Any], places: Places) -> Description:
    """What a document says, checked; see load."""
    mistakes: list[str] = []
    top = Table(document, "", str(places.file), mistakes)
    bridges = top.named("networks")
    networks = [_bridge(name, table, places) for name, table in bridges.items()]
    machines = [
        _machine(name, table, places, list(bridges), document)
        for name, table in top.named("machines").items()
    ]
    top.leftovers()
    if not bridges and not machines and not mistakes:
        top.mistake("it describes nothing: neither [machines.NAME] nor [networks.NAME]")
    found = [machine for machine in machines if machine is not None]
    _twice(found, top)
    if mistakes:
        raise DescriptionError(mistakes)
    return Description(machines=tuple(found), networks=tuple(one for one in networks if one is not None))


def bridge_namespace(name: str, state: Path) -> str:
    """The network namespace of a bridge: two folders of machines never share one."""
    return f"teeth-{name}-{hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:6]}"


def _machine(
    name: str, table: Table, places: Places, bridges: Sequence[str], document: Mapping[str, Any]
) -> MachineDescription | None:
    before = len(table.mistakes)
    nics = read_nics(table, name, bridges, lambda bridge: bridge_namespace(bridge, places.state))
    disks, made = read_disks(table, name, places.state / name / "disks", places.find)
    drives, urls = _drives(table, places, name, nics)
    ramdisk, boot = _boot(table.table("boot"), places, nics, disks)
    ssh = _ssh(table, nics, places, default=ramdisk == "debug")
    if ssh is not None and nics[ssh.nic].network is Network.USER:
        nics[ssh.nic] = _forwarded(nics[ssh.nic], ssh.port)
    parts: dict[str, Any] = {
        "name": name,
        "boot": boot,
        "firmware": table.one_of("firmware", Firmware, Firmware.BIOS),
        "cpus": table.number("cpus", places.cpus),
        "memory": (table.size("memory") or 1024 * _MIB) // _MIB,
        "restart": True,
        "display": table.switch("display", True),
        "balloon": table.switch("balloon", True),
        "rtc": _clock(table),
        "nics": tuple(nics),
        "disks": tuple(disks),
        "extra": tuple(table.texts("qemu")),
        **_smbios(table.table("smbios")),
    }
    table.leftovers()
    if len(table.mistakes) > before:
        return None
    try:
        simulated_arguments(urls)
        machine = Machine(**parts)
    except UsageError as error:
        table.mistake(error.message.removeprefix(f"machine {name}: "))
        return None
    used = [nic for nic in bridges if any(_on(one, nic, places) for one in nics)]
    return MachineDescription(
        machine=machine, ssh=ssh, made=made, networks=tuple(used), drives=drives, urls=tuple(urls),
        source=_source(name, used, document),
    )  # fmt: skip


def _on(nic: Nic, bridge: str, places: Places) -> bool:
    return isinstance(nic.network, Bridged) and nic.network.namespace == bridge_namespace(
        bridge, places.state
    )


def _source(name: str, bridges: Sequence[str], document: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the document that is this machine's."""
    networks = document.get("networks", {})
    return {
        "machines": {name: document["machines"][name]},
        **({"networks": {bridge: networks[bridge] for bridge in bridges}} if bridges else {}),
    }


def _forwarded(nic: Nic, port: int) -> Nic:
    return Nic(
        mac=nic.mac, model=nic.model, network=nic.network, rom=nic.rom, link=nic.link,
        forwards=((port, 22), *nic.forwards),
    )  # fmt: skip


def _smbios(table: Table) -> dict[str, Any]:
    names = ("manufacturer", "product", "serial", "asset")
    found: dict[str, Any] = {name: table.text(name) for name in names if table.has(name)}
    if table.has("uuid"):
        text = table.text("uuid")
        try:
            found["uuid"] = UUID(text)
        except ValueError:
            table.mistake(f"uuid = {text!r} is not a UUID")
    for name, value in found.items():
        if isinstance(value, str) and not value.isprintable():
            table.mistake(f"{name} = {value!r} is not printable")
    table.leftovers()
    return found


def _clock(table: Table) -> datetime | None:
    """A TOML time (or the text of one, when it came through JSON), in UTC unless it says otherwise."""
    if not table.has("rtc"):
        return None
    value = table.raw_value("rtc")
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, datetime):
        table.mistake("rtc is not a date and time such as 2038-01-19T03:14:00")
        return None
    return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value


def _boot(
    table: Table, places: Places, nics: Sequence[Nic], disks: Sequence[VirtualDisk]
) -> tuple[str, DirectBoot | NetworkBoot | DiskBoot]:
    """The name of a ramdisk of ours, if it is one, and how the machine starts."""
    default = "disk" if any(disk.boot for disk in disks) else "ramdisk"
    kind = table.choice("from", _FROM, default)
    name, boot = "", DiskBoot()
    if kind == "ramdisk":
        name = table.text("ramdisk", "ramdisk")
        folder = places.ramdisk(name)
        words = f"{_CONSOLE} {_home(table.text('append'), nics)}"
        made = DirectBoot(kernel=folder / "vmlinuz", initrd=folder / "initramfs", cmdline=words.strip())
        table.leftovers()
        return name.removeprefix("ramdisk-"), made
    if kind == "kernel":
        kernel, initramfs = table.text("kernel"), table.text("initramfs")
        if not kernel:
            table.mistake('no kernel, and from = "kernel"')
        made = DirectBoot(
            kernel=places.find(kernel),
            initrd=places.find(initramfs) if initramfs else None,
            cmdline=table.text("append", "console=ttyS0"),
        )
        table.leftovers()
        return "", made
    if kind == "network":
        tftp = table.text("tftp")
        if not tftp and any(nic.network is Network.USER for nic in nics[:1]):
            table.mistake("no tftp: QEMU's own network needs a folder with an iPXE script, boot.ipxe")
        offered = NetworkBoot(
            tftp=places.find(tftp) if tftp else None, bootfile=table.text("bootfile", "boot.ipxe")
        )
        table.leftovers()
        return "", offered
    table.leftovers()
    if not any(disk.boot for disk in disks):
        table.mistake('from = "disk", and no disk has boot = true')
    return name, boot


def _home(append: str, nics: Sequence[Nic]) -> str:
    """The command line's end: where to dial, unless it says so itself."""
    words = append.split()
    if nics and not any(word.startswith("BOOTIF=") for word in words):
        words.append(f"BOOTIF={nics[0].bootif}")
    if not any(word.startswith("teeth.endpoint=") for word in words):
        words.append(f"teeth.endpoint={HOST_ADDRESS}{_NOWHERE}")
    return " ".join(words)


def _ssh(table: Table, nics: Sequence[Nic], places: Places, *, default: bool) -> SshDescription | None:
    if not table.has("ssh") and not (default and nics):
        return None
    inner = table.table("ssh")
    key = inner.text("key")
    port = inner.number("port", 0)
    user = inner.text("user", "root")
    chosen = inner.number("nic", 0) if inner.has("nic") else None
    inner.leftovers()
    if not 0 <= port <= 65535:
        inner.mistake(f"port = {port} is not a port")
    if not key and not default:
        inner.mistake("no key: only the debug ramdisk is given one that is made for it")
    reached = _reached(nics, chosen)
    if reached is None:
        inner.mistake("there is no card by which ssh could reach it")
        return None
    return SshDescription(user=user, port=port, key=places.find(key) if key else None, nic=reached)


def _reached(nics: Sequence[Nic], chosen: int | None) -> int | None:
    """The card by which ssh comes: the one that is named, else the first on QEMU's own network, else the
    first on a bridge; None where there is no such card."""
    ways = [n for n, nic in enumerate(nics) if nic.network is Network.USER]
    ways += [n for n, nic in enumerate(nics) if isinstance(nic.network, Bridged)]
    if chosen is not None:
        return chosen if chosen in ways else None
    return ways[0] if ways else None


def _drives(
    table: Table, places: Places, name: str, nics: Sequence[Nic]
) -> tuple[ServeSpec | None, list[str]]:
    """[[drive]]: simulated drives that come with the machine, and the addresses of others'."""
    own, urls = [], []
    for entry in table.tables("drive"):
        if entry.has("url"):
            urls.append(entry.text("url"))
            entry.leftovers()
        else:
            own.append(entry.raw())
    if not own:
        return None, urls
    control = places.state.resolve() / name / "drives.control"
    served = {
        "listen": "127.0.0.1:0", "nvme_advertise": HOST_ADDRESS, "control": str(control), "drive": own,
    }  # fmt: skip
    try:
        spec = parse_drives(served, places.file)
    except SpecError as error:
        for line in error.lines:
            table.mistake(line.removeprefix(f"{places.file}: "))
        return None, urls
    reached = any(nic.network is Network.USER for nic in nics)
    for drive in spec.drives:
        if drive.kind == "nvme" and not reached:
            table.mistake(f"drive {drive.spec.name}: NVMe needs a card on QEMU's own network")
    return spec, urls


def _bridge(name: str, table: Table, places: Places) -> BridgeDescription | None:
    before = len(table.mistakes)
    table.choice("kind", ("netns",), "netns")
    # By the name alone: who reads a part of the file must find the same.
    number = hashlib.sha256(name.encode()).digest()[0]
    text = table.text("address", f"10.77.{number}.1/24")
    tftp, bootfile = table.text("tftp"), table.text("bootfile", "boot.ipxe")
    vlan = table.number("vlan", 0) if table.has("vlan") else None
    if vlan is not None and not 1 <= vlan <= 4094:
        table.mistake(f"vlan = {vlan} is not 1 to 4094")
    if name in NETWORKS or not name.replace("-", "").isalnum() or len(name) > 32:
        table.mistake(f"{name!r} is no name for a network{' of its own' if name in NETWORKS else ''}")
    lease = int(table.seconds("lease", 3600))
    try:
        address = IPv4Interface(text)
        dhcp = _range(table, address)
    except ValueError as error:
        table.mistake(f"address = {text!r}: {error}")
        return None
    table.leftovers()
    if len(table.mistakes) > before:
        return None
    return BridgeDescription(
        name=name, address=address, dhcp=dhcp, lease=max(lease, 120), vlan=vlan,
        tftp=places.find(tftp).resolve() if tftp else None, bootfile=bootfile,
    )  # fmt: skip


def _range(table: Table, address: IPv4Interface) -> tuple[IPv4Address, IPv4Address] | None:
    """The addresses that DHCP gives out: half of the network unless said, none with dhcp = false."""
    if table.has("dhcp") and table.raw_value("dhcp") is False:
        return None
    network = address.network
    if network.num_addresses < 8:
        table.mistake(f"address = {str(address)!r} leaves no room for machines: /29 at least")
        return None
    half = network.num_addresses // 2
    texts = table.texts("dhcp") or [str(network[half]), str(network[-2])]
    try:
        first, last = (IPv4Address(text) for text in texts)
    except ValueError:
        table.mistake(f'dhcp = {texts} is not a first and a last address, ["10.0.0.10", "10.0.0.20"]')
        return None
    if first not in network or last not in network or first > last or first <= address.ip <= last:
        table.mistake(f"dhcp = {texts} does not lie in {network} beside the host's own address")
    return first, last


def _twice(machines: Sequence[MachineDescription], top: Table) -> None:
    """Across machines: what two of them cannot both have."""
    for what, values in (
        ("MAC address", [nic.mac for one in machines for nic in one.machine.nics]),
        ("disk file", [str(disk.path) for one in machines for disk in one.machine.disks]),
    ):
        for value in sorted({value for value in values if values.count(value) > 1}):
            top.mistake(f"{what} {value} appears in two machines")
