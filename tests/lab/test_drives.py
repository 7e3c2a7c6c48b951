"""The ramdisk's own kernel and tools on simulated drives; the host reads what is left on the medium."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from boot.conftest import Boot
from boot.test_lab_hardware import Shell, start_shell
from teeth.lab.drives.control import ask
from teeth.lab.drives.server import Serving, serve
from teeth.lab.drives.spec import parse
from teeth.lab.drives.verdict import read_content
from teeth.lab.pytest_plugin import Lab
from teeth.lab.simulated import simulated_arguments

pytestmark = [pytest.mark.boot, pytest.mark.image]

MARK = b"REMAINS "
SIZE = 16 << 20
ENTER = 300.0


@asynccontextmanager
async def machine_with(
    boot: Boot, ramdisk: Path, folder: Path, *drives: dict[str, Any]
) -> AsyncIterator[tuple[Serving, Shell]]:
    """A machine whose disks are the drives given, each full of a pattern.

    In the shell $d0, $d1, ... are their device files: the kernel may call them in any order.
    """
    entries = []
    for number, drive in enumerate(drives):
        entry = {"name": f"d{number}", "size": "16 MiB", "file": f"d{number}.img", "erase_seconds": 2} | drive
        (folder / entry["file"]).write_bytes(MARK * (SIZE // len(MARK)))
        entries.append(entry)
    spec = parse({"listen": "127.0.0.1:0", "drive": entries}, folder / "spec.toml")
    async with serve(spec) as serving:
        urls = [serving.url(served) for served in serving.drives]
        _, shell = await start_shell(boot, ramdisk, extra=tuple(simulated_arguments(urls)))
        for number, served in enumerate(serving.drives):
            wwid = f"naa.{served.unit.disk.spec.wwn}"
            found = f"$(dirname $(dirname $(grep -l {wwid} /sys/block/sd*/device/wwid)))"
            says(
                await shell.run(
                    f"until grep -q {wwid} /sys/block/sd*/device/wwid 2>/dev/null; do :; done; "
                    f"d{number}=/dev/$(basename {found}); echo found $d{number}"
                ),
                "found /dev/sd",
            )
        yield serving, shell


def marks(folder: Path, number: int = 0) -> int:
    return (folder / f"d{number}.img").read_bytes()[:SIZE].count(MARK)


def says(lines: list[str], *words: str) -> None:
    text = "\n".join(lines)
    for word in words:
        assert word in text, text


async def test_the_kernel_and_every_tool_take_them_for_real_drives(
    boot: Boot, ramdisk: Path, tmp_path: Path
) -> None:
    drives = ({"kind": "sata", "medium": "hdd"}, {"kind": "scsi"})
    async with machine_with(boot, ramdisk, tmp_path, *drives) as (_, shell):
        says(await shell.run("cd /sys/block/$(basename $d0); cat size queue/rotational; cd /"), "32768", "1")
        says(await shell.run("cat /sys/block/$(basename $d0)/device/vendor"), "ATA")
        says(
            await shell.run("hdparm -I $d0"),
            "SANITIZE feature set", "supported: enhanced erase", "Checksum: correct",
        )  # fmt: skip
        says(await shell.run("smartctl -x -d sat $d0"), "PASSED", "[SEC1]")
        says(await shell.run("smartctl -x $d1"), "SMART Health Status: OK")
        says(await shell.run("sg_opcodes $d1"), "Sanitize, block erase")
        says(await shell.run("sg_vpd -a $d1; echo status=$?"), "status=0")
        says(await shell.run("dd if=$d0 bs=1M count=1 2>/dev/null | head -c 16"), "REMAINS REMAINS")


async def test_hdparm_erases_a_sata_drive(boot: Boot, ramdisk: Path, tmp_path: Path) -> None:
    async with machine_with(boot, ramdisk, tmp_path, {"kind": "sata"}) as (serving, shell):
        security = serving.drives[0].unit
        await shell.run("hdparm --user-master u --security-set-pass p $d0")
        says(await shell.run("hdparm -I $d0"), "\tenabled")
        await shell.run("hdparm --user-master u --security-erase p $d0")
        assert security.disk.state.security.user == ""
        assert marks(tmp_path) == 0
        # QEMU gives the guest fixed sense data: a refusal looks like success.
        says(
            await shell.run("hdparm --security-freeze $d0; "
                            "hdparm --user-master u --security-set-pass p $d0; echo status=$?"),
            "status=0",
        )  # fmt: skip
        assert security.disk.state.security.user == ""


async def test_sg_sanitize_and_a_lie(boot: Boot, ramdisk: Path, tmp_path: Path) -> None:
    drives = ({"kind": "scsi"}, {"kind": "scsi", "lies": ["zeroes-from-cache"]})
    async with machine_with(boot, ramdisk, tmp_path, *drives) as (_, shell):
        for name in ("$d0", "$d1"):
            says(
                await shell.run(f"sg_sanitize --block --quick --early {name}; echo status=$?"),
                "status=0",
            )
            says(await shell.run(f"sg_requests --progress {name}"), "% done")
            says(
                await shell.run(
                    f"until sg_requests {name} 2>&1 | grep -q 'No Sense'; do :; done; echo ready"
                ),
                "ready",
            )
            says(
                await shell.run(f"dd if={name} bs=1M iflag=direct 2>/dev/null | tr -d '\\0' | wc -c"),
                "0",
            )
        assert marks(tmp_path, 0) == 0
        assert marks(tmp_path, 1) == SIZE // len(MARK)


def test_a_cut_erase_locks(lab: Lab, debug: str) -> None:
    machine = lab.machine(
        """
[machines.a]
memory = "512 MiB"
boot = { from = "ramdisk", ramdisk = "debug" }
[[machines.a.drive]]
kind = "sata"
name = "d"
size = "16 MiB"
file = "d.img"
fill = true
erase_seconds = 120
master_password = "maker"
"""
    )
    control = Path(machine.kept.facts["drives"])
    machine.wait_for_ssh(within=ENTER)
    # A password that the agent, which runs here too, does not know: it would take it away.
    user = "hdparm --user-master u"
    machine.succeed(f"{user} --security-set-pass mine /dev/sda")
    machine.succeed(f"{user} --security-erase mine /dev/sda >/dev/null 2>&1 </dev/null &")
    machine.wait_for(lambda: under_way(control) > 0.02, within=ENTER)
    machine.fault("power-cut")
    assert listed(control)["security"] == "SEC4"
    machine.wait_for_ssh(within=ENTER)
    said = machine.succeed("hdparm -I /dev/sda")
    assert "not\tlocked" not in said
    assert "not\tenabled" not in said
    machine.fail("dd if=/dev/sda of=/dev/null bs=4096 count=1 iflag=direct")
    machine.succeed(f"{user} --security-unlock mine /dev/sda")
    machine.succeed(f"{user} --security-disable mine /dev/sda")
    assert "not\tenabled" in machine.succeed("hdparm -I /dev/sda")
    content = read_content(lab.base / "d.img", 512)
    assert 0 < content.marked < content.blocks


def under_way(control: Path) -> float:
    """How far the drive's erase is, 0 without one."""
    drive = listed(control)
    return float(drive["fraction"]) if drive["under_way"] else 0.0


def listed(control: Path) -> dict[str, Any]:
    """The one drive that is served, as its control socket lists it."""
    (drive,) = asyncio.run(ask(control, {"do": "list"}))["drives"]
    return dict(drive)
