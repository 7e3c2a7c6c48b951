"""What a machine's description becomes on QEMU's command line."""

from __future__ import annotations

import dataclasses
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from teeth.errors import UsageError
from teeth.lab.accel import accelerator
from teeth.lab.blocknodes import IoError, Op
from teeth.lab.disk import Bus, VirtualDisk, disk_arguments, plugged
from teeth.lab.firmware import Firmware, UefiFiles
from teeth.lab.machine import Channels, DirectBoot, DiskBoot, Machine, NetworkBoot, qemu_argv
from teeth.lab.network import Bridged, Network, Nic
from teeth.lab.running import _core, _pinned

GIB = 1 << 30
DIRECT = DirectBoot(kernel=Path("/k"), initrd=Path("/i"), cmdline="console=ttyS0 teeth.ca=sha256:aa")
NIC = Nic(mac="52:54:00:00:00:01")
CHANNELS = Channels(qmp=7, console=9, raw_log=Path("/tmp/a,b/console.raw"))
UEFI = UefiFiles(code=Path("/f/code.fd"), variables=Path("/run/vars.fd"))


def disk(bus: Bus, **changes: Any) -> VirtualDisk:
    fields: dict[str, Any] = {
        "path": Path(f"/d/{bus.value}"),
        "size": GIB,
        "bus": bus,
        "serial": f"S-{bus.value}",
    }
    return VirtualDisk(**(fields | changes))


def machine(**changes: Any) -> Machine:
    return Machine(**({"name": "m1", "boot": DIRECT} | changes))


def argv(spec: Machine, uefi: UefiFiles | None = None) -> list[str]:
    return qemu_argv(spec, accelerator("tcg", "test"), CHANNELS, uefi)


def values(words: list[str], option: str) -> list[str]:
    return [words[n + 1] for n, word in enumerate(words) if word == option]


def devices(*disks: VirtualDisk) -> list[dict[str, Any]]:
    return [json.loads(word) for word in values(disk_arguments(disks), "-device") if word.startswith("{")]


def test_it_dies_with_its_parent_and_waits_for_the_word() -> None:
    words = argv(machine())
    assert words[:5] == ["setpriv", "--pdeathsig", "KILL", "--", "qemu-system-x86_64"]
    assert "-S" in words
    assert values(words, "-accel") == ["tcg,thread=multi"]


def test_descriptors_and_log_reach_qemu() -> None:
    assert values(argv(machine()), "-chardev") == [
        "socket,id=qmp,fd=7",
        "socket,id=console,fd=9,logfile=/tmp/a,,b/console.raw,logappend=on",
    ]


def test_direct_boot() -> None:
    words = argv(machine(nics=(NIC,), memory=320, cpus=3))
    assert values(words, "-kernel") == ["/k"]
    assert values(words, "-initrd") == ["/i"]
    assert values(words, "-append") == ["console=ttyS0 teeth.ca=sha256:aa no_timer_check"]
    assert values(words, "-netdev") == ["user,id=net0"]
    # No boot ROM: it would only cost time.
    assert values(words, "-device") == ["virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01,romfile="]
    assert (values(words, "-m"), values(words, "-smp")) == (["320"], ["3"])


def test_network_boot() -> None:
    second = Nic(mac="52:54:00:00:00:02", model="e1000", rom="/rom", network=Network.SILENT)
    words = argv(machine(boot=NetworkBoot(tftp=Path("/t,1")), nics=(NIC, second)))
    assert values(words, "-netdev") == [
        "user,id=net0,tftp=/t,,1,bootfile=boot.ipxe",
        "hubport,id=net1,hubid=1",
    ]
    assert values(words, "-device") == [
        "virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01,bootindex=1",
        "e1000,id=nic1,netdev=net1,mac=52:54:00:00:00:02,bootindex=2,romfile=/rom",
    ]
    assert "-kernel" not in words


def test_identity_is_what_dmi_says() -> None:
    words = argv(machine(uuid=UUID(int=5), serial="A,1"))
    assert values(words, "-smbios") == ["type=1,manufacturer=Teeth,product=Lab machine,serial=A,,1"]
    assert values(words, "-uuid") == ["00000000-0000-0000-0000-000000000005"]


def test_uefi_code_is_read_only_and_variables_are_not() -> None:
    assert values(argv(machine(firmware=Firmware.UEFI), UEFI), "-drive") == [
        "if=pflash,format=raw,file=/f/code.fd,readonly=on",
        "if=pflash,format=raw,file=/run/vars.fd",
    ]


def test_the_clock_may_be_wrong() -> None:
    words = argv(machine(rtc=datetime(1970, 1, 1, 0, 0, 5)))
    assert words[words.index("-rtc") + 1] == "base=1970-01-01T00:00:05"
    assert "-rtc" not in argv(machine())


@pytest.mark.parametrize(("restart", "present"), [(True, False), (False, True)])
def test_restart(restart: bool, present: bool) -> None:
    assert ("-no-reboot" in argv(machine(restart=restart))) is present


WWN = "5000c50015ea71ac"


@pytest.mark.parametrize(
    ("spec", "driver", "expected"),
    [
        (
            disk(Bus.VIRTIO_SCSI, wwn=WWN),
            "scsi-hd",
            {"wwn": 0x5000C50015EA71AC, "rotation_rate": 1, "bus": "scsi.0"},
        ),
        (disk(Bus.VIRTIO_SCSI, rotational=True), "scsi-hd", {"rotation_rate": 7200}),
        (
            disk(Bus.VIRTIO_SCSI, sector_size=4096),
            "scsi-hd",
            {"logical_block_size": 4096, "physical_block_size": 4096},
        ),
        (disk(Bus.SATA, wwn=WWN, sector_size=4096), "ide-hd", {"bus": "ide.0", "physical_block_size": 4096}),
        (disk(Bus.NVME, wwn=WWN), "nvme-ns", {"eui64": 0x5000C50015EA71AC, "nsid": 1, "bus": "nvme0"}),
        (disk(Bus.VIRTIO_BLK, boot=True), "virtio-blk-pci", {"serial": "S-virtio-blk", "bootindex": 100}),
        (disk(Bus.USB), "usb-storage", {"serial": "S-usb", "bus": "usb.0"}),
    ],
)
def test_what_a_disk_shows(spec: VirtualDisk, driver: str, expected: dict[str, Any]) -> None:
    device = next(device for device in devices(spec) if device["driver"] == driver)
    assert device["drive"] == "disk0"
    assert {name: device[name] for name in expected} == expected


def test_sata_never_claims_4096_byte_logical_sectors() -> None:
    [device] = devices(disk(Bus.SATA, sector_size=4096))
    assert "logical_block_size" not in device


def test_the_nvme_serial_belongs_to_the_controller() -> None:
    controller, namespace = devices(disk(Bus.NVME))
    assert (controller["driver"], controller["serial"]) == ("nvme", "S-nvme")
    assert "serial" not in namespace


def test_one_controller_for_all_scsi_disks_and_a_port_for_each_sata_disk() -> None:
    disks = [disk(bus, serial=f"{bus.value}{n}") for n in range(2) for bus in (Bus.VIRTIO_SCSI, Bus.SATA)]
    assert values(disk_arguments(disks), "-device").count("virtio-scsi-pci,id=scsi") == 1
    assert [device["bus"] for device in devices(*disks)] == ["scsi.0", "ide.0", "scsi.0", "ide.1"]


def test_a_file_name_with_a_comma_needs_no_care() -> None:
    words = values(disk_arguments([disk(Bus.VIRTIO_BLK, path=Path("/a,b"))]), "-blockdev")
    file, raw = map(json.loads, words)
    assert file["filename"] == "/a,b"
    assert raw["file"] == file["node-name"]
    assert file["discard"] == raw["discard"] == "unmap"


@pytest.mark.parametrize(
    ("bus", "changes", "message"),
    [
        (Bus.NVME, {"serial": ""}, "1 to 20 ASCII"),
        (Bus.VIRTIO_BLK, {"serial": "x" * 21}, "1 to 20 ASCII"),
        (Bus.VIRTIO_BLK, {"wwn": WWN}, "has no WWN"),
        (Bus.SATA, {"wwn": "5000C50015EA71AC"}, "not 16 lower-case hex digits"),
        (Bus.NVME, {"sector_size": 520}, "neither 512 nor 4096"),
        (Bus.NVME, {"rotational": True}, "cannot say that it rotates"),
        (Bus.NVME, {"size": 1000}, "not a whole number"),
        (Bus.NVME, {"size": 0}, "not a whole number"),
        (Bus.SATA, {"read_only": True}, "on sata cannot be read-only"),
        (Bus.VIRTIO_BLK, {"nsid": 2}, "namespace 2"),
        (Bus.NVME, {"nsid": 257}, "namespace 257"),
    ],
)
def test_a_disk_that_cannot_be_is_refused(bus: Bus, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        disk(bus, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "machine name"),
        ({"memory": 32}, "less than 64"),
        ({"cpus": 0}, "0 CPUs"),
        ({"nics": (NIC, NIC)}, "MAC address 52:54:00:00:00:01 appears twice"),
        ({"disks": (disk(Bus.NVME), disk(Bus.USB, path=Path("/d/nvme")))}, "disk file /d/nvme appears twice"),
        ({"disks": (disk(Bus.NVME, serial="S"), disk(Bus.USB, serial="S"))}, "disk serial S appears twice"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        machine(**changes)


def test_seven_sata_disks_do_not_fit() -> None:
    disks = [disk(Bus.SATA, serial=f"s{n}", path=Path(f"/{n}")) for n in range(7)]
    with pytest.raises(UsageError, match="at most 6 SATA disks"):
        disk_arguments(disks)


def test_network_boot_needs_a_card_and_uefi_its_files() -> None:
    with pytest.raises(UsageError, match="has no network card"):
        argv(machine(boot=NetworkBoot(tftp=Path("/t"))))
    with pytest.raises(UsageError, match="got no UEFI firmware"):
        argv(machine(boot=DiskBoot(), firmware=Firmware.UEFI))


@pytest.mark.parametrize(
    "mac", ["52:54:00:00:00", "52:54:00:00:00:0G", "52-54-00-00-00-01", "53:54:00:00:00:01"]
)
def test_a_wrong_mac_is_refused(mac: str) -> None:
    with pytest.raises(UsageError, match="MAC address"):
        dataclasses.replace(NIC, mac=mac)


def test_bootif_is_the_pxe_loaders_word() -> None:
    assert NIC.bootif == "01-52-54-00-00-00-01"


def test_qemu_can_be_kept_to_one_processor() -> None:
    argv = qemu_argv(machine(), accelerator("tcg", ""), CHANNELS, core=7)
    assert argv[argv.index("taskset") :][:4] == ["taskset", "--cpu-list", "7", "qemu-system-x86_64"]
    assert "taskset" not in qemu_argv(machine(), accelerator("tcg", ""), CHANNELS)


def test_only_machines_with_nvme_are_kept_to_one_processor() -> None:
    both = machine(disks=(disk(Bus.VIRTIO_SCSI), disk(Bus.NVME)))
    assert _core(both) in os.sched_getaffinity(0)
    assert _core(machine(disks=(disk(Bus.VIRTIO_SCSI),))) is None


def test_machines_that_are_kept_to_a_processor_are_counted(tmp_path: Path) -> None:
    said = {
        1: ("qemu-system-x86", "3"),
        2: ("qemu-system-x86", "0-3"),
        3: ("bash", "2"),
        4: ("qemu-system-x86", "3"),
    }
    for pid, (name, cores) in said.items():
        (tmp_path / str(pid)).mkdir()
        text = f"Name:\t{name}\nUmask:\t0022\nCpus_allowed_list:\t{cores}\nMems_allowed_list:\t0\n"
        (tmp_path / str(pid) / "status").write_text(text)
    assert _pinned(tmp_path) == {3: 2}


def test_namespaces_of_one_serial_share_a_controller() -> None:
    disks = [disk(Bus.NVME, serial="A", nsid=n, path=Path(f"/d/{n}")) for n in (1, 2)]
    machine(disks=tuple(disks))
    found = devices(*disks, disk(Bus.NVME, serial="B"))
    assert [(one["driver"], one["id"], one.get("bus"), one.get("nsid")) for one in found] == [
        ("nvme", "nvme0", None, None),
        ("nvme-ns", "dev0", "nvme0", 1),
        ("nvme-ns", "dev1", "nvme0", 2),
        ("nvme", "nvme2", None, None),
        ("nvme-ns", "dev2", "nvme2", 1),
    ]
    with pytest.raises(UsageError, match=r"disk serial A \(namespace 2\) appears twice"):
        machine(disks=(disks[1], dataclasses.replace(disks[1], path=Path("/d/3"))))


def test_a_disk_to_be_taken_out_has_a_port_and_comes_back_as_it_was() -> None:
    disks = [disk(Bus.NVME, hotplug=True), disk(Bus.VIRTIO_BLK, hotplug=True), disk(Bus.VIRTIO_SCSI)]
    found = {str(one["id"]): one for one in devices(*disks)}
    assert found["port0"]["driver"] == found["port1"]["driver"] == "pcie-root-port"
    assert (found["nvme0"]["bus"], found["nvme0"]["subsys"]) == ("port0", "subsys0")
    assert [plugged(disks, n) for n in range(3)] == [found["nvme0"], found["dev1"], found["dev2"]]
    assert [one.removable for one in disks] == [True, True, True]
    assert not disk(Bus.NVME).removable
    assert not disk(Bus.SATA, hotplug=True).removable


def test_errors_are_met_from_the_start() -> None:
    errors = (IoError(ops=(Op.WRITE,), sector=2048), IoError(ops=(Op.READ,), number=28, once=True))
    words = values(disk_arguments([disk(Bus.VIRTIO_SCSI, errors=errors)]), "-blockdev")
    file, failing, raw = map(json.loads, words)
    assert (failing["image"], raw["file"]) == (file["node-name"], failing["node-name"])
    rules = [(one["iotype"], one["errno"], one.get("sector"), one["once"]) for one in failing["inject-error"]]
    assert rules == [("write", 5, 2048, False), ("write-zeroes", 5, 2048, False), ("read", 28, None, True)]


@pytest.mark.parametrize("wrong", [{"ops": ()}, {"sector": -1}, {"number": 0}, {"number": 4096}])
def test_errors_that_no_disk_has(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="I/O error"):
        IoError(**wrong)


def test_a_read_only_disk_is_opened_so() -> None:
    file, raw = map(json.loads, values(disk_arguments([disk(Bus.VIRTIO_BLK, read_only=True)]), "-blockdev"))
    assert file["read-only"] is raw["read-only"] is True


def test_screen_balloon_asset_and_usb() -> None:
    words = argv(
        machine(display=True, balloon=True, asset="T,7", nics=(dataclasses.replace(NIC, model="usb-net"),))
    )
    assert [word for word in values(words, "-device") if "nic0" not in word] == [
        "qemu-xhci,id=usb",
        "VGA,id=display",
        "virtio-balloon-pci,id=balloon",
    ]
    assert "usb-net,id=nic0,netdev=net0,mac=52:54:00:00:00:01,bus=usb.0" in words
    assert values(words, "-smbios")[1] == "type=3,asset=T,,7"


def test_ports_of_the_host_lead_to_the_guest() -> None:
    words = argv(machine(nics=(dataclasses.replace(NIC, forwards=((0, 22), (8022, 80))),)))
    assert values(words, "-netdev") == [
        "user,id=net0,hostfwd=tcp:127.0.0.1:0-:22,hostfwd=tcp:127.0.0.1:8022-:80"
    ]
    with pytest.raises(UsageError, match="only QEMU's own network forwards"):
        Nic(mac=NIC.mac, network=Network.SILENT, forwards=((0, 22),))


def test_a_bridged_card_hangs_on_its_cable_and_boots_from_what_the_network_offers() -> None:
    nic = dataclasses.replace(NIC, network=Bridged(namespace="teeth-lan"))
    spec = machine(nics=(nic,), boot=NetworkBoot(tftp=None))
    words = qemu_argv(spec, accelerator("tcg", "test"), CHANNELS, None, cables={0: "socket,fd=12"})
    assert values(words, "-netdev") == ["socket,fd=12,id=net0"]
    assert values(words, "-device") == [
        "virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01,bootindex=1"
    ]
