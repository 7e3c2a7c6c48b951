"""Hidden ends are found, removed for good, and never guessed."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.ata_port import RigPort, codes_only
from fakes.drive_rig import Rig
from teeth_agent.drives.ata import AtaDrive
from teeth_agent.drives.ata_areas import Areas, look_areas, restore_native_max


def made(**spec: Any) -> tuple[Rig, RigPort, AtaDrive]:
    rig = Rig("sata", **spec)
    port = RigPort(rig)
    return rig, port, AtaDrive(port, name="/dev/sda", transport="sata")


@pytest.mark.parametrize("descriptor", [True, False])
@pytest.mark.parametrize(
    ("spec", "areas"),
    [
        ({}, Areas(accessible=8192, native=8192, overlay=8192)),
        ({"hidden": 192}, Areas(accessible=8000, native=8192, overlay=8192)),
        ({"overlaid": 1000}, Areas(accessible=7192, native=7192, overlay=8192)),
        ({"hidden": 192, "overlaid": 1000}, Areas(accessible=7000, native=7192, overlay=8192)),
        ({"hidden": 192, "hidden_by": "ama"}, Areas(accessible=8000, native=8192, overlay=8192)),
        ({"hidden_by": "ama"}, Areas(accessible=8192, native=8192, overlay=8192)),
    ],
)
def test_ends_are_seen_and_restored_for_good(spec: dict[str, Any], areas: Areas, descriptor: bool) -> None:
    rig, _, drive = made(descriptor_sense=descriptor, **spec)
    assert look_areas(drive) == areas
    restored = restore_native_max(drive)
    assert restored.before == areas
    assert restored.after == Areas(accessible=8192, native=8192, overlay=8192)
    assert restored.after.hidden == 0
    assert restored.changed is (areas.accessible != 8192)
    rig.power_cycle()
    assert look_areas(drive) == restored.after
    sent = len(drive.commands)
    assert not restore_native_max(drive).changed
    assert len(drive.commands) == sent  # nothing to do, nothing done


def test_a_second_change_in_a_power_cycle_is_refused_and_said_so() -> None:
    rig, _, drive = made(hidden=192)
    drive.set_max(8000, lba48=True, keep=True)
    restored = restore_native_max(drive)
    assert restored.after.hidden == 192
    assert len(restored.refused) == 1
    assert "SET MAX ADDRESS" in restored.refused[0]
    rig.power_cycle()
    assert restore_native_max(drive).after.hidden == 0


def test_a_lasting_change_that_was_used_up_is_made_for_the_moment_where_an_overlay_goes() -> None:
    _, _, drive = made(hidden=192, overlaid=1000)
    drive.set_max(7000, lba48=True, keep=True)
    restored = restore_native_max(drive)
    assert restored.after == Areas(accessible=8192, native=8192, overlay=8192)


def test_a_frozen_overlay_is_unknown() -> None:
    rig, port, drive = made(overlaid=1000)
    rig.ata_good(0xB1, features=0xC1)  # as firmware does at boot
    areas = look_areas(drive)
    assert (areas.native, areas.overlay, areas.hidden) == (7192, None, None)
    assert "DEVICE CONFIGURATION IDENTIFY was refused" in areas.unknown
    assert restore_native_max(drive).after.hidden is None
    assert 0xC0 not in [cdb[4] for cdb, _ in port.sent if cdb[14] == 0xB1]


def test_registers_that_got_lost_are_unknown() -> None:
    _, port, drive = made(hidden=192, descriptor_sense=True)
    port.strip = codes_only
    areas = look_areas(drive)
    assert (areas.accessible, areas.native, areas.hidden) == (8000, None, None)
    assert areas.unknown
    restored = restore_native_max(drive)
    assert not restored.changed
    assert 0xF9 not in port.opcodes()
    assert 0x37 not in port.opcodes()


def test_a_drive_that_says_more_than_it_has_is_unknown() -> None:
    rig, _, drive = made()
    rig.lie("capacity-double")
    assert look_areas(drive).hidden is None


def test_numbers_that_cannot_be_are_unknown() -> None:
    assert Areas(accessible=10, native=5, overlay=10).hidden is None
    assert Areas(accessible=10, native=10, overlay=12).hidden == 2
