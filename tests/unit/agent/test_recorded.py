"""The agent on machines that were recorded: what it said of each is kept beside the recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fakes.recorded_machine import (
    RECORDINGS,
    RecordedMachine,
    dense,
    lay_out,
    plan_of,
    recordings,
    said_of,
)
from teeth_agent.drives.ata import AtaDrive
from teeth_agent.drives.ata_areas import look_areas
from teeth_agent.erase.model import Grade, Method
from teeth_agent.erase.policy import Policy
from teeth_agent.erase.protect import Action

MOST = 400 << 10


@pytest.fixture(params=recordings(), ids=lambda folder: folder.name)
def recording(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def recorded(recording: Path, tmp_path: Path) -> RecordedMachine:
    return lay_out(recording, tmp_path)


def test_there_are_recordings() -> None:
    assert len(recordings()) >= 4


def test_inventory_says_what_it_said(recording: Path, recorded: RecordedMachine) -> None:
    assert said_of(recorded) == json.loads((recording / "expected.json").read_text())


def test_no_medium_bears_two_identities_and_no_two_one(recorded: RecordedMachine) -> None:
    drives = [disk for disk in recorded.disks() if disk.out_of_scope is None]
    assert len({disk.name for disk in drives}) == len(drives)
    assert len({(disk.identity, disk.namespace) for disk in drives}) == len(drives)


def test_a_recording_is_small_says_what_it_lacks_and_names_nobody(recording: Path) -> None:
    about = json.loads((recording / "manifest.json").read_text())
    assert about["scrubbed"] is True
    assert isinstance(about["missing"], list)
    assert about["note"]
    files = [file for file in recording.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < MOST


def test_a_checksum_holds_where_a_drive_has_one(recorded: RecordedMachine) -> None:
    for entry in recorded.answers.values():
        for answer in entry.get("scsi", ()):
            if answer["cdb"].startswith("85") and answer["cdb"][28:30] == "ec" and answer["status"] == 0:
                data = dense(answer["data"])
                assert len(data) == 512
                assert data[510] != 0xA5 or sum(data) & 0xFF == 0  # QEMU's has none


def replay(name: str, tmp_path: Path) -> RecordedMachine:
    return lay_out(RECORDINGS / name, tmp_path)


def decided(recorded: RecordedMachine, grade: Grade, **policy: Any) -> dict[str, tuple[str, str]]:
    """Action and code by the unit's first device."""
    units = plan_of(recorded, Policy(required=grade, **policy)).units
    return {one.unit.first.name: (one.action.value, one.code) for one in units}


def test_namespaces_are_one_unit_and_what_is_no_bare_drive_is_refused(tmp_path: Path) -> None:
    recorded = replay("qemu-every-bus", tmp_path)
    assert decided(recorded, Grade.CLEAR) == {
        "nvme0n1": ("erase", ""),
        "sda": ("erase", ""),
        "sdb": ("erase", ""),
        "sdc": ("refuse", "removable_blocked"),
        "vda": ("refuse", "read_only"),
    }
    # Nothing in QEMU erases to more than clear.
    assert {action for action, _ in decided(recorded, Grade.PURGE).values()} == {"refuse"}
    unit = plan_of(recorded, Policy()).units[0].unit
    assert [(medium.name, medium.namespace) for medium in unit.media] == [("nvme0n1", 1), ("nvme0n2", 2)]


def test_two_ways_to_a_namespace_are_one_disk_and_an_empty_controller_is_told_of(tmp_path: Path) -> None:
    recorded = replay("qemu-nvme-multipath", tmp_path)
    assert [disk.name for disk in recorded.disks()] == ["nvme0n1", "vda"]
    assert plan_of(recorded, Policy()).unaccounted == ("NVMe nvme2: no namespace",)


def test_drives_behind_an_adapter_are_planned_by_their_own_words(tmp_path: Path) -> None:
    recorded = replay("simulated-sata-and-scsi", tmp_path)
    plan = {one.unit.first.name: one for one in plan_of(recorded, Policy(required=Grade.PURGE)).units}
    assert plan["sda"].rungs[0].methods == (Method.ATA_SANITIZE_CRYPTO, Method.ATA_SANITIZE_BLOCK)
    security = {Method.ATA_SECURITY_ERASE, Method.ATA_SECURITY_ERASE_ENHANCED}
    assert security & {method for rung in plan["sda"].rungs for method in rung.methods}
    # Frozen: no security command is planned, sanitize is.
    assert not security & {method for rung in plan["sdb"].rungs for method in rung.methods}
    assert plan["sdb"].rungs
    # Locked: whether a known password opens it is found out only when it is to be erased.
    assert (plan["sdc"].action, len(plan["sdc"].noted)) == (Action.ERASE, 1)
    assert "locked by an ATA password" in plan["sdc"].noted[0]
    assert plan["sdd"].rungs[0].methods == (Method.SCSI_SANITIZE_CRYPTO, Method.SCSI_SANITIZE_BLOCK)


def test_a_host_protected_area_is_seen_in_the_answers(tmp_path: Path) -> None:
    recorded = replay("simulated-sata-and-scsi", tmp_path)
    (disk,) = [one for one in recorded.disks() if one.name == "sda"]
    areas = look_areas(AtaDrive(recorded.scsi("sda"), name=disk.devnode, transport=disk.transport))
    assert (areas.accessible * 512, areas.hidden) == (disk.size, 32768)


def test_a_disk_that_is_mounted_is_refused(tmp_path: Path) -> None:
    recorded = replay("cloud-virtio", tmp_path)
    assert decided(recorded, Grade.CLEAR) == {"vda": ("refuse", "in_use")}
