"""The whole erase on the lab's drive models: what was left, hidden ends, namespaces, records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fakes.simulated_drives import SimulatedMachine, Slot
from lies.agent import erase, ports, recover
from teeth.lab.drives import model
from teeth.lab.drives.model import DriveSpec
from teeth.lab.drives.nvme import NamespaceSpec, NvmeSpec
from teeth_agent.erase.leftovers import look_over
from teeth_agent.erase.methods.ata_leftovers import PASSWORD, Tries
from teeth_agent.erase.model import Grade, Outcome
from teeth_agent.erase.policy import Policy, Verification

BLOCK = frozenset({model.Method.SANITIZE_BLOCK})
SCSI_BLOCK = bytes.fromhex("48820000000000000000")


def machine(kind="sata", *behaviours, bus="sas", **spec):
    parts = {"name": "x", "blocks": 4096, "serial": "S1", "wwn": "5000c500a1b2c3d4", "erase_seconds": 600.0}
    slot = Slot(kind=kind, spec=DriveSpec(**{**parts, **spec}), bus=bus, behaviours=behaviours)
    made = SimulatedMachine([slot])
    for media in made.media:
        media.content[:] = b"REMAINS " * (len(media.content) // 8)
    return made.boot()


def one(records):
    (record,) = records
    return record


@pytest.mark.parametrize("bus", ["sata", "sas"])
@pytest.mark.parametrize("descriptor", [False, True])
def test_an_ata_drive_is_purged_by_sanitize_in_either_sense_format(bus, descriptor):
    found = machine(bus=bus, sanitizes=BLOCK, descriptor_sense=descriptor)
    record = one(erase(found, Policy(required=Grade.PURGE)))
    assert record.outcome is Outcome.PURGED, record.reason
    assert not any(found.media[0].content[: 4096 * 512])


def test_a_drive_left_locked_by_our_password_is_opened_by_the_next_look():
    found = machine(password=PASSWORD)
    assert found.units[0].disk.state.security.user
    recover(found)
    assert not found.units[0].disk.state.security.user
    assert look_over(found.look(), ports(found), Tries()) == []


def test_a_drive_locked_by_our_password_is_opened_and_erased():
    record = one(erase(machine(password=PASSWORD), Policy()))
    assert record.outcome is Outcome.PURGED
    assert record.to_json()["recovered"][0]["found"] == "recovered"


def test_a_drive_locked_by_a_stranger_is_locked_and_keeps_its_content():
    found = machine(password="nobody knows", master_password="nor this")
    record = one(erase(found, Policy()))
    assert (record.outcome, record.code) == (Outcome.LOCKED, "locked")
    assert found.media[0].content[:8] == b"REMAINS "


def test_a_sanitize_under_way_is_waited_for_and_another_one_proven():
    found = machine("scsi", sanitizes=BLOCK)
    with found.open_scsi("/dev/sda") as port:
        assert port.command(SCSI_BLOCK).status == 0
    assert look_over(found.look(), ports(found), Tries())[0][1].startswith("sanitizing")
    record = one(erase(found, Policy()))
    assert (record.outcome, record.rung.name) == (Outcome.PURGED, "scsi_sanitize_block")
    assert record.to_json()["recovered"][0]["found"] == "sanitizing"
    assert record.seconds > 1200


def test_after_a_power_cut_in_a_sanitize_the_next_life_ends_it():
    found = machine("scsi", sanitizes=BLOCK)
    with found.open_scsi("/dev/sda") as port:
        assert port.command(SCSI_BLOCK).status == 0
    found.pause(60)
    found.power_cut()
    found.boot()
    assert found.look()[0].size == 0  # it gives no capacity until it has ended
    record = one(erase(found, Policy()))
    assert record.outcome is Outcome.PURGED, record.reason
    assert record.unit.size == 4096 * 512


def test_a_hidden_end_is_opened_erased_and_stays_open():
    found = machine(bus="sata", hidden=512, overlaid=256)
    size = found.look()[0].size
    record = one(erase(found, Policy()))
    assert record.outcome is Outcome.PURGED, record.reason
    assert record.unit.size == size + (512 + 256) * 512
    assert "hidden end was opened" in record.to_json()["recovered"][0]["found"]
    assert not any(found.media[0].content[: 4096 * 512])


def test_a_failed_sanitize_falls_to_the_next_rung_or_stays_fenced():
    record = one(erase(machine("scsi", "sanitize-fails:50", sanitizes=BLOCK), Policy()))
    assert record.outcome is Outcome.CLEARED
    assert record.attempts[0]["code"] == "erase_failed"
    found = machine("scsi", "sanitize-fails:50", sanitizes=BLOCK)
    record = one(erase(found, Policy(fence=True)))
    assert (record.outcome, record.code) == (Outcome.FENCED, "fenced")
    with found.open_scsi("/dev/sda") as port:
        assert port.command(bytes(6)).status == 2  # nobody can read it


def test_an_overwrite_on_top_of_a_purge():
    found = machine("scsi", "zeroes-from-cache", sanitizes=BLOCK)
    record = one(erase(found, Policy(verification=Verification.OVERWRITE)))
    assert (record.outcome, record.rung.name) == (Outcome.PURGED, "scsi_sanitize_block+overwrite")
    found.power_cut()
    assert not any(found.media[0].content[: 4096 * 512])


def test_a_detached_namespace_is_attached_and_erased_with_the_others():
    spec = NvmeSpec(
        name="n",
        serial="N1",
        wwn="5000c500a1b2c3d6",
        blocks=4096,
        namespaces=(
            NamespaceSpec(blocks=2048),
            NamespaceSpec(blocks=2048, attached=False),
        ),
    )
    found = SimulatedMachine([Slot(kind="nvme", spec=spec, bus="nvme")])
    found.media[0].content[:] = b"REMAINS " * (len(found.media[0].content) // 8)
    found.boot()
    assert len(found.look()) == 1
    record = one(erase(found, Policy()))
    assert record.outcome is Outcome.PURGED, record.reason
    assert [medium.namespace for medium in record.unit.media] == [1, 2]
    assert record.to_json()["proof"]["canaries"]["count"] == 140


def test_no_ata_command_ever_goes_through_usb():
    found = machine(bus="usb")
    record = one(erase(found, Policy(removable=Policy().removable.ERASE)))
    assert (record.outcome, record.rung.name) == (Outcome.CLEARED, "overwrite")
    assert not [sent for sent in found.sent if sent.cdb[:1] in (b"\x85", b"\xa1")]


def test_two_drives_erase_side_by_side_and_one_that_fails_stops_no_other():
    parts = {"name": "x", "blocks": 4096, "wwn": "5000c500a1b2c3d4", "erase_seconds": 3600.0}
    first = DriveSpec(serial="S1", **parts)
    slots = [
        Slot(kind="scsi", spec=first),
        Slot(
            kind="scsi", spec=replace(first, serial="S2", wwn="5000c500a1b2c3d5"), behaviours=("never-ends",)
        ),
    ]
    found = SimulatedMachine(slots).boot()
    good, bad = erase(found, Policy(time_limit=7200.0))
    assert good.outcome is Outcome.PURGED
    assert (bad.outcome, bad.code) == (Outcome.FAILED, "time_limit")
