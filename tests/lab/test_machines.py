"""Described machines, in real guests: what they are, what is done to them, what becomes of them."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from teeth.errors import TeethError
from teeth.lab.keep.handle import MachineHandle, StepError
from teeth.lab.keep.processes import lives
from teeth.lab.keep.state import LabFolder
from teeth.lab.keep.up import down
from teeth.lab.pytest_plugin import Lab
from teeth.paths import find_checkout

pytestmark = [pytest.mark.boot, pytest.mark.image, pytest.mark.usefixtures("debug")]

ENTER = 240.0

EVERYTHING = """
[machines.all]
firmware = "uefi"
memory = "640 MiB"
cpus = 1
rtc = 2031-02-03T04:05:06Z
boot = { from = "ramdisk", ramdisk = "debug" }

[machines.all.smbios]
manufacturer = "Acme, Inc."
product = "R1"
serial = "X1"
asset = "RACK-7"
uuid = "01234567-89ab-cdef-0123-456789abcdef"

[[machines.all.nic]]
mac = "52:54:00:00:00:aa"
[[machines.all.nic]]
network = "silent"
model = "e1000"
carrier = false

[[machines.all.disk]]
bus = "nvme"
serial = "TWO-NS"
namespaces = ["64 MiB", "32 MiB"]
[[machines.all.disk]]
bus = "virtio-scsi"
size = "64 MiB"
serial = "SPINS"
wwn = "5000c50015ea71ac"
rotational = true
[[machines.all.disk]]
bus = "sata"
size = "64 MiB"
serial = "SATA"
wwn = "5000c50015ea71ad"
[[machines.all.disk]]
bus = "virtio-blk"
size = "64 MiB"
serial = "FOURK"
sector = 4096
read_only = true
[[machines.all.disk]]
bus = "usb"
size = "64 MiB"
serial = "STICK"
"""


def test_a_guest_sees_the_machine_that_was_described(lab: Lab, tmp_path: Path) -> None:
    machine = lab.machine(EVERYTHING)
    machine.wait_for_ssh(within=ENTER)
    dmi = machine.succeed(
        "cd /sys/class/dmi/id; cat sys_vendor product_name product_serial chassis_asset_tag product_uuid"
    )
    assert dmi.split("\n")[:5] == [
        "Acme, Inc.", "R1", "X1", "RACK-7", "01234567-89ab-cdef-0123-456789abcdef",
    ]  # fmt: skip
    assert machine.succeed("cat /sys/class/rtc/rtc0/date").strip() == "2031-02-03"
    assert machine.succeed("ls -d /sys/firmware/efi").strip() == "/sys/firmware/efi"
    each = "for n in /sys/class/net/e*; do echo $(cat $n/address) $(cat $n/carrier 2>&1); done"
    links = dict(line.split(maxsplit=1) for line in machine.succeed(each).splitlines())
    assert links["52:54:00:00:00:aa"] == "1"
    # An interface that nobody has brought up does not say what its carrier is.
    assert [value for address, value in links.items() if address != "52:54:00:00:00:aa"] != ["1"]
    assert len(links) == 2

    disks = disks_of(machine)
    namespaces = [one for one in disks if one["serial"] == "TWO-NS"]
    assert sorted(one["size"] for one in namespaces) == [32 << 20, 64 << 20]
    by = {one["serial"]: one for one in disks}
    assert (by["SPINS"]["wwn"], by["SPINS"]["rota"]) == ("0x5000c50015ea71ac", True)
    assert (by["SATA"]["wwn"], by["SATA"]["rota"], by["SATA"]["tran"]) == (
        "0x5000c50015ea71ad",
        False,
        "sata",
    )
    assert (by["FOURK"]["log-sec"], by["FOURK"]["ro"]) == (4096, True)
    assert by["STICK"]["tran"] == "usb"

    assert machine.host.file("/etc/hostname").content_string == "teeth\n"
    assert "No such file" in machine.fail("ls /nowhere")
    with pytest.raises(StepError, match=r"'exit 3' ended with 3"):
        machine.succeed("exit 3")
    picture = machine.screenshot(tmp_path / "screen.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    times = [float(line.split()[0]) for line in machine.console_log.read_text().splitlines()]
    assert times == sorted(times)
    assert len(times) > 20


def disks_of(machine: MachineHandle) -> list[dict[str, Any]]:
    said = machine.succeed("lsblk -J -b -d -o NAME,SERIAL,SIZE,WWN,ROTA,TRAN,LOG-SEC,RO")
    return list(json.loads(said)["blockdevices"])


def serials(machine: MachineHandle) -> set[str]:
    return {str(one["serial"]) for one in disks_of(machine)}


DISKS = """
[machines.disks]
memory = "512 MiB"
boot = { from = "ramdisk", ramdisk = "debug" }
disk = [
    { bus = "nvme", serial = "NVME", size = "64 MiB", hotplug = true },
    { bus = "virtio-scsi", serial = "SCSI", size = "64 MiB" },
    { bus = "virtio-blk", serial = "BLK", size = "64 MiB", hotplug = true },
    { bus = "sata", serial = "SATA", size = "64 MiB", errors = [{ ops = ["read"], sector = 4096 }] },
]
"""


def test_disks_fail_and_are_taken_out_and_put_back(lab: Lab) -> None:
    machine = lab.machine(DISKS)
    machine.wait_for_ssh(within=ENTER)
    machine.wait_for(lambda: serials(machine) >= {"NVME", "SCSI", "BLK", "SATA"}, within=60)
    name = {str(one["serial"]): f"/dev/{one['name']}" for one in disks_of(machine)}

    def read(serial: str, sector: int) -> tuple[int, str]:
        return machine.execute(f"dd if={name[serial]} of=/dev/null bs=512 skip={sector} count=8 iflag=direct")

    assert "Input/output error" in read("SATA", 4096)[1]  # described
    assert read("SATA", 0)[0] == 0

    machine.fault("io-error", "SCSI", "ops=read", "sector=2048")
    assert read("SCSI", 2048)[0] != 0
    assert read("SCSI", 0)[0] == 0
    machine.fault("io-error", "SCSI", off=True)
    assert read("SCSI", 2048)[0] == 0

    machine.fault("read-only", "BLK")
    write = f"dd if=/dev/zero of={name['BLK']} bs=512 count=8 conv=fsync"
    assert machine.execute(write)[0] != 0
    assert read("BLK", 0)[0] == 0
    machine.fault("read-only", "BLK", off=True)
    assert machine.execute(write)[0] == 0

    for serial in ("NVME", "SCSI", "BLK"):
        machine.fault("unplug", serial)
        machine.wait_for(lambda: serial not in serials(machine), within=60)  # noqa: B023 - called at once
        machine.fault("unplug", serial, off=True)
        machine.wait_for(lambda: serial in serials(machine), within=60)  # noqa: B023
    with pytest.raises(TeethError, match="disk3 on sata cannot be taken out"):
        machine.fault("unplug", "SATA")

    machine.fault("slow", "NVME", "iops=2")
    machine.succeed(f"dd if={name['NVME']} of=/dev/null bs=512 count=4 iflag=direct")
    throttled = machine.qmp("query-block")
    assert [one["inserted"]["iops"] for one in throttled if one["inserted"]["node-name"] == "disk0"] == [2]
    machine.fault("slow", "NVME", off=True)


def test_what_can_be_done_to_a_machine(lab: Lab) -> None:
    machine = lab.machine(DISKS)
    machine.wait_for_ssh(within=ENTER)
    name = {str(one["serial"]): f"/dev/{one['name']}" for one in disks_of(machine)}["SCSI"]
    machine.succeed(f"echo kept | dd of={name} conv=fsync")

    machine.fault("hang")
    assert machine.status()["power"] == "paused"
    machine.fault("hang", off=True)
    before = int(machine.succeed("awk '/MemTotal/ {print $2}' /proc/meminfo"))
    machine.fault("memory", "left=300MiB")
    machine.wait_for(
        lambda: int(machine.succeed("awk '/MemTotal/ {print $2}' /proc/meminfo")) < before - 150_000,
        within=60,
    )
    machine.fault("memory", off=True)
    machine.fault("nmi")
    machine.wait_for("NMI received|Uhhuh. NMI", within=60)
    machine.succeed(
        "(while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do :; done; echo pulled >/dev/console) &"
    )
    machine.fault("link", "nic0")
    machine.wait_for("^pulled", within=60)
    machine.fault("link", "nic0", off=True)
    machine.wait_for_ssh(within=ENTER)

    machine.reboot(within=ENTER)
    machine.wait_for_ssh(within=ENTER)
    assert machine.status()["lives"] == 1
    machine.crash()
    assert machine.status()["power"] == "off"
    with pytest.raises(TeethError, match="is switched off"):
        machine.qmp("query-status")
    machine.power("on")
    assert machine.status()["lives"] == 2
    machine.wait_for_ssh(within=ENTER)
    assert machine.succeed(f"dd if={name} bs=4 count=1 2>/dev/null") == "kept"
    machine.fault("power-cut")
    assert machine.status()["lives"] == 3
    log = machine.console_log.read_text()
    assert [line[:14] for line in log.splitlines() if line.startswith("---")] == [
        "--- power on 2",
        "--- power on 3",
    ]


def test_simulated_drives_lose_power_too(lab: Lab) -> None:
    machine = lab.machine(
        """
[machines.a]
memory = "512 MiB"
boot = { from = "ramdisk", ramdisk = "debug" }
[[machines.a.drive]]
kind = "sata"
name = "one"
serial = "SIM1"
size = "16 MiB"
[[machines.a.drive]]
kind = "scsi"
name = "two"
serial = "SIM2"
size = "16 MiB"
"""
    )
    control = str(machine.kept.facts["drives"])
    machine.wait_for_ssh(within=ENTER)
    # Of a SCSI drive lsblk shows the WWN where it is told no serial.
    assert len(disks_of(machine)) == 2
    name = f"/dev/{disks_of(machine)[0]['name']}"
    machine.succeed(f"dd if={name} of=/dev/null bs=4096 count=1 iflag=direct")
    assert cycles(control) == [0, 0]
    for drive in ("one", "two"):
        assert teeth("lab", "drive", "fault", control, "media-error:0", "--drive", drive).returncode == 0
    machine.fail(f"dd if={name} of=/dev/null bs=4096 count=1 iflag=direct")
    machine.fault("power-cut")
    assert cycles(control) == [1, 1]
    machine.wait_for_ssh(within=ENTER)
    assert len(disks_of(machine)) == 2


def cycles(control: str) -> list[int]:
    lines = teeth("lab", "drive", "list", control).stdout.splitlines()
    return [json.loads(line)["power_cycles"] for line in lines]


def test_a_killed_keeper_takes_all_along_and_is_told_of(lab: Lab) -> None:
    machine = lab.machine("[machines.a]\nmemory = '512 MiB'\nboot = { from = 'ramdisk', ramdisk = 'debug' }")
    qemu = os.pidfd_open(machine.status()["qemu"])
    os.kill(machine.kept.keeper.pid, signal.SIGKILL)
    ended(qemu)
    with pytest.raises(TeethError, match="machine a is dead: its keeper has been killed"):
        machine.status()
    folder = str(lab.state)
    listed = json.loads(teeth("lab", "list", "--json", "--folder", folder).stdout)
    assert [(one["name"], one["power"]) for one in listed] == [("a", "dead")]
    assert teeth("lab", "down", "a", "--folder", folder).stdout == "machine a is down; it was dead\n"
    assert teeth("lab", "list", "--folder", folder).stdout == "no machine is up\n"


def ended(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        assert poll.poll(30_000), "it outlived its keeper"
    finally:
        os.close(descriptor)


def teeth(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "teeth", *words], check=False, capture_output=True, text=True, timeout=300
    )


def test_the_commands(lab: Lab, tmp_path: Path) -> None:
    """As a person types them."""
    folder = ("--folder", str(lab.state))
    file = tmp_path / "lab.toml"
    file.write_text(DISKS + "[[machines.disks.nic]]\nforward = ['0:80']\n")
    machine = lab.machine(file)
    assert "disks" in teeth("lab", "list", *folder).stdout
    again = teeth("lab", "up", str(file), *folder)
    assert again.returncode == 2
    assert again.stderr.startswith("teeth: machine disks is up already (its keeper is process ")
    machine.wait_for_ssh(within=ENTER)
    done = teeth("lab", "ssh", "disks", *folder, "--", "echo $((6*7)); exit 5")
    assert (done.returncode, done.stdout) == (5, "42\n")
    assert "teeth: this machine has booted" in teeth("lab", "console", "disks", *folder).stdout
    assert json.loads(teeth("lab", "qmp", "disks", "query-status", *folder).stdout)["running"] is True
    assert teeth("lab", "fault", "disks", "hang", *folder).stdout == "disks: hang has begun\n"
    assert teeth("lab", "fault", "disks", "hang", "--off", *folder).returncode == 0
    assert teeth("lab", "reset", "disks", *folder).stdout == "disks: reset\n"
    assert teeth("lab", "power", "disks", "off", *folder).stdout == "disks: off\n"
    assert teeth("lab", "down", "disks", *folder).stdout == "machine disks is down\n"
    left = {path.name for path in (lab.state / "disks").iterdir()}
    assert left == {"console.log", "console.raw", "keeper.log", "qemu.log", "qmp.jsonl"}


def test_a_machine_gets_a_grant_of_the_endpoint_that_is_named_and_dials_it(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "home.toml"
    file.write_text("[machines.home]\nmemory = '512 MiB'\n")
    folder, data = ("--folder", str(lab.state)), ("--data", str(tmp_path / "endpoint"))
    serve = [sys.executable, "-m", "teeth", "endpoint", "run", *data, "--advertise", "10.0.2.2"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as endpoint:
        try:
            assert endpoint.stdout is not None
            assert endpoint.stdout.readline().startswith("listening ")
            done = teeth(*data, "lab", "up", str(file), *folder)
            assert (done.returncode, done.stdout) == (0, "machine home is up\n"), done.stderr
            kept = LabFolder(root=lab.state).find("machine", "home")
            try:
                MachineHandle(kept=kept).wait_for("teeth: connected to 10.0.2.2:", within=ENTER)
                (node,) = json.loads(teeth(*data, "node", "list", "--json").stdout)
                assert (node["macs"], node["connected"]) == (kept.facts["nics"], True)
            finally:
                down(kept)
        finally:
            endpoint.terminate()


def test_a_port_that_is_taken_is_named_and_nothing_is_left(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = (
            "[machines.a]\nmemory = '256 MiB'\nboot = { from = 'ramdisk', ramdisk = 'debug' }\n"
            f"nic = [{{ forward = ['{port}:80'] }}]\n[machines.b]\nmemory = '256 MiB'\n"
        )
        with pytest.raises(TeethError, match=f"^port {port} of this host is taken"):
            lab.up(text)
    left = {path.name for path in lab.state.glob("*/*")}
    assert left <= {"console.log", "console.raw", "keeper.log", "qemu.log", "qmp.jsonl"}


def test_a_failed_test_is_told_how_to_enter_and_keeps_its_machine(tmp_path: Path, lab: Lab) -> None:
    """pytest in pytest, as another project would use the fixture."""
    (tmp_path / "test_it.py").write_text(
        "def test_it(lab):\n"
        "    lab.machine(\"[machines.kept]\\nmemory = '256 MiB'\\nboot = { from = 'ramdisk' }\")\n"
        "    assert False\n"
    )
    words = ["-q", "-p", "teeth.lab.pytest_plugin", "--keep", "--rootdir", str(tmp_path), "-c", "/dev/null"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(tmp_path)],
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    state = find_checkout().build / "lab-tests/test_it.test_it"
    (kept,) = LabFolder(root=state).kept()
    try:
        assert lives(kept.keeper)
        assert "machine kept is still up" in done.stdout
        assert f"teeth lab console kept --follow --folder {state}" in done.stdout
    finally:
        down(kept)
        shutil.rmtree(state)
