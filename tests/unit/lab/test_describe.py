"""Machines and networks written in TOML: what becomes of them, and what is said about mistakes."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest

from teeth.errors import UsageError
from teeth.lab.blocknodes import Op
from teeth.lab.describe import Places, bridge_namespace, load, parse
from teeth.lab.description import Description
from teeth.lab.disk import Bus
from teeth.lab.drives import spec
from teeth.lab.firmware import Firmware
from teeth.lab.keep.faults import KINDS
from teeth.lab.link import LinkQuality
from teeth.lab.machine import DirectBoot, DiskBoot, NetworkBoot
from teeth.lab.network import Bridged, Network
from teeth.lab.tables import DescriptionError, parse_seconds, parse_size
from teeth.paths import find_checkout

PLACES = Places(file=Path("/there/lab.toml"), state=Path("/state"), build=Path("/build"), cpus=1)
GIB = 1 << 30

ALL = """
[machines.web]
firmware = "uefi"
cpus = 4
memory = "2 GiB"
display = false
balloon = false
rtc = 2038-01-19T03:14:00Z
qemu = ["-device", "pvpanic"]
boot = { from = "ramdisk", ramdisk = "debug", append = "quiet" }

[machines.web.smbios]
manufacturer = "Acme"
product = "R1"
serial = "X1"
asset = "A1"
uuid = "00000000-0000-0000-0000-000000000007"

[[machines.web.nic]]
mac = "52:54:00:00:00:0A"
forward = ["8080:80"]
[[machines.web.nic]]
network = "lan"
model = "e1000"
carrier = false
delay = "20 ms"
loss = 5
forwarding_delay = 20
vlan = 10
[[machines.web.nic]]
network = "silent"
model = "usb-net"

[[machines.web.disk]]
bus = "nvme"
serial = "N1"
namespaces = ["1 GiB", "512 MiB"]
hotplug = true
[[machines.web.disk]]
bus = "sata"
size = '1000000512 B'
sector = 512
rotational = true
wwn = "5000c50015ea71ac"
errors = [{ ops = ["read"], sector = 2048, errno = "EIO", once = true }]
[[machines.web.drive]]
kind = "sata"
name = "liar"
size = "64 MiB"
lies = ["accepts-and-keeps"]
[[machines.web.drive]]
url = "iscsi://127.0.0.1:3260/iqn.x/0"

[networks.lan]
kind = "netns"
address = "10.9.0.1/24"
"""


def read(text: str) -> Description:
    return parse(tomllib.loads(text), PLACES)


def mistakes(text: str) -> list[str]:
    with pytest.raises(DescriptionError) as raised:
        read(text)
    return [line.removeprefix("/there/lab.toml: ") for line in raised.value.lines]


def test_everything_that_can_be_said() -> None:
    found = read(ALL)
    (one,) = found.machines
    machine = one.machine
    assert (machine.firmware, machine.cpus, machine.memory) == (Firmware.UEFI, 4, 2048)
    assert (machine.display, machine.balloon) == (False, False)
    assert machine.rtc == datetime(2038, 1, 19, 3, 14)
    assert (machine.manufacturer, machine.product, machine.serial, machine.asset, machine.uuid) == (
        "Acme", "R1", "X1", "A1", UUID(int=7),
    )  # fmt: skip
    assert machine.extra == ("-device", "pvpanic")
    assert isinstance(machine.boot, DirectBoot)
    assert machine.boot.kernel == Path("/build/ramdisk-debug/vmlinuz")
    assert " quiet BOOTIF=01-52-54-00-00-00-0a teeth.endpoint=10.0.2.2:1 " in machine.boot.cmdline

    user, lan, usb = machine.nics
    assert user.forwards == ((0, 22), (8080, 80))
    assert (user.mac, user.network) == ("52:54:00:00:00:0a", Network.USER)
    namespace = bridge_namespace("lan", PLACES.state)
    quality = LinkQuality(delay=0.02, loss=0.05, forwarding_delay=20, vlan=10)
    assert lan.network == Bridged(namespace=namespace, quality=quality)
    assert (lan.model, lan.link) == ("e1000", False)
    assert (usb.usb, usb.network) == (True, Network.SILENT)

    first, second, sata = machine.disks
    assert [(one.serial, one.nsid, one.size) for one in (first, second)] == [
        ("N1", 1, GIB),
        ("N1", 2, GIB // 2),
    ]
    assert (sata.bus, sata.serial, sata.rotational) == (Bus.SATA, "WEB-1", True)
    assert (sata.errors[0].ops, sata.errors[0].sector, sata.errors[0].once) == ((Op.READ,), 2048, True)
    assert set(one.made) == {disk.path for disk in machine.disks}
    assert first.path == Path("/state/web/disks/disk0n1.raw")

    assert one.drives is not None
    assert [drive.spec.name for drive in one.drives.drives] == ["liar"]
    assert one.urls == ("iscsi://127.0.0.1:3260/iqn.x/0",)
    assert one.networks == ("lan",)
    assert one.ssh is not None
    assert (one.ssh.user, one.ssh.port, one.ssh.key, one.ssh.nic) == ("root", 0, None, 0)
    (bridge,) = found.networks
    assert str(bridge.address) == "10.9.0.1/24"
    assert [str(address) for address in bridge.dhcp or ()] == ["10.9.0.128", "10.9.0.254"]


def test_a_part_of_the_file_read_again_says_the_same() -> None:
    found = read(ALL)
    again = parse(json.loads(json.dumps(found.machines[0].source, default=str)), PLACES)
    assert again.machines[0].machine == found.machines[0].machine
    assert again.machines[0].ssh == found.machines[0].ssh
    assert again.networks == found.networks


def test_little_is_enough() -> None:
    (one,) = read("[machines.a]").machines
    assert isinstance(one.machine.boot, DirectBoot)
    assert one.machine.boot.kernel == Path("/build/ramdisk/vmlinuz")
    assert (one.machine.cpus, one.machine.memory, one.machine.display) == (1, 1024, True)
    assert [nic.network for nic in one.machine.nics] == [Network.USER]
    assert (one.ssh, one.made, one.drives) == (None, {}, None)


def test_addresses_and_serials_are_the_same_every_time_and_differ_between_machines() -> None:
    text = "[machines.{}]\nnic = [{{}}, {{}}]\ndisk = [{{ size = '1 MiB' }}]"
    a, again, b = (read(text.format(name)).machines[0].machine for name in ("a", "a", "b"))
    assert a == again
    assert len({nic.mac for nic in (*a.nics, *b.nics)}) == 4
    assert a.disks[0].serial != b.disks[0].serial


def test_ssh_comes_by_the_card_that_is_named_or_the_first_that_can_be_reached() -> None:
    cards = "[[machines.a.nic]]\nnetwork = 'silent'\n[[machines.a.nic]]\nnetwork = 'l'\n[[machines.a.nic]]\n"
    text = f"[networks.l]\n[machines.a]\nboot.ramdisk = 'debug'\n{cards}"
    reached = [read(text + more).machines[0].ssh for more in ("", "[machines.a.ssh]\nnic = 1")]
    assert [one and one.nic for one in reached] == [2, 1]
    assert mistakes(text + "[machines.a.ssh]\nnic = 0") == [
        "[machines.a.ssh]: there is no card by which ssh could reach it"
    ]


def test_ways_to_boot(tmp_path: Path) -> None:
    direct = read('[machines.a]\nboot = { from = "kernel", kernel = "k", initramfs = "/i", append = "x" }')
    assert direct.machines[0].machine.boot == DirectBoot(
        kernel=Path("/there/k"), initrd=Path("/i"), cmdline="x"
    )
    network = read('[machines.a]\nboot = { from = "network", tftp = "t" }')
    assert network.machines[0].machine.boot == NetworkBoot(tftp=Path("/there/t"))
    offered = read('[machines.a]\nboot.from = "network"\nnic = [{ network = "l" }]\n[networks.l]')
    assert offered.machines[0].machine.boot == NetworkBoot(tftp=None)
    disk = read('[machines.a]\ndisk = [{ size = "1 MiB", boot = true }]')
    assert disk.machines[0].machine.boot == DiskBoot()


def test_an_existing_disk_file_is_taken_as_it_is_and_another_made(tmp_path: Path) -> None:
    (tmp_path / "old.raw").write_bytes(bytes(8192))
    text = '[machines.a]\ndisk = [{ file = "old.raw" }, { file = "new.raw", size = "1 MiB" }]'
    found = parse(tomllib.loads(text), Places(file=tmp_path / "f", state=tmp_path, build=tmp_path))
    (one,) = found.machines
    assert [disk.size for disk in one.machine.disks] == [8192, 1 << 20]
    assert one.made == {tmp_path / "new.raw": 1 << 20}


MISTAKES = [
    ("", "it describes nothing: neither [machines.NAME] nor [networks.NAME]"),
    ("[machine.a]", "machine: there is no such key; did you mean machines?"),
    ("[machines.a]\nmemroy = 3", "[machines.a]: memroy: there is no such key; did you mean memory?"),
    ("[machines.a]\ncpus = '2'", "[machines.a]: cpus = '2' is not a whole number"),
    ("[machines.a]\ncpus = 0", "[machines.a]: 0 CPUs is not 1 to 64"),
    ("[machines.a]\nmemory = '1 Gib'",
     "[machines.a]: memory = '1 Gib' is not a size such as \"1 GiB\" or \"500 MB\""),
    ("[machines.a]\nmemory = 512", '[machines.a]: memory = 512 is not a size such as "1 GiB"'),
    ("[machines.a]\nmemory = '0 GiB'",
     "[machines.a]: memory = '0 GiB' is not a size such as \"1 GiB\" or \"500 MB\""),
    ("[machines.a]\nmemory = '5 MiB'", "[machines.a]: 5 MiB of memory is less than 64"),
    ("[machines.a]\nfirmware = 'efi'",
     "[machines.a]: firmware = 'efi': there is no such one; did you mean uefi?"),
    ("[machines.a]\nrtc = 'soon'", "[machines.a]: rtc is not a date and time such as 2038-01-19T03:14:00"),
    ("[machines.a.smbios]\nuuid = '7'", "[machines.a.smbios]: uuid = '7' is not a UUID"),
    ("[machines.'a b']", "[machines.a b]: machine name 'a b': letters, digits and hyphens, at most 63"),
    ("machines = 3", "machines = 3 is not tables, [machines.NAME]"),
    ("[machines]\na = 3", "machines.a = 3 is not a table, [machines.a]"),
    ("[[machines.a.disk]]", '[[machines.a.disk]] 1: no size, such as "8 GiB"'),
    ("[[machines.a.disk]]\nsize = '1 GiB'\nbus = 'nvm'",
     "[[machines.a.disk]] 1: bus = 'nvm': there is no such one; did you mean nvme?"),
    ("[[machines.a.disk]]\nsize = '1 GiB'\nserial = 'é'",
     "[[machines.a.disk]] 1: disk é: a serial on virtio-blk has 1 to 20 ASCII characters"),
    ("[[machines.a.disk]]\nnamespaces = ['1 GiB']",
     "[[machines.a.disk]] 1: namespaces are an NVMe disk's, in place of size and file"),
    ("[[machines.a.disk]]\nfile = 'no'",
     "[[machines.a.disk]] 1: file = 'no': there is no such file, and without a size none is made"),
    ("[[machines.a.disk]]\nsize = '1 MiB'\nerrors = [{ errno = 'EOI' }]",
     "[[machines.a.disk.errors]] 1: errno = 'EOI' is not the name of an error, such as EIO"),
    ("[[machines.a.disk]]\nsize = '1 MiB'\nerrors = [{ ops = ['raed'] }]",
     "[[machines.a.disk.errors]] 1: ops: 'raed': there is no such one; did you mean read?"),
    ("[machines.a]\ndisk = 3", "[machines.a]: disk = 3 is not written as [[machines.a.disk]]"),
    ("[[machines.a.nic]]\nmac = '1'",
     "[[machines.a.nic]] 1: MAC address '1' is not six lower-case hex pairs"),
    ("[[machines.a.nic]]\nnetwork = 'lam'\n[networks.lan]",
     "[[machines.a.nic]] 1: network = 'lam': there is no such network; did you mean lan?"),
    ("[[machines.a.nic]]\nloss = 5", "[[machines.a.nic]] 1: loss: only a card on a netns network has that"),
    ("[[machines.a.nic]]\nnetwork = 'l'\nloss = 500\n[networks.l]",
     "[[machines.a.nic]] 1: loss = 500 is not 0 to 100 (percent)"),
    ("[[machines.a.nic]]\nnetwork = 'l'\ndelay = '5 parsec'\n[networks.l]",
     "[[machines.a.nic]] 1: delay = '5 parsec' is not a time such as \"20 s\" or \"5 ms\""),
    ("[[machines.a.nic]]\nmodel = 'e100'",
     "[[machines.a.nic]] 1: model = 'e100': there is no such one; did you mean e1000?"),
    ("[[machines.a.nic]]\nforward = ['80']",
     '[[machines.a.nic]] 1: forward = \'80\' is not HOSTPORT:GUESTPORT, such as "8080:80"'),
    ("[machines.a]\nboot.from = 'tape'",
     "[machines.a.boot]: from = 'tape': there is no such one; there are ramdisk, kernel, network, disk"),
    ("[machines.a]\nboot.from = 'kernel'", '[machines.a.boot]: no kernel, and from = "kernel"'),
    ("[machines.a]\nboot.from = 'disk'", '[machines.a.boot]: from = "disk", and no disk has boot = true'),
    ("[machines.a]\nboot.from = 'network'",
     "[machines.a.boot]: no tftp: QEMU's own network needs a folder with an iPXE script, boot.ipxe"),
    ("[machines.a]\nboot = { kernel = 'k' }", "[machines.a.boot]: kernel: there is no such key; "),
    ("[machines.a.ssh]", "[machines.a.ssh]: no key: only the debug ramdisk is given one that is made for it"),
    ("[machines.a]\nnic = []\nssh = { key = 'k' }",
     "[machines.a.ssh]: there is no card by which ssh could reach it"),
    ("[[machines.a.drive]]\nkind = 'sata'\nsize = '1 MiB'", "[machines.a]: drive 1: no name"),
    ("[machines.a]\nnic = []\n[[machines.a.drive]]\nkind = 'nvme'\nname = 'n'\nsize = '1 MiB'",
     "[machines.a]: drive n: NVMe needs a card on QEMU's own network"),
    ("[[machines.a.drive]]\nurl = 'http://x'",
     "[machines.a]: simulated drive 'http://x': not iscsi://HOST:PORT/NAME/LUN"),
    ("[networks.lan]\naddress = '10.0.0/8'", "[networks.lan]: address = '10.0.0/8': "),
    ("[networks.lan]\naddress = '10.0.0.1/30'",
     "[networks.lan]: address = '10.0.0.1/30' leaves no room for machines: /29 at least"),
    ("[networks.lan]\naddress = '10.0.0.1/24'\ndhcp = ['10.0.1.1', '10.0.1.9']",
     "[networks.lan]: dhcp = ['10.0.1.1', '10.0.1.9'] does not lie in 10.0.0.0/24 beside"),
    ("[networks.user]", "[networks.user]: 'user' is no name for a network of its own"),
    ("[networks.lan]\nvlan = 5000", "[networks.lan]: vlan = 5000 is not 1 to 4094"),
    ("[networks.lan]\nkind = 'vlan'", "[networks.lan]: kind = 'vlan': there is no such one; there are netns"),
    ("[[machines.a.nic]]\nmac = '52:54:00:00:00:01'\n[[machines.b.nic]]\nmac = '52:54:00:00:00:01'",
     "MAC address 52:54:00:00:00:01 appears in two machines"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_a_mistake_is_one_line_that_says_where(text: str, expected: str) -> None:
    found = mistakes(text)
    assert len(found) == 1
    assert found[0].startswith(expected)
    assert "\n" not in found[0]


def test_every_mistake_is_told() -> None:
    found = mistakes("[machines.a]\ncpus = 'x'\n[[machines.a.nic]]\nmca = 1\n[networks.l]\nlaese = 3")
    assert len(found) == 3


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[machines")
    for name, words in (("none.toml", "cannot be read: No such file"), ("bad.toml", "is not TOML: ")):
        with pytest.raises(UsageError, match=words):
            load(Places(file=tmp_path / name, state=tmp_path, build=tmp_path))


@pytest.mark.parametrize(
    ("text", "size"), [("1 GiB", GIB), ("500MB", 500_000_000), ("7B", 7), ("1.5 GiB", None), ("GiB", None)]
)
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("20 ms", 0.02), ("1.5s", 1.5), ("2 min", 120.0), ("3", None), ("-1 s", None)]
)
def test_times(text: str, seconds: float | None) -> None:
    assert parse_seconds(text) == seconds


# --- the page


def documented() -> str:
    return (find_checkout().root / "docs/lab.md").read_text(encoding="utf-8")


def test_the_examples_in_the_documentation_are_read(tmp_path: Path) -> None:
    machine, drives = re.findall(r"^```toml\n(.*?)^```$", documented(), re.MULTILINE | re.DOTALL)
    found = read(machine)
    assert [one.machine.name for one in found.machines] == ["web"]
    file = tmp_path / "drives.toml"
    file.write_text(drives, encoding="utf-8")
    assert [one.spec.name for one in spec.load(file).drives] == ["d0"]


def first_cells(heading: str) -> set[str]:
    """The words in the first column of the table under a heading, or of the one with this cell on top."""
    table = documented().partition(heading)[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([a-z_-]+)`", cell)}


def known_keys(text: str, table: str) -> set[str]:
    """What a table may say, by what is said of a key that it has not."""
    found = mistakes(f"{text}\n'-' = 1")
    line = next(line for line in found if line.startswith(f"{table}: -: "))
    return set(line.partition("; there are ")[2].split(", "))


@pytest.mark.parametrize(
    ("heading", "text", "table"),
    [
        ("| `[machines.NAME]` |", "[machines.a]", "[machines.a]"),
        ("| `[[machines.NAME.nic]]` |", "[[machines.a.nic]]", "[[machines.a.nic]] 1"),
        ("| `[[machines.NAME.disk]]` |", "[[machines.a.disk]]\nsize = '512 B'", "[[machines.a.disk]] 1"),
        ("| `[networks.NAME]` |", "[networks.a]", "[networks.a]"),
    ],
)
def test_every_key_is_documented_and_no_other(heading: str, text: str, table: str) -> None:
    assert first_cells(heading) == known_keys(text, table) - {"seed"}


def test_every_fault_is_documented() -> None:
    assert first_cells("## Faults\n\n| kind | on | |") == set(KINDS)
