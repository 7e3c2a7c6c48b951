"""hdparm, sg3-utils and smartctl as they are, on the models; where one is missing its tests are skipped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fakes.drive_rig import Rig
from fakes.sgio_bridge import Bench, bench
from teeth.lab.drives.firmware import make_image

Start = Callable[..., tuple[Rig, Bench]]
SATA = {"descriptor_sense": True, "erase_seconds": 0.3}


def needs(tool: str) -> pytest.MarkDecorator:
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    return pytest.mark.skipif(shutil.which(tool, path=path) is None, reason=f"{tool} is not installed")


@pytest.fixture
def start(shim: Path, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def make(kind: str, **spec: Any) -> tuple[Rig, Bench]:
            rig = Rig(kind, **spec)
            rig.drive = type(rig.drive)(rig.spec, rig.media, clock=time.monotonic)
            return rig, stack.enter_context(bench(rig.drive, shim, tmp_path))

        yield make


def wait_for(tool: Callable[[], str], word: str) -> str:
    """Ask again until the drive says so; the drive's own time ends it."""
    deadline = time.monotonic() + 20.0
    while word not in (said := tool()):
        assert time.monotonic() < deadline, said
    return said


@needs("hdparm")
def test_hdparm_shows_and_uses_security(start: Start) -> None:
    rig, tools = start("sata", **SATA)
    said = tools.run("hdparm", "-I", "DEVICE")
    for line in ("Checksum: correct", "not\tenabled", "not\tfrozen", "supported: enhanced erase",
                 "SANITIZE feature set", "CRYPTO_SCRAMBLE_EXT", "BLOCK_ERASE_EXT", "OVERWRITE_EXT",
                 "2min for SECURITY ERASE UNIT", "5000c500a1b2c3d4"):  # fmt: skip
        assert line in said
    tools.run("hdparm", "--user-master", "u", "--security-set-pass", "p", "DEVICE")
    assert "\tenabled" in tools.run("hdparm", "-I", "DEVICE").replace("not\tenabled", "")
    tools.run("hdparm", "--user-master", "u", "--security-erase", "p", "DEVICE")
    assert rig.marked(0, rig.spec.blocks) == []
    assert "not\tenabled" in tools.run("hdparm", "-I", "DEVICE")


@needs("hdparm")
def test_hdparm_on_a_locked_drive(start: Start) -> None:
    rig, tools = start("sata", **SATA)
    tools.run("hdparm", "--user-master", "u", "--security-set-pass", "p", "DEVICE")
    rig.power_cycle()
    rig.run("03000000ff", nexus="tool")
    for _ in range(5):
        tools.run("hdparm", "--user-master", "u", "--security-unlock", "wrong", "DEVICE", status=5)
    said = tools.run("hdparm", "-I", "DEVICE")
    assert "\texpired: security count" in said.replace("not\texpired", "")
    tools.run("hdparm", "--user-master", "u", "--security-unlock", "p", "DEVICE", status=5)
    rig.power_cycle()
    rig.run("03000000ff", nexus="tool")
    tools.run("hdparm", "--user-master", "u", "--security-unlock", "p", "DEVICE")
    tools.run("hdparm", "--user-master", "u", "--security-disable", "p", "DEVICE")


@needs("hdparm")
def test_hdparm_on_a_frozen_drive(start: Start) -> None:
    rig, tools = start("sata", **SATA)
    tools.run("hdparm", "--security-freeze", "DEVICE")
    tools.run("hdparm", "--user-master", "u", "--security-set-pass", "p", "DEVICE", status=5)
    assert rig.word(128) == 0x0029


@needs("hdparm")
def test_hdparm_says_success_on_a_frozen_drive_when_sense_data_are_fixed(start: Start) -> None:
    """The trap that makes its exit status worthless: read IDENTIFY word 128 instead."""
    rig, tools = start("sata", descriptor_sense=False)
    tools.run("hdparm", "--security-freeze", "DEVICE")
    tools.run("hdparm", "--user-master", "u", "--security-set-pass", "p", "DEVICE", status=0)
    assert rig.word(128) == 0x0029  # no password was set


@needs("hdparm")
@pytest.mark.parametrize(
    "how", [["--sanitize-block-erase"], ["--sanitize-crypto-scramble"],
            ["--sanitize-overwrite-passes", "1", "--sanitize-overwrite", "hex:A5A5A5A5"]]
)  # fmt: skip
def test_hdparm_sanitizes(start: Start, how: list[str]) -> None:
    rig, tools = start("sata", **SATA | {"erase_seconds": 1.0})
    tools.run("hdparm", "--yes-i-know-what-i-am-doing", *how, "DEVICE")
    assert "SD2 Sanitize operation In Process" in tools.run("hdparm", "--sanitize-status", "DEVICE")
    wait_for(lambda: tools.run("hdparm", "--sanitize-status", "DEVICE"), "Completed Without Error")
    assert rig.marked() == []
    if "hex:A5A5A5A5" in how:
        assert rig.media.read(0, 512) == b"\xa5" * 512


@needs("hdparm")
def test_hdparm_locks_sanitize(start: Start) -> None:
    rig, tools = start("sata", **SATA)
    tools.run("hdparm", "--sanitize-freeze-lock", "DEVICE")
    assert "SD1 Sanitize Frozen" in tools.run("hdparm", "--sanitize-status", "DEVICE")
    tools.run("hdparm", "--yes-i-know-what-i-am-doing", "--sanitize-block-erase", "DEVICE", status=5)
    assert len(rig.marked()) == rig.spec.blocks + rig.spec.spares


@needs("hdparm")
def test_hdparm_sees_and_removes_hidden_areas(start: Start) -> None:
    rig, tools = start("sata", hidden=192, overlaid=1000, **SATA)
    assert "max sectors   = 7000/7192, HPA is enabled" in tools.run("hdparm", "-N", "DEVICE")
    assert "Real max sectors: 8192" in tools.run("hdparm", "--dco-identify", "DEVICE")
    tools.run("hdparm", "--yes-i-know-what-i-am-doing", "-N", "p7192", "DEVICE")
    assert rig.drive.disk.accessible == 7192
    tools.run("hdparm", "--yes-i-know-what-i-am-doing", "--dco-restore", "DEVICE")
    assert rig.drive.disk.accessible == 8192
    assert int.from_bytes(rig.good("25")[:4], "big") == 8191


@needs("hdparm")
def test_hdparm_loads_firmware(start: Start, tmp_path: Path) -> None:
    rig, tools = start("sata", **SATA)
    image = tmp_path / "firmware"
    image.write_bytes(make_image("2.00"))
    tools.run("hdparm", "--yes-i-know-what-i-am-doing", "--please-destroy-my-drive", "--fwdownload-mode7",
              str(image), "DEVICE")  # fmt: skip
    assert rig.drive.disk.state.firmware == "2.00"
    image.write_bytes(make_image("3.00")[:-1] + b"?")
    tools.run("hdparm", "--yes-i-know-what-i-am-doing", "--please-destroy-my-drive", "--fwdownload-mode7",
              str(image), "DEVICE", status=None)  # fmt: skip
    assert rig.drive.disk.state.firmware == "2.00"


@needs("smartctl")
def test_smartctl_reads_a_sata_drive_without_complaint(start: Start) -> None:
    rig, tools = start("sata", descriptor_sense=False)
    said = tools.run("smartctl", "-x", "-d", "sat", "DEVICE")
    assert "ATA Security is:  Disabled, NOT FROZEN [SEC1]" in said
    assert "test result: PASSED" in said
    assert "TRIM Command:     Available, deterministic, zeroed" in said
    for word in ("Invalid", "invalid", "Error reading", "failed", "Warning"):
        assert word not in said.replace("Uncorrectable", "")
    rig.lie("smart-failing")
    assert "FAILED!" in tools.run("smartctl", "-H", "-d", "sat", "DEVICE", status=None)


@needs("smartctl")
def test_smartctl_reads_a_scsi_drive_without_complaint(start: Start) -> None:
    rig, tools = start("scsi")
    said = tools.run("smartctl", "-x", "-d", "scsi", "DEVICE")
    assert "SMART Health Status: OK" in said
    assert "Transport protocol:   SAS" in said
    rig.lie("smart-failing")
    assert "IMPENDING FAILURE" in tools.run("smartctl", "-H", "-d", "scsi", "DEVICE", status=None)


@needs("sg_vpd")
def test_sg_utils_read_everything_without_complaint(start: Start) -> None:
    _, tools = start("scsi")
    assert "TEETH" in tools.run("sg_inq", "DEVICE")
    said = tools.run("sg_vpd", "-a", "DEVICE")
    for line in (
        "0x5000c500a1b2c3d4",
        "Non-rotating medium",
        "Unmap command supported (LBPU): 1",
        "WABEREQ=1",
    ):
        assert line in said
    assert "Sanitize, block erase" in tools.run("sg_opcodes", "DEVICE")
    assert "Usage data: 48 a2 00 00 00 00 00 ff ff 00" in tools.run("sg_opcodes", "-o", "0x48,2", "DEVICE")
    assert "Percentage used endurance indicator" in tools.run("sg_logs", "-a", "DEVICE")
    assert "Informational exceptions control" in tools.run("sg_modes", "-a", "DEVICE")
    assert "lbpme=1, lbprz=1" in tools.run("sg_readcap", "--16", "DEVICE")
    assert "1 lun entry" in tools.run("sg_luns", "DEVICE")


@needs("sg_vpd")
def test_sg_vpd_decodes_the_ata_page(start: Start) -> None:
    _, tools = start("sata")
    said = tools.run("sg_vpd", "--page=ai", "DEVICE")
    assert "ATA information VPD page" in said
    assert "TEETH LAB DRIVE" in said


@needs("sg_sanitize")
@pytest.mark.parametrize("how", [["--block"], ["--crypto"], ["--overwrite", "--zero"]])
def test_sg_sanitize_and_its_progress(start: Start, how: list[str]) -> None:
    rig, tools = start("scsi", erase_seconds=1.0)
    tools.run("sg_sanitize", *how, "--quick", "--early", "DEVICE")
    assert "% done" in tools.run("sg_requests", "--progress", "DEVICE")
    tools.run("sg_turs", "DEVICE", status=2)
    wait_for(lambda: tools.run("sg_requests", "DEVICE", status=None), "No Sense")
    tools.run("sg_turs", "DEVICE")
    assert rig.marked() == []


@needs("sg_sanitize")
def test_sg_sanitize_of_a_drive_that_fails(start: Start) -> None:
    rig, tools = start("scsi", erase_seconds=0.2)
    rig.lie("sanitize-fails:50")
    said = tools.run("sg_sanitize", "--block", "--ause", "--quick", "--wait", "DEVICE", status=None)
    assert "anitize" in said
    tools.run("sg_turs", "DEVICE", status=3)  # medium error
    tools.run("sg_sanitize", "--fail", "--quick", "--early", "DEVICE")
    tools.run("sg_turs", "DEVICE")
    assert rig.marked()


@needs("sg_write_buffer")
def test_sg_write_buffer_loads_firmware(start: Start, tmp_path: Path) -> None:
    rig, tools = start("scsi")
    image = tmp_path / "firmware"
    image.write_bytes(make_image("2.00"))
    tools.run("sg_write_buffer", "--mode=dmc_offs_defer", f"--in={image}", "--bpw=16384", "DEVICE")
    assert rig.drive.disk.state.firmware == "1.00"
    tools.run("sg_write_buffer", "--mode=activate_mc", "DEVICE")
    assert rig.drive.disk.state.firmware == "2.00"
    assert "2.00" in tools.run("sg_inq", "DEVICE")


@needs("sg_persist")
def test_sg_persist_reserves(start: Start) -> None:
    rig, tools = start("scsi")
    tools.run("sg_persist", "-o", "--register", "--param-sark=0xabc", "DEVICE")
    tools.run("sg_persist", "-o", "--reserve", "--param-rk=0xabc", "--prout-type=3", "DEVICE")
    assert "Exclusive Access" in tools.run("sg_persist", "-i", "-r", "DEVICE")
    assert "short" not in tools.run("sg_persist", "-i", "-s", "DEVICE")
    assert rig.run("28000000000000000100", nexus="other").status == 0x18
    tools.run("sg_persist", "-o", "--clear", "--param-rk=0xabc", "DEVICE")
    rig.run("03000000ff", nexus="other")
    rig.good("28000000000000000100", nexus="other")
