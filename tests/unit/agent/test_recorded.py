"""The agent on machines that were recorded: what it said of each is kept beside the recording."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes.recorded_machine import RecordedMachine, dense, lay_out, recordings, said_of

MOST = 400 << 10


@pytest.fixture(params=recordings(), ids=lambda folder: folder.name)
def recording(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def recorded(recording: Path, tmp_path: Path) -> RecordedMachine:
    return lay_out(recording, tmp_path)


def test_there_are_recordings() -> None:
    assert recordings()


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


def test_every_identify_is_whole(recorded: RecordedMachine) -> None:
    for entry in recorded.answers.values():
        for answer in entry.get("scsi", ()):
            if answer["cdb"].startswith("85") and answer["cdb"][28:30] == "ec" and answer["status"] == 0:
                data = dense(answer["data"])
                assert (len(data), data[510], sum(data) & 0xFF) == (512, 0xA5, 0)
