"""Whether an agent's record of an erase proves what it claims. No erase is certified on its word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

GRADES = ("clear", "purge")
_OUTCOME_GRADE = {"purged": "purge", "cleared": "clear"}
_NO_HIDDEN_AREA = ("none", "not_applicable")


def claimed_grade(record: Mapping[str, Any]) -> str | None:
    """The grade that a record's outcome claims; None when it claims no erase."""
    return _OUTCOME_GRADE.get(str(record.get("outcome")))


def doubts(record: Mapping[str, Any]) -> list[str]:
    """Why a record that claims an erase does not prove it, a phrase each; empty if it claims none."""
    grade = claimed_grade(record)
    if grade is None:
        return []
    return list(_doubts(record, grade))


def _doubts(record: Mapping[str, Any], grade: str) -> Iterator[str]:
    if record.get("grade") != grade:
        yield f"the outcome is {record.get('outcome')} and the grade {record.get('grade')}"
    if not record.get("method"):
        yield "no method is named"
    if not (record.get("serial") or record.get("wwn")):
        yield "the drive has no name of its own"
    proof = record.get("proof")
    if not isinstance(proof, Mapping):
        yield "there is no proof"
        return
    if _member(proof, "identity", "unchanged") is not True:
        yield "the drive was not seen to be the same before and after"
    if _member(proof, "device_status", "completed") is not True:
        yield "the drive did not confirm the erase"
    if not _positive(_member(proof, "canaries", "count")) or _member(proof, "canaries", "survived") != 0:
        yield "canaries survived, or none were planted"
    if not _nothing_returned(_member(proof, "canaries", "second_looks")):
        yield "old content came back when something was written, or nobody looked"
    if not _positive(_member(proof, "readback", "bytes")) or _member(proof, "readback", "mismatches") != 0:
        yield "reading back found data, or did not happen"
    if _member(proof, "kernel_log", "complete") is not True or _member(proof, "kernel_log", "count") != 0:
        yield "the kernel's log has errors of the drive, or gaps"
    if _member(proof, "hidden_areas", "state") not in _NO_HIDDEN_AREA:
        yield "hidden areas were found, or not looked for"


def _member(proof: Mapping[str, Any], name: str, inner: str) -> Any:
    part = proof.get(name)
    return part.get(inner) if isinstance(part, Mapping) else None


def _nothing_returned(looks: Any) -> bool:
    """One look at least, and none after which an old canary or a neighbour's old content was there again."""
    if not isinstance(looks, Sequence) or isinstance(looks, str) or not looks:
        return False
    return all(isinstance(look, Mapping) and look.get("returned") == [] for look in looks)


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
