"""Plans: what is erased how, what is refused and why. Pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fakes.disks import medium, nvme_medium
from teeth_agent.erase.capabilities import (
    NvmeCapabilities,
    PlainCapabilities,
    Sanitizes,
    ScsiCapabilities,
)
from teeth_agent.erase.model import Grade, Method, group_units
from teeth_agent.erase.plan import Probes, plan_erase
from teeth_agent.erase.policy import ExcludeRule, Policy, Removable, Verification, read_policy
from teeth_agent.erase.protect import Action, Facts
from teeth_agent.errors import ParamsError

FORMATS = Facts(capabilities=NvmeCapabilities(format=True))


def plan_one(subject, policy=None, probes=None):
    (unit,) = plan_erase((subject,), policy or Policy(), probes or Probes()).units
    return unit


def test_rungs_grades_and_what_was_passed_over_are_in_the_plan():
    facts = Facts(capabilities=NvmeCapabilities(format=True, format_crypto=True))
    policy = Policy(required=Grade.PURGE)
    unit = plan_one(nvme_medium("nvme0"), policy, Probes(facts={"nvme0n1": facts})).to_json()
    assert (unit["kind"], unit["action"]) == ("nvme", "erase")
    assert unit["methods"] == [{"method": "nvme_format_crypto", "grade": "purge"}]
    assert [over["method"] for over in unit["passed_over"]] == ["nvme_format_user_data", "overwrite"]


def test_a_grade_that_no_rung_reaches_is_refused():
    unit = plan_one(medium("sda"), Policy(required=Grade.PURGE))
    assert (unit.action, unit.code) == (Action.REFUSE, "grade_unreachable")
    assert unit.passed_over
    assert unit.reason


def test_how_long_it_takes_is_said_as_far_as_anybody_knows():
    block = Method.SCSI_SANITIZE_BLOCK
    told = ScsiCapabilities(sanitizes=Sanitizes(block=True), seconds={block: 600.0})
    silent = replace(told, seconds={})
    disk = medium("sda", transport="sas", size=400_000_000_000)

    def seconds(capabilities, **policy):
        facts = Facts(capabilities=capabilities)
        return plan_one(disk, Policy(**policy), Probes(facts={"sda": facts})).seconds

    assert seconds(silent) is None
    assert seconds(told) == pytest.approx(600 + 1000)
    assert seconds(told, verification=Verification.SAMPLED) == pytest.approx(600 + 100)
    assert seconds(PlainCapabilities(reason="x")) == pytest.approx(2000)


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
        digest(nvme_medium("nvme0"), probes=Probes(facts={"nvme0n1": FORMATS})),
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
            "exclude_rules": [{"rule": "r1", "model": "M", "transport": "usb", "at_most": 5}],
            "fallback": False,
            "firmware_traces": True,
            "fence": True,
            "time_limit": 3600,
            "verification": "sampled",
            "expect_no_disk": True,
            "expect_unaccounted": True,
        }
    )
    assert policy == Policy(
        required=Grade.PURGE,
        allow=frozenset("A"),
        exclude=frozenset("B"),
        exclude_rules=(ExcludeRule(rule="r1", model="M", transport="usb", at_most=5),),
        fallback=False,
        firmware_traces=True,
        fence=True,
        time_limit=3600.0,
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
        ({"exclude_rules": [{"rule": "r1"}]}, "rule r1"),
        ({"exclude_rules": [{"rule": "r1", "modle": "x"}]}, r"params.exclude_rules\[0\].modle"),
        ({"time_limit": 1}, "params.time_limit"),
        ({"plan": "yes"}, "params.plan"),
        ({"plan_digest": "abc"}, "params.plan_digest"),
        ({"allow": ["A"], "exclude": ["A"]}, "params.exclude"),
        ({"allow": ["0xA"], "exclude": ["a"]}, "params.exclude"),
    ],
)
def test_bad_params_are_refused_by_path(params, path):
    with pytest.raises(ParamsError, match=path):
        read_policy(params)
