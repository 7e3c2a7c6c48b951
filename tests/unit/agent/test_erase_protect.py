"""What is left alone: one row for each row of the protection table, and the order in which rules count."""

from __future__ import annotations

import pytest

from fakes.disks import medium
from teeth_agent.erase.capabilities import AtaCapabilities, AtaSecurity
from teeth_agent.erase.model import group_units
from teeth_agent.erase.plan import Probes, plan_erase
from teeth_agent.erase.policy import ExcludeRule, Policy, Removable
from teeth_agent.erase.protect import Action, Facts, protect

NAMED = frozenset({"S-sda"})
SHARED = Facts(shared_use=("sda1 holds VMFS_volume_member",))

SMALL = Policy(exclude_rules=(ExcludeRule(rule="r1", at_most=8 << 20),))

LOCKED = Facts(capabilities=AtaCapabilities(security=AtaSecurity(locked=True)))
FROZEN = Facts(capabilities=AtaCapabilities(security=AtaSecurity(locked=True, frozen=True)))
EXPIRED = Facts(capabilities=AtaCapabilities(security=AtaSecurity(locked=True, expired=True)))

TABLE = [
    # mounted, swap, held: refused, naming the holder
    ({"in_use": ("sda1 is mounted at /",)}, Policy(), Facts(), "refuse in_use sda1 is mounted at /"),
    ({"in_use": ("sda2 is used as swap",)}, Policy(), Facts(), "refuse in_use sda2 is used as swap"),
    ({"in_use": ("sda is held by md0",)}, Policy(), Facts(), "refuse in_use sda is held by md0"),
    # virtual media of a management controller: excluded, with the reason
    ({"transport": "usb", "virtual_media": "iDRAC"}, Policy(), Facts(), "exclude virtual_media iDRAC"),
    # other USB, SD, removable: blocked until the command says erase or exclude
    ({"transport": "usb"}, Policy(), Facts(), "refuse removable_blocked"),
    ({"transport": "sd"}, Policy(), Facts(), "refuse removable_blocked"),
    ({"removable": True}, Policy(), Facts(), "refuse removable_blocked"),
    ({"transport": "usb"}, Policy(removable=Removable.ERASE), Facts(), ""),
    ({"transport": "usb"}, Policy(removable=Removable.EXCLUDE), Facts(), "exclude removable"),
    # shared transports: refused unless the command names them
    ({"transport": "iscsi"}, Policy(), Facts(), "refuse shared_transport"),
    ({"transport": "fc"}, Policy(), Facts(), "refuse shared_transport"),
    ({"transport": "nvme-tcp"}, Policy(), Facts(), "refuse shared_transport"),
    ({"transport": "nvme-rdma"}, Policy(), Facts(), "refuse shared_transport"),
    ({"transport": "iscsi"}, Policy(allow=NAMED), Facts(), ""),
    # others' reservations, cluster file systems: refused on shared transports, noted on local ones
    ({"transport": "iscsi"}, Policy(allow=NAMED), SHARED, "refuse shared_use"),
    ({"transport": "sas"}, Policy(), SHARED, ""),
    # write protected, unreadable: failed, never skipped
    ({"read_only": True}, Policy(), Facts(), "refuse read_only"),
    ({"size": 0}, Policy(), Facts(), "refuse unreadable"),
    ({"size": 0}, Policy(), Facts(busy="sanitizing"), ""),
    # locked by a password: known ones are tried, unless the drive takes none
    ({"transport": "sata"}, Policy(), LOCKED, ""),
    ({"transport": "sata"}, Policy(), FROZEN, "locked locked"),
    ({"transport": "sata"}, Policy(), EXPIRED, "locked locked"),
    # the command's own rules
    ({}, Policy(exclude=NAMED), Facts(), "exclude excluded_by_command"),
    ({}, Policy(exclude_rules=(ExcludeRule(rule="r1", model="disk"),)), Facts(), "exclude excluded_by_rule"),
    ({}, Policy(exclude_rules=(ExcludeRule(rule="r1", transport="usb"),)), Facts(), ""),
    (
        {},
        Policy(exclude_rules=(ExcludeRule(rule="r1", model="DISK", at_most=1 << 20),)),
        Facts(),
        "",
    ),
    (
        {},
        SMALL,
        Facts(),
        "exclude excluded_by_rule",
    ),
    ({}, Policy(allow=frozenset({"other"})), Facts(), "exclude not_allowed"),
    ({}, Policy(expected=frozenset({"other"})), Facts(), "refuse unexpected_disk"),
    # what counts first
    ({"in_use": ("x",)}, Policy(exclude=NAMED), Facts(), "exclude excluded_by_command"),
    ({"in_use": ("x",), "size": 0, "transport": "usb"}, Policy(), Facts(), "refuse in_use x"),
    ({}, Policy(), Facts(), ""),
]


@pytest.mark.parametrize(("changes", "policy", "facts", "said"), TABLE)
def test_the_protection_table(changes, policy, facts, said):
    (unit,) = group_units((medium("sda", **changes),))
    stop = protect(unit, facts, policy)
    if not said:
        assert stop is None
        return
    assert stop is not None
    assert f"{stop.action.value} {stop.code} {stop.reason}".startswith(said)
    assert stop.reason


def test_what_is_no_drive_is_listed_with_its_reason():
    plan = plan_erase((medium("loop0", out_of_scope="a file, not a drive"),), Policy(), Probes())
    assert (plan.units, plan.out_of_scope) == ((), (("loop0", "a file, not a drive"),))


def test_a_local_disk_that_others_may_use_is_erased_and_the_plan_says_so():
    (unit,) = plan_erase((medium("sda"),), Policy(), Probes(facts={"sda": SHARED})).units
    assert unit.action is Action.ERASE
    assert unit.to_json()["noted"] == ["sda1 holds VMFS_volume_member"]


BUSY = Probes(facts={"sda": Facts(busy="sanitizing")})


def test_a_locked_or_busy_drive_is_planned_for_with_a_word_of_it():
    sata = medium("sda", transport="sata")
    (unit,) = plan_erase((sata,), Policy(), Probes(facts={"sda": LOCKED})).units
    assert unit.action is Action.ERASE
    assert "password" in unit.noted[0]
    (unit,) = plan_erase((medium("sda", size=0),), Policy(), BUSY).units
    assert (unit.action, unit.noted) == (Action.ERASE, ("sanitizing: that is seen to first",))
