"""The host's proofs: each claim fails when its own evidence is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from teeth.demo.proof import LANDING_FILE, ProofError, disks_are_clean, kexec_proofs, landing_proofs, require
from teeth.demo.scenario import Fault, Scenario
from teeth.lab.console import Line
from teeth.lab.machine import DiskBoot
from teeth.lab.network import Network
from teeth.lab.pattern import create_dirty_disk, create_disk, scan_disk

FIRMWARE = "SeaBIOS (version 1.16.2)"
IPXE = "iPXE 1.21.1+ (g1) -- Open Source Network Boot Firmware -- https://ipxe.org"
KERNEL = "[    0.000000] Linux version 6.12.0 (somebody)"


def console(*texts: str) -> list[Line]:
    return [Line(number=number, at=float(number), text=text) for number, text in enumerate(texts)]


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario(folder=tmp_path)


def facts(scenario: Scenario, **changes: object) -> dict[str, object]:
    landed: dict[str, object] = {
        "hostname": scenario.host_name,
        "boot_id": "new",
        "cmdline": "BOOT_IMAGE=/vmlinuz root=UUID=1 ro",
        "files": {LANDING_FILE: scenario.secret + "\n"},
    }
    return {**landed, **changes}


def test_a_landing_with_everything(scenario: Scenario) -> None:
    assert all(landing_proofs(scenario, facts(scenario), ramdisk_boot_id="old").values())


@pytest.mark.parametrize(
    ("proof", "changes"),
    [
        ("host_name_from_config_drive", {"hostname": "debian"}),
        ("file_from_config_drive", {"files": {LANDING_FILE: "something else"}}),
        ("file_from_config_drive", {"files": {LANDING_FILE: None}}),
        ("file_from_config_drive", {"files": None}),
        ("new_boot_id", {"boot_id": "old"}),
        ("new_boot_id", {"boot_id": ""}),
        ("new_command_line", {"cmdline": "root=UUID=1 teeth.endpoint=10.0.2.2:1"}),
        ("new_command_line", {"cmdline": "ro"}),
    ],
)
def test_each_missing_fact_fails_its_own_proof(
    scenario: Scenario, proof: str, changes: dict[str, object]
) -> None:
    found = landing_proofs(scenario, facts(scenario, **changes), ramdisk_boot_id="old")
    assert [name for name, holds in found.items() if not holds] == [proof]
    with pytest.raises(ProofError, match=proof.replace("_", " ")):
        require(found)


def test_an_empty_landing_proves_nothing(scenario: Scenario) -> None:
    assert not any(landing_proofs(scenario, {}, ramdisk_boot_id="old").values())


def test_a_kexec() -> None:
    assert all(kexec_proofs(console(FIRMWARE, IPXE, KERNEL, KERNEL), resets=0).values())


@pytest.mark.parametrize(
    ("lines", "resets", "missing"),
    [
        ((FIRMWARE, IPXE, KERNEL, KERNEL), 1, {"no_machine_reset"}),
        ((FIRMWARE, KERNEL), 0, {"second_kernel_started"}),
        ((FIRMWARE, KERNEL, FIRMWARE, KERNEL), 0, {"firmware_did_not_run_again"}),
        ((FIRMWARE, KERNEL, IPXE, KERNEL), 0, {"firmware_did_not_run_again"}),
        ((), 0, {"second_kernel_started"}),
    ],
)
def test_a_restart_is_no_kexec(lines: tuple[str, ...], resets: int, missing: set[str]) -> None:
    found = kexec_proofs(console(*lines), resets=resets)
    assert {name for name, holds in found.items() if not holds} == missing


def test_disks_are_read_by_the_host(scenario: Scenario) -> None:
    small = [disk for disk in scenario.disks if disk.size <= 256 << 20][:1]
    (disk,) = small
    create_disk(disk.path, disk.size)
    assert "nothing of the old data" in disks_are_clean([(disk, scan_disk(disk.path))])
    create_dirty_disk(disk.path, 1 << 20, disk.serial)
    with pytest.raises(ProofError, match=f"{disk.serial} still holds"):
        disks_are_clean([(disk, scan_disk(disk.path))])


def test_every_run_has_secrets_of_its_own(tmp_path: Path) -> None:
    one, other = Scenario(folder=tmp_path), Scenario(folder=tmp_path)
    assert one.secret != other.secret
    assert one.host_name != other.host_name
    assert one.uuid != other.uuid


def test_faults_change_the_machine(tmp_path: Path) -> None:
    assert Scenario(folder=tmp_path, fault=Fault.NO_DISK).disks == ()
    assert Scenario(folder=tmp_path, fault=Fault.SMALL_DISK).disks[0].size < 100 << 20
    silent = Scenario(folder=tmp_path, fault=Fault.NO_DHCP).machine(DiskBoot(), 1)
    assert silent.nics[0].network is Network.SILENT
    assert not Scenario(folder=tmp_path, fault=Fault.NO_LINK).machine(DiskBoot(), 1).nics[0].link
    whole = Scenario(folder=tmp_path).machine(DiskBoot(), 1)
    assert len({disk.bus for disk in whole.disks}) == 3
    assert whole.nics[0].link
