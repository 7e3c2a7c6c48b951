"""What a certificate says, put together from the task and the agent's record. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from teeth.certificate.evidence import claimed_grade, doubts

FORMAT = "teeth-erase-certificate/1"
FIRST_PREVIOUS = "sha256:" + "0" * 64
_PROVEN = (
    "The method named is one of those listed in NIST SP 800-88 and IEEE 2883. All six proofs of the record"
    " hold: identity, the drive's own status, canaries, read-back, kernel log, hidden areas."
)
_NOT_PROVEN = "This drive is NOT proven to be erased. Data of its users may be on it."
_EXCLUDED = "This drive was left alone, by a rule of the command. Data of its users may be on it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who certifies what: the endpoint, the machine, the task. Times in seconds since the epoch.

    ``machine``: the inventory's firmware strings; ``agent``, ``ramdisk``: None when the machine has booted
    anew since. ``task_code``, ``task_msg``: how the task ended, empty if it is complete.
    """

    ca: str
    version: str
    node_id: str
    macs: tuple[str, ...]
    machine: Mapping[str, Any]
    boot_id: str | None
    agent: str | None
    ramdisk: str | None
    task_id: str
    asked: float
    finished: float
    params: Mapping[str, Any]
    required_grade: str | None
    plan_digest: str | None
    task_state: str
    task_code: str
    task_msg: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the chain a certificate stands: its number from 1, the digest of the one before, when."""

    sequence: int
    previous: str
    issued: float


def make_body(origin: Origin, record: Mapping[str, Any] | None, place: Place) -> dict[str, Any]:
    """One certificate's body. ``record`` None: the task ended and no drive's record came home."""
    outcome, grade, reasons = _judged(record)
    return {
        "format": FORMAT,
        "sequence": place.sequence,
        "previous": place.previous,
        "issued": utc(place.issued),
        "endpoint": {"ca": origin.ca, "version": origin.version},
        "machine": {
            "node": origin.node_id,
            "macs": list(origin.macs),
            "boot_id": origin.boot_id,
            "agent": origin.agent,
            "ramdisk": origin.ramdisk,
            **{name: origin.machine.get(name) for name in ("sys_vendor", "product_name", "product_serial")},
        },
        "task": {
            "task_id": origin.task_id,
            "method": "decom.disk_erase",
            "asked": utc(origin.asked),
            "finished": utc(origin.finished),
            "params": dict(origin.params),
            "required_grade": origin.required_grade,
            "plan_digest": origin.plan_digest,
            "state": origin.task_state,
            "code": origin.task_code,
            "msg": origin.task_msg,
        },
        "outcome": outcome,
        "grade": grade,
        "doubts": reasons,
        "statement": _statement(outcome, grade),
        "record": None if record is None else dict(record),
    }


def _judged(record: Mapping[str, Any] | None) -> tuple[str, str | None, list[str]]:
    """Outcome and grade as the endpoint takes them: what the record does not prove has failed."""
    if record is None:
        return "failed", None, ["the task ended without a record of any drive"]
    reasons = doubts(record)
    if reasons:
        return "failed", None, reasons
    return str(record.get("outcome")), claimed_grade(record), []


def _statement(outcome: str, grade: str | None) -> str:
    if grade is not None:
        return _PROVEN
    return _EXCLUDED if outcome == "excluded" else _NOT_PROVEN


def utc(moment: float) -> str:
    """ISO 8601, whole seconds, UTC: ``2026-11-24T15:31:34Z``."""
    return dt.datetime.fromtimestamp(int(moment), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
