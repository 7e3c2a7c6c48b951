"""Plans: what is erased how, what is refused and why. Pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fakes.disks import medium, nvme_medium
from teeth_agent.erase.model import Grade, Method, group_units
from teeth_agent.erase.plan import Action, Probes, plan_erase
from teeth_agent.erase.policy import Policy, Removable, Verification, read_policy
from teeth_agent.errors import ParamsError
from teeth_agent.tools.hdparm import Identity
from teeth_agent.tools.nvme import Controller

PLAIN = Controller(name="nvme0", oacs=0, fna=0, sanicap=0, total_capacity=0, unallocated_capacity=0)
FORMATS = replace(PLAIN, oacs=2)
CRYPTO = replace(FORMATS, fna=4)
LOCKED = Identity(
    answered=True, has_hpa=False, security_supported=True, enabled=True, locked=True, frozen=False
)


def plan_one(subject, policy=None, probes=None):
    (unit,) = plan_erase((subject,), policy or Policy(), probes or Probes()).units
    return unit


@pytest.mark.parametrize(
    ("controller", "ladder"),
    [
        (PLAIN, [Method.OVERWRITE]),
        (FORMATS, [Method.NVME_FORMAT_USER_DATA, Method.OVERWRITE]),
        (CRYPTO, [Method.NVME_FORMAT_CRYPTO, Method.NVME_FORMAT_USER_DATA, Method.OVERWRITE]),
        (replace(PLAIN, fna=4), [Method.OVERWRITE]),
    ],
)
def test_the_ladder_follows_what_the_controller_can_do(controller, ladder):
    unit = plan_one(nvme_medium("nvme0"), probes=Probes(nvme={"nvme0": controller}))
    assert (unit.action, list(unit.methods)) == (Action.ERASE, ladder)


def test_a_required_grade_takes_the_lower_rungs_away():
    purge = Policy(required=Grade.PURGE)
    unit = plan_one(nvme_medium("nvme0"), purge, Probes(nvme={"nvme0": CRYPTO}))
    assert list(unit.methods) == [Method.NVME_FORMAT_CRYPTO]
    unit = plan_one(medium("sda"), purge)
    assert (unit.action, unit.code) == (Action.REFUSE, "grade_unreachable")


@pytest.mark.parametrize(
    ("changes", "policy", "action", "code"),
    [
        ({}, Policy(), Action.ERASE, ""),
        ({"in_use": ("sda1 is mounted at /",)}, Policy(), Action.REFUSE, "in_use"),
        ({"read_only": True}, Policy(), Action.REFUSE, "read_only"),
        ({"size": 0}, Policy(), Action.REFUSE, "unreadable"),
        ({"transport": "usb"}, Policy(), Action.REFUSE, "removable_blocked"),
        ({"removable": True}, Policy(), Action.REFUSE, "removable_blocked"),
        ({"transport": "usb"}, Policy(removable=Removable.ERASE), Action.ERASE, ""),
        ({"transport": "sd"}, Policy(removable=Removable.EXCLUDE), Action.EXCLUDE, "removable"),
        ({"virtual_media": "iDRAC"}, Policy(removable=Removable.ERASE), Action.EXCLUDE, "virtual_media"),
        ({"transport": "iscsi"}, Policy(), Action.REFUSE, "shared_transport"),
        ({"transport": "fc"}, Policy(allow=frozenset({"S-sda"})), Action.ERASE, ""),
        ({}, Policy(allow=frozenset({"other"})), Action.EXCLUDE, "not_allowed"),
        ({}, Policy(exclude=frozenset({"S-sda"})), Action.EXCLUDE, "excluded_by_command"),
        ({"wwn": "0xabc"}, Policy(exclude=frozenset({"0xabc"})), Action.EXCLUDE, "excluded_by_command"),
        ({"wwn": "0xabc"}, Policy(exclude=frozenset({"0xABC"})), Action.EXCLUDE, "excluded_by_command"),
        ({"wwn": "0xabc"}, Policy(exclude=frozenset({"ABC"})), Action.EXCLUDE, "excluded_by_command"),
        ({}, Policy(exclude=frozenset({"s-sda "})), Action.EXCLUDE, "excluded_by_command"),
        ({"serial": None, "wwn": None}, Policy(exclude=frozenset({"None"})), Action.ERASE, ""),
        ({}, Policy(expected=frozenset({"other"})), Action.REFUSE, "unexpected_disk"),
        ({}, Policy(expected=frozenset({"S-sda"})), Action.ERASE, ""),
        ({"in_use": ("x",)}, Policy(exclude=frozenset({"S-sda"})), Action.EXCLUDE, "excluded_by_command"),
    ],
)
def test_rules(changes, policy, action, code):
    unit = plan_one(medium("sda", **changes), policy)
    assert (unit.action, unit.code) == (action, code)
    assert bool(unit.methods) == (action is Action.ERASE)
    assert bool(unit.reason) == (action is not Action.ERASE)


def test_a_locked_drive_is_locked():
    unit = plan_one(medium("sda", transport="sata"), probes=Probes(ata={"sda": LOCKED}))
    assert (unit.action, unit.code) == (Action.LOCKED, "locked")


def test_one_path_in_use_refuses_the_unit():
    media = (medium("sda", wwn="0x1"), medium("sdb", wwn="0x1", in_use=("sdb is held by dm-0",)))
    (unit,) = plan_erase(media, Policy(), Probes()).units
    assert (unit.action, unit.reason) == (Action.REFUSE, "sdb is held by dm-0")


def test_what_is_named_and_not_there_is_missing_and_what_is_no_drive_is_listed():
    media = (medium("sda"), medium("loop0", out_of_scope="a file, not a drive"))
    policy = Policy(expected=frozenset({"S-sda", "S-b"}), allow=frozenset({"S-sda", "S-c"}))
    plan = plan_erase(media, policy, Probes())
    assert plan.missing == ("S-b", "S-c")
    assert plan.out_of_scope == (("loop0", "a file, not a drive"),)
    assert len(plan.units) == 1


def test_grouping():
    media = (
        nvme_medium("nvme0", 1),
        nvme_medium("nvme0", 2),
        nvme_medium("nvme1", 1),
        medium("sda", wwn="0x1"),
        medium("sdb", wwn="0x1"),
        medium("sdc", wwn="0x2"),
        medium("vda", wwn=None, serial="A"),
        medium("vdb", wwn=None, serial="B"),
        medium("vdc", wwn=None, serial=None),
        medium("vdd", wwn=None, serial=None),
    )
    names = [[[path.name for path in extent.paths] for extent in unit.extents] for unit in group_units(media)]
    assert names == [
        [["nvme0n1"], ["nvme0n2"]],
        [["nvme1n1"]],
        [["sda", "sdb"]],
        [["sdc"]],
        [["vda"]],
        [["vdb"]],
        [["vdc"]],
        [["vdd"]],
    ]


def test_a_wwn_on_disks_of_different_size_does_not_make_them_one():
    assert len(group_units((medium("sda", wwn="0x1"), medium("sdb", wwn="0x1", size=1 << 20)))) == 2


def test_the_digest_changes_with_the_machine_and_with_nothing_else():
    def digest(subject, policy=None, probes=None):
        return plan_erase((subject,), policy or Policy(), probes or Probes()).digest

    base = digest(nvme_medium("nvme0"))
    assert digest(nvme_medium("nvme0")) == base
    others = {
        digest(nvme_medium("nvme0", diskseq=9)),
        digest(nvme_medium("nvme0", size=1 << 20)),
        digest(nvme_medium("nvme0", in_use=("x",))),
        digest(nvme_medium("nvme0"), probes=Probes(nvme={"nvme0": FORMATS})),
        digest(nvme_medium("nvme0"), Policy(verification=Verification.SAMPLED)),
    }
    assert len(others) == 5
    assert base not in others


def test_policy_is_read_in_full():
    policy = read_policy(
        {
            "task_id": "t1",
            "plan": True,
            "plan_digest": "sha256:" + "0" * 64,
            "required_grade": "purge",
            "allow": ["A"],
            "exclude": ["B"],
            "expected_serials": ["A", "B"],
            "removable": "erase",
            "verification": "sampled",
            "expect_no_disk": True,
            "expect_unaccounted": True,
        }
    )
    assert policy == Policy(
        required=Grade.PURGE,
        allow=frozenset("A"),
        exclude=frozenset("B"),
        expected=frozenset("AB"),
        removable=Removable.ERASE,
        verification=Verification.SAMPLED,
        expect_none=True,
        expect_unaccounted=True,
        plan_only=True,
        plan_digest="sha256:" + "0" * 64,
    )
    assert read_policy({}) == Policy()


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"exlude": ["B"]}, "params.exlude"),
        ({"required_grade": "destroy"}, "params.required_grade"),
        ({"removable": True}, "params.removable"),
        ({"exclude": "B"}, "params.exclude"),
        ({"exclude": ["A", 7]}, r"params.exclude\[1\]"),
        ({"exclude": [""]}, r"params.exclude\[0\]"),
        ({"exclude": ["A"] * 5000}, "params.exclude"),
        ({"plan": "yes"}, "params.plan"),
        ({"plan_digest": "abc"}, "params.plan_digest"),
        ({"allow": ["A"], "exclude": ["A"]}, "params.exclude"),
        ({"allow": ["0xA"], "exclude": ["a"]}, "params.exclude"),
    ],
)
def test_bad_params_are_refused_by_path(params, path):
    with pytest.raises(ParamsError, match=path):
        read_policy(params)
