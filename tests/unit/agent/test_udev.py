"""pyudev against the kernel that the test runs on."""

from __future__ import annotations

from pathlib import Path

from teeth_agent import udev


def test_the_disks_are_those_of_sysfs():
    wholes = {path.name for path in Path("/sys/class/block").iterdir() if not (path / "partition").exists()}
    records = udev.disks()
    assert {record.name for record in records} == wholes
    for record in records:
        assert record.devtype == "disk"
        assert record.sysfs_path.startswith("/devices/")
        assert record.properties["DEVNAME"] == record.devnode


def test_waiting_ends_at_once_when_all_is_there():
    seen = []

    def wanted(records):
        seen.append(records)
        return True

    assert udev.wait_for_disks(wanted, 60) == udev.disks()
    assert len(seen) == 1


def test_waiting_ends_at_the_deadline_with_what_is_there():
    assert udev.wait_for_disks(lambda records: False, 0) == udev.disks()
