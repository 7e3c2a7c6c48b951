"""Records of an erase as an agent sends them home."""

from __future__ import annotations

from typing import Any


def proof() -> dict[str, Any]:
    """All six proofs, and they hold."""
    return {
        "identity": {"unchanged": True, "changes": []},
        "device_status": {"completed": True, "status": 0},
        "canaries": {"count": 66, "survived": 0, "second_looks": [{"written": 16, "returned": []}]},
        "readback": {"kind": "full", "bytes": 4096000, "mismatches": 0, "extents": []},
        "kernel_log": {"complete": True, "errors": [], "count": 0},
        "hidden_areas": {"state": "none", "reason": "namespaces [1] all erased"},
    }


def purged(serial: str = "SER-1", **members: Any) -> dict[str, Any]:
    """One unit's record."""
    return {
        "serial": serial, "wwn": None, "model": "M <1>", "transport": "nvme", "size": 4096000,
        "devices": ["nvme0n1"], "outcome": "purged", "method": "nvme_format_crypto", "grade": "purge",
        "code": "", "reason": "", "seconds": 1.5, "proof": proof(), "attempts": [],
        "commands": ["nvme format /dev/nvme0n1 --ses=2"],
    } | members  # fmt: skip


def failed(serial: str = "SER-2") -> dict[str, Any]:
    return purged(
        serial, outcome="failed", grade=None, code="canary_survived", reason="64 of 66 canaries can be read"
    )


def result(*units: dict[str, Any]) -> dict[str, Any]:
    """A task's result, or the detail of its failure."""
    return {
        "units": list(units), "out_of_scope": [], "required_grade": "clear",
        "plan_digest": "sha256:" + "a" * 64, "complete": all(unit["grade"] for unit in units),
    }  # fmt: skip
