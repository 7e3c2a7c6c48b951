"""The ramdisk's kernel carries the agent's raw commands: to QEMU's NVMe drive, to simulated SCSI drives."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from boot.conftest import Boot
from boot.test_lab_hardware import Shell, start_shell
from teeth.lab.disk import Bus, VirtualDisk
from teeth.lab.drives.server import serve
from teeth.lab.drives.spec import parse
from teeth.lab.pattern import create_dirty_disk, scan_disk
from teeth.lab.simulated import simulated_arguments

pytestmark = [pytest.mark.boot, pytest.mark.image]

SIZE = 16 << 20
MARK = b"REMAINS "


def program(folder: Path, source: str) -> VirtualDisk:
    """A disk that holds a Python program: what it prints last, as JSON, is its answer."""
    path = folder / "program"
    text = textwrap.dedent(source).encode()
    path.write_bytes(text.ljust(-(-len(text) // 4096) * 4096, b"\n"))
    return VirtualDisk(path=path, size=path.stat().st_size, bus=Bus.VIRTIO_BLK, serial="PROGRAM")


async def answer_of(shell: Shell) -> dict[str, Any]:
    await shell.run("until [ -b /dev/vda ]; do sleep 0.1; done; cat /dev/vda > /program.py")
    lines = await shell.run("PATH=/usr/sbin:/usr/bin:/sbin:/bin python3 /program.py 2>&1 | fold -w 400")
    try:
        found: dict[str, Any] = json.loads("".join(lines[lines.index("ANSWER") + 1 :]))
    except ValueError:
        pytest.fail("\n".join(lines))
    return found


NVME = """
    import json, subprocess
    from pathlib import Path
    from teeth_agent.drives.nvme import NvmeDrive
    from teeth_agent.drives.nvmedata import Action
    from teeth_agent.erase.methods.nvme import nvme_erase, recover, under_way
    from teeth_agent.erase.model import Method
    from teeth_agent.errors import DeviceError
    from teeth_agent.passthrough.nvme import open_nvme

    def tool(*words):
        done = subprocess.run(["nvme", *words, "-o", "json"], capture_output=True, check=True)
        return json.loads(done.stdout)

    def code(ask):
        try:
            return [None, repr(ask())]
        except DeviceError as error:
            return [error.code, str(error)]

    found = {}
    with open_nvme("/dev/nvme0") as port:
        drive = NvmeDrive(port, device="/dev/nvme0")
        said, told = drive.identify(), tool("id-ctrl", "/dev/nvme0")
        found["identify"] = [
            [ours, told[name]] for ours, name in (
                (said.oacs, "oacs"), (said.fna, "fna"), (said.sanicap, "sanicap"), (said.cntlid, "cntlid"),
                (said.nn, "nn"), (said.cmic, "cmic"), (said.oncs, "oncs"), (said.frmw, "frmw"),
                (said.mnan, "mnan"),
            )
        ]
        found["names"] = [
            [ours, told[name].strip()] for ours, name in (
                (said.serial, "sn"), (said.model, "mn"), (said.firmware, "fr"), (said.subnqn, "subnqn"),
            )
        ]
        active, every = tool("list-ns", "/dev/nvme0"), tool("list-ns", "/dev/nvme0", "--all")
        found["active"] = [drive.namespaces(), [entry["nsid"] for entry in active["nsid_list"]]]
        found["allocated"] = [
            drive.namespaces(allocated=True), [entry["nsid"] for entry in every["nsid_list"]]
        ]
        second = drive.identify_namespace(2)
        told = tool("id-ns", "/dev/nvme0", "--namespace-id=2")
        found["namespace"] = [[second.blocks, told["nsze"]], [second.lbaf, told["flbas"] & 15],
                              [second.block_size, 1 << told["lbafs"][told["flbas"] & 15]["ds"]]]
        found["no_log"] = code(drive.sanitize_log)
        found["no_sanitize"] = code(lambda: drive.sanitize(Action.BLOCK))
        found["no_namespace"] = code(lambda: drive.identify_namespace(9))
        found["raw"] = [port.admin(0xC0).status, port.admin(0x06, cdw10=0xFF, receive=4096).status]
        found["left"] = [recover(drive).left.value, under_way(drive)]
        erase = nvme_erase(Method.NVME_FORMAT_USER_DATA, drive)
        found["adopt"] = erase.adopt()
        erase.start()
        erase._thread.join()
        found["state"] = erase.poll().state.value
        found["word"] = dict(erase.complete())
        found["commands"] = erase.commands
    found["blocks"] = sorted(str(path) for path in Path("/dev").glob("nvme0n*"))
    print("ANSWER")
    print(json.dumps(found))
"""


async def test_an_nvme_drive_is_asked_and_formatted(boot: Boot, ramdisk: Path, tmp_path: Path) -> None:
    disks = [
        VirtualDisk(
            path=tmp_path / f"n{nsid}.raw", size=SIZE, bus=Bus.NVME, serial="LAB7", nsid=nsid, hotplug=True,
            sector_size=4096 if nsid == 2 else 512,
        )
        for nsid in (1, 2)
    ]  # fmt: skip
    detached = tmp_path / "n3.raw"
    for path in (disks[0].path, disks[1].path, detached):
        create_dirty_disk(path, SIZE, path.name)
    node = {
        "driver": "raw",
        "node-name": "third",
        "discard": "unmap",
        "file": {"driver": "file", "filename": str(detached)},
    }
    front = {"driver": "nvme-ns", "id": "third", "drive": "third", "bus": "nvme0", "nsid": 3}
    front |= {"detached": True, "shared": False}
    extra = ("-blockdev", json.dumps(node), "-device", json.dumps(front))
    _, shell = await start_shell(boot, ramdisk, disks=(*disks, program(tmp_path, NVME)), extra=extra)
    await shell.run("until [ -b /dev/nvme0n1 ] && [ -b /dev/nvme0n2 ]; do sleep 0.1; done")
    found = await answer_of(shell)

    assert all(ours == theirs for ours, theirs in found["identify"]), found["identify"]
    assert all(ours == theirs for ours, theirs in found["names"]), found["names"]
    assert found["names"][0][0] == "LAB7"
    assert found["active"] == [[1, 2], [1, 2]]
    assert found["allocated"] == [[1, 2, 3], [1, 2, 3]]
    assert found["namespace"] == [[SIZE // 4096] * 2, [found["namespace"][1][0]] * 2, [4096, 4096]]
    # QEMU's drive has neither Sanitize nor its log: the kernel hands the status on.
    assert found["no_log"][0] == "refused"
    assert "(status type 0, code 02h)" in found["no_log"][1]
    assert found["no_sanitize"][0] == "refused"
    assert "(status type 0, code 01h)" in found["no_sanitize"][1]
    assert found["no_namespace"][0] == "no_namespace"
    assert found["raw"] == [0x001, 0x002]
    assert found["left"] == ["nothing", None]
    assert (found["adopt"], found["state"]) == (False, "done")
    assert [done["namespace"] for done in found["word"]["formats"]] == [1, 2, 3]
    assert len(found["commands"]) == 4
    assert "/dev/nvme0n3" in found["blocks"]
    assert [scan_disk(path).surviving for path in (disks[0].path, disks[1].path, detached)] == [0, 0, 0]


SCSI = """
    import json, re, subprocess, time
    from pathlib import Path
    from teeth_agent.drives.scsi import Action, ScsiDrive
    from teeth_agent.erase.methods.scsi import recover, scsi_erase
    from teeth_agent.erase.model import Method
    from teeth_agent.errors import DeviceError
    from teeth_agent.passthrough.scsi import open_scsi

    def tool(*words):
        return subprocess.run(words, capture_output=True, text=True).stdout

    def device(wwn):
        while True:
            for path in Path("/sys/block").glob("sd*/device/wwid"):
                if path.read_text().strip() == f"naa.{wwn}":
                    return f"/dev/{path.parent.parent.name}"
            time.sleep(0.1)

    found = {"states": {}}
    for name, wwn in (("good", "5000c5007ee70001"), ("fails", "5000c5007ee70002")):
        path = device(wwn)
        with open_scsi(path) as port:
            drive = ScsiDrive(port, device=path)
            if name == "good":
                said = drive.inquiry()
                found["names"] = [said.vendor, said.product, said.revision, drive.serial()]
                found["inquiry"] = tool("sg_inq", path)
                found["capacity"] = [drive.capacity().blocks, drive.capacity().block_size]
                found["designators"] = [one.name for one in drive.designators() if one.kind == 3]
                found["supports"] = [bool(drive.supports(0x48, n)) for n in (1, 2, 3, 0x1F, 9)]
                found["keys"] = drive.reservation_keys()
                try:
                    drive.vpd(0xC0)
                except DeviceError as error:
                    found["refused"] = error.code
            erase = scsi_erase(Method.SCSI_SANITIZE_BLOCK, drive, exit_allowed=True)
            erase.start()
            seen = [erase.poll()]
            found[f"{name} recover"] = recover(drive).left.value
            while seen[-1].state.value == "running":
                time.sleep(0.2)
                seen.append(erase.poll())
            found["states"][name] = [seen[-1].state.value, seen[-1].evidence["said"]]
            found[f"{name} fractions"] = [poll.fraction for poll in seen if poll.fraction is not None]
            if name == "good":
                found["word"] = dict(erase.complete())
            else:
                erase.abandon()
                found["after"] = drive.test_unit_ready() is None
            found[f"{name} commands"] = erase.commands
    print("ANSWER")
    print(json.dumps(found))
"""


async def test_simulated_scsi_drives_are_asked_and_sanitized(
    boot: Boot, ramdisk: Path, tmp_path: Path
) -> None:
    entries = []
    for number, more in enumerate(({}, {"faults": ["sanitize-fails:50"]}), 1):
        (tmp_path / f"d{number}.img").write_bytes(MARK * (SIZE // len(MARK)))
        entry: dict[str, Any] = {"kind": "scsi", "name": f"d{number}", "size": "16 MiB",
                                 "file": f"d{number}.img", "erase_seconds": 3}  # fmt: skip
        entries.append(entry | more)
    async with serve(parse({"listen": "127.0.0.1:0", "drive": entries}, tmp_path / "spec.toml")) as serving:
        urls = [serving.url(served) for served in serving.drives]
        _, shell = await start_shell(
            boot, ramdisk, disks=(program(tmp_path, SCSI),), extra=tuple(simulated_arguments(urls))
        )
        found = await answer_of(shell)
    assert found["names"] == ["TEETH", "LAB DRIVE", "1.00", "TEETH0001"]
    assert all(name in found["inquiry"] for name in found["names"][:3])
    assert found["capacity"] == [SIZE // 512, 512]
    assert found["designators"][0] == "5000c5007ee70001"
    assert found["supports"] == [True, True, True, True, False]
    assert found["keys"] == []
    assert found["refused"] == "refused"
    assert found["good recover"] == "sanitizing"
    assert found["states"] == {"good": ["done", "ready"], "fails": ["failed", "3/31/03"]}
    # Progress comes through, though QEMU makes fixed-format sense data of what the drive said.
    assert 0 < max(found["good fractions"][:-1]) < 1
    assert found["word"]["seen_working"]
    assert found["after"]
    assert [line.split(":")[0] for line in found["fails commands"]] == [
        "cdb 48 a2 00 00 00 00 00 00 00 00", "cdb 48 1f 00 00 00 00 00 00 00 00",
    ]  # fmt: skip
    assert (tmp_path / "d1.img").read_bytes()[:SIZE].count(MARK) == 0
