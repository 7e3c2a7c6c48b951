"""An agent's word is not proof: what its record does not show is certified as failed."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.erase_records import failed, proof, purged
from teeth.certificate.body import Origin, Place, make_body
from teeth.certificate.evidence import doubts

PLACE = Place(sequence=1, previous="sha256:" + "0" * 64, issued=0.0)
ORIGIN = Origin(
    ca="c", version="1", node_id="n", macs=(), machine={}, boot_id=None, agent=None, ramdisk=None,
    task_id="t", asked=0, finished=0, params={}, required_grade=None, plan_digest=None,
    task_state="error", task_code="", task_msg="",
)  # fmt: skip


def without(name: str, **members: Any) -> dict[str, Any]:
    changed = proof()
    changed[name] = changed[name] | members
    return purged(proof=changed)


def test_a_whole_proof_leaves_no_doubt() -> None:
    assert doubts(purged()) == []
    assert doubts(purged(outcome="cleared", grade="clear")) == []
    assert make_body(ORIGIN, purged(), PLACE)["grade"] == "purge"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (without("identity", unchanged=False), "the same before and after"),
        (without("identity", unchanged="yes"), "the same before and after"),
        (without("device_status", completed=None), "did not confirm"),
        (without("canaries", count=0), "none were planted"),
        (without("canaries", survived=1), "canaries survived"),
        (without("canaries", survived=None), "canaries survived"),
        (without("canaries", second_looks=[]), "nobody looked"),
        (without("canaries", second_looks=[{"returned": []}, {"returned": [4096]}]), "came back"),
        (without("canaries", second_looks=None), "nobody looked"),
        (without("readback", bytes=0), "did not happen"),
        (without("readback", mismatches=1), "found data"),
        (without("kernel_log", complete=False), "gaps"),
        (without("kernel_log", count=2), "errors of the drive"),
        (without("hidden_areas", state="found"), "hidden areas"),
        (without("hidden_areas", state="unknown"), "hidden areas"),
        (purged(proof=None), "there is no proof"),
        (purged(proof=proof() | {"kernel_log": None}), "kernel's log"),
        (purged(grade="clear"), "the outcome is purged and the grade clear"),
        (purged(method=None), "no method"),
        (purged(serial=None), "no name of its own"),
    ],
)  # fmt: skip
def test_every_gap_in_the_proof_makes_it_a_failure(record: dict[str, Any], words: str) -> None:
    assert any(words in doubt for doubt in doubts(record))
    body = make_body(ORIGIN, record, PLACE)
    assert (body["outcome"], body["grade"]) == ("failed", None)
    assert "NOT proven" in body["statement"]
    assert body["record"]["outcome"] == "purged"  # what the agent said stays visible


def test_what_claims_nothing_is_taken_as_it_is() -> None:
    for record in (failed(), purged(outcome="excluded", grade=None, proof=None)):
        body = make_body(ORIGIN, record, PLACE)
        assert (body["outcome"], body["grade"], body["doubts"]) == (record["outcome"], None, [])
    assert "left alone" in make_body(ORIGIN, purged(outcome="excluded"), PLACE)["statement"]
    assert make_body(ORIGIN, None, PLACE)["outcome"] == "failed"
