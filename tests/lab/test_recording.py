"""scripts/record-machine inside real guests, and the agent on what it brought home.

With TEETH_RECORD_INTO=tests/fixtures/machines the recordings are kept there.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fakes.recorded_machine import lay_out, said_of
from teeth.lab.keep.handle import MachineHandle
from teeth.lab.keep.ssh import CONFIG
from teeth.lab.pytest_plugin import Lab
from teeth.paths import find_checkout

pytestmark = [pytest.mark.boot, pytest.mark.image, pytest.mark.usefixtures("debug")]

ENTER = 240.0
SECONDS = 300

BUSES = """
[machines.it]
firmware = "uefi"
memory = "640 MiB"
boot = { from = "ramdisk", ramdisk = "debug" }
smbios = { manufacturer = "Acme, Inc.", product = "R1", serial = "SRV-0815-77" }
disk = [
    { bus = "nvme", serial = "TWO-NS-0001", namespaces = ["64 MiB", "32 MiB"] },
    { bus = "virtio-scsi", serial = "SPINS-02", wwn = "5000c50015ea71ac", rotational = true, size = "8 MiB" },
    { bus = "sata", serial = "SATA-0003", wwn = "5000c50015ea71ad", size = "64 MiB" },
    { bus = "virtio-blk", serial = "FOURK-0004", sector = 4096, read_only = true, size = "64 MiB" },
    { bus = "usb", serial = "STICK-0005", size = "64 MiB" },
]
"""

MULTIPATH = """
[machines.it]
memory = "640 MiB"
boot = { from = "ramdisk", ramdisk = "debug" }
disk = [{ bus = "virtio-blk", serial = "PLAIN-0001", size = "16 MiB" }]
qemu = [
    "-drive", "if=none,id=shared,format=raw,file=FOLDER/shared.raw",
    "-device", "nvme-subsys,id=subsystem,nqn=shared-subsystem",
    "-device", "nvme,serial=TWO-WAYS-01,subsys=subsystem",
    "-device", "nvme,serial=TWO-WAYS-01,subsys=subsystem",
    "-device", "nvme-ns,drive=shared,nsid=1,shared=on,bus=nvme-bus.0",
    "-device", "nvme,serial=EMPTY-0001",
]
"""

SIMULATED = """
[machines.it]
memory = "640 MiB"
boot = { from = "ramdisk", ramdisk = "debug" }
drive = [
    { kind = "sata", name = "a", serial = "HIDES-0001", size = "64 MiB", hidden = 32768, hidden_by = "hpa" },
    { kind = "sata", name = "b", serial = "FROZEN-0002", size = "64 MiB", frozen = true },
    { kind = "sata", name = "c", serial = "LOCKED-0003", size = "64 MiB", password = "s", medium = "hdd" },
    { kind = "scsi", name = "d", serial = "SAS-0004", size = "64 MiB", sanitize = ["block", "crypto"] },
]
"""


@pytest.mark.parametrize(
    ("name", "text", "disks"),
    [
        ("qemu-every-bus", BUSES, {"nvme", "scsi", "sata", "virtio", "usb"}),
        ("qemu-nvme-multipath", MULTIPATH, {"nvme", "virtio"}),
        ("simulated-sata-and-scsi", SIMULATED, {"scsi"}),
    ],
)
def test_a_guest_is_recorded_and_replayed(
    lab: Lab, tmp_path: Path, name: str, text: str, disks: set[str]
) -> None:
    (tmp_path / "shared.raw").write_bytes(bytes(16 << 20))
    machine = lab.machine(text.replace("FOLDER", str(tmp_path)))
    machine.wait_for_ssh(within=ENTER)
    folder = Path(os.environ.get("TEETH_RECORD_INTO", tmp_path)) / name
    version = machine.qmp("query-version")["qemu"]
    record(
        machine, folder, f"in QEMU {version['major']}.{version['minor']}, by tests/lab/{Path(__file__).name}"
    )

    said = said_of(lay_out(folder, tmp_path / "root"))
    assert {disk["transport"] for disk in said["disks"] if disk["out_of_scope"] is None} == disks
    assert json.loads((folder / "manifest.json").read_text())["scrubbed"] is True
    whole = "".join(file.read_text() for file in folder.rglob("*") if file.is_file())
    for word in ("TWO-NS-0001", "TWO-WAYS-01", "SATA-0003", "HIDES-0001", "SRV-0815-77", "15ea71a"):
        assert word not in whole


def record(machine: MachineHandle, folder: Path, note: str) -> None:
    """Run the script in the guest as a person does, and fetch what it wrote."""
    ssh = ["ssh", "-F", str(machine.kept.folder / CONFIG), machine.kept.name]
    scripts = find_checkout().root / "scripts"
    pack = subprocess.run(
        ["tar", "-c", "-C", scripts, "--exclude=__pycache__", "record-machine", "record_machine"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    command = f"mkdir /tmp/r && cd /tmp/r && tar -x && python3 ./record-machine {folder.name} --note '{note}'"
    done = subprocess.run([*ssh, command], input=pack, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert f"{folder.name}: " in done.stdout.decode()
    made = subprocess.run(
        [*ssh, f"tar -c -C /tmp/r {folder.name}"], check=True, capture_output=True, timeout=SECONDS
    ).stdout
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-x", "-C", folder.parent], input=made, check=True)
