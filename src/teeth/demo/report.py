"""What a run says to a program: build/demo/report.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from teeth.demo.steps import Steps


@dataclass(slots=True, kw_only=True)
class Report:
    """The outcome of one run.

    ``erased``: one of {serial, method, grade, outcome, proof} a disk. ``proofs``: every claim with what the
    host itself saw of it. ``host_proof``: all of them hold. ``landed``: the new system phoned home and is the
    one that was written.
    """

    landed: bool = False
    erased: list[dict[str, Any]] = field(default_factory=list)
    host_proof: bool = False
    accelerator: str = ""
    accelerator_reason: str = ""
    proofs: dict[str, bool] = field(default_factory=dict)
    landing: Mapping[str, Any] = field(default_factory=dict)
    boot: dict[str, float] = field(default_factory=dict)
    problem: str | None = None

    def write(self, path: Path, steps: Steps) -> None:
        """Write it, whole or not at all."""
        value = {
            "landed": self.landed,
            "erased": self.erased,
            "host_proof": self.host_proof,
            "seconds": steps.seconds(),
            "accelerator": self.accelerator,
            "accelerator_reason": self.accelerator_reason,
            "proofs": self.proofs,
            "landing": dict(self.landing),
            "boot": self.boot,
            "steps": [
                {
                    "name": step.name,
                    "ok": bool(step.ok),
                    "result": step.result,
                    "seconds": round(step.seconds, 2),
                }
                for step in steps.done
            ],
            "problem": self.problem,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
        partial.replace(path)
