"""The demo as a user runs it: the command, its exit status, its one line, what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from teeth.boot.images import load_image
from teeth.build.guest import build_guest
from teeth.paths import Paths

pytestmark = [pytest.mark.boot, pytest.mark.image]

DEADLINE = 900
FAULTS = {
    "endpoint-down": "endpoint_unreachable",
    "wrong-ca": "wrong_ca",
    "no-dhcp": "no_dhcp",
    "no-link": "no_link",
    "no-disk": "no_disk",
    "small-disk": "disk_too_small",
    "bad-digest": "digest_mismatch",
}


@pytest.fixture(scope="module", autouse=True)
def _built(ramdisk: Path, paths: Paths) -> None:
    build_guest(paths)
    load_image(paths.guest)


def start(output: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "teeth", "demo", "--output", str(output), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts background jobs with SIGINT ignored, and that is inherited: a person's Ctrl-C is not.
        preexec_fn=_as_in_a_terminal,
    )


def _as_in_a_terminal() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def demo(output: Path, *options: str) -> tuple[int, str, str]:
    process = start(output, *options)
    try:
        out, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    return process.returncode, out, err


def machines_of(output: Path) -> list[str]:
    """Command lines of processes that name a file of this run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "qemu" in words and str(output) in words:
            found.append(words)
    return found


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_a_dirty_machine_lands(tmp_path: Path, firmware: str) -> None:
    status, out, err = demo(tmp_path, "--firmware", firmware)
    assert status == 0, err + out[-2000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["landed"] is True
    assert report["host_proof"] is True
    assert report["problem"] is None
    assert all(report["proofs"].values())
    assert len(report["proofs"]) == 8
    assert report["accelerator"] in ("kvm", "tcg")
    assert {unit["serial"]: unit["outcome"] for unit in report["erased"]} == {
        "TEETH-NVME-1": "cleared",
        "TEETH-SCSI-2": "cleared",
        "TEETH-VIRTIO-3": "cleared",
    }
    for unit in report["erased"]:
        assert unit["method"]
        assert unit["grade"] == "clear"
        assert unit["proof"]["canaries"]["survived"] == 0
        assert unit["proof"]["readback"]["mismatches"] == 0
    for name in ("console.log", "wire.jsonl", "endpoint.log", "qmp.jsonl"):
        assert (tmp_path / name).stat().st_size > 0
    assert not list((tmp_path / "disks").iterdir())
    assert machines_of(tmp_path) == []
    assert_no_secret(tmp_path, report)


def assert_no_secret(output: Path, report: dict[str, object]) -> None:
    """The wire and the endpoint's log know that a config drive went out, not what was in it."""
    landing = report["landing"]
    assert isinstance(landing, dict)
    host_name = landing["hostname"]
    wire = (output / "wire.jsonl").read_text()
    assert "standbye.run_image" in wire
    for text in (wire, (output / "endpoint.log").read_text().replace(f'"hostname": "{host_name}"', "")):
        assert "write_files" not in text
        assert "/landing/" not in text


@pytest.mark.parametrize(("fault", "code"), FAULTS.items())
def test_what_goes_wrong_is_one_line(tmp_path: Path, fault: str, code: str) -> None:
    status, _, err = demo(tmp_path, "--fault", fault)
    assert status == 1
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert lines[0].startswith("teeth: ")
    assert code in lines[0]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["landed"] is False
    assert code in report["problem"]
    assert machines_of(tmp_path) == []
    assert not [path for path in (tmp_path / "disks").glob("*") if path.is_file()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        for line in process.stdout:
            if "dial-home: started" in line:
                break
        assert machines_of(tmp_path) != []
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
    finally:
        process.kill()
    assert err.strip().splitlines() == ["teeth: interrupted"]
    assert machines_of(tmp_path) == []
    assert not list((tmp_path / "disks").glob("*.raw"))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["landed"] is False
    assert report["problem"] == "interrupted"
