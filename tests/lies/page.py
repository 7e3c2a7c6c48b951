"""docs/lies.md: its generated parts, from the code and the figures of the last whole campaign."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lies import table
from lies.lists import LIE_NAMES, UNDETECTABLE
from teeth.lab.drives.behaviours import BEHAVIOURS, explain

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/lies.md"
FIGURES = ROOT / "docs/lies.json"
_KEPT = (
    "runs", "lies", "methods", "seeds", "false_erased", "false_failed", "power_cuts", "cut_runs",
    "left_locked", "cut_false_erased", "cut_not_erased", "faults", "unsafe_commands",
)  # fmt: skip


def figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the page keeps of a campaign's report."""
    cells: dict[str, dict[str, list[int]]] = {}
    for row in report["table"]:
        if row["kind"] in ("honest", "lie"):
            counts = [row["erased"], row["refused"], row["false"]]
            cells.setdefault(row["lie"], {})[row["method"]] = counts
    kept = {name: report[name] for name in _KEPT}
    kept["undetectable"] = {name: one["called_erased"] for name, one in report["undetectable"].items()}
    return {**kept, "table": cells}


def _table(kept: Mapping[str, Any]) -> str:
    rows = [
        {"kind": "lie", "lie": lie, "method": method, "erased": one[0], "refused": one[1], "false": one[2]}
        for lie, methods in kept["table"].items()
        for method, one in methods.items()
    ]
    return table.markdown({"table": rows})


def _sums(kept: Mapping[str, Any]) -> str:
    faults = kept["faults"]
    lines = [
        ("drives erased, honest and lying", kept["runs"]),
        ("lies", kept["lies"]),
        ("methods", kept["methods"]),
        ("random drives for each lie and method", kept["seeds"]),
        ("called erased and not so, by lies that a host can see", kept["false_erased"]),
        ("honest drives called failed", kept["false_failed"]),
        ("erases with power cuts", kept["power_cuts"]),
        ("of them left locked after the next start", kept["left_locked"]),
        ("of them called erased and not so", kept["cut_false_erased"]),
        ("of them not erased in the end", kept["cut_not_erased"]),
        ("erases of a drive that breaks, beside a sound one", faults["runs"]),
        ("of them called erased and not so", faults["false_erased"]),
        ("sound drives beside them that were not erased", faults["sound_drive_not_erased"]),
        ("commands that must not be sent", sum(kept["unsafe_commands"].values())),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {count} |" for what, count in lines)])


def _unseen(kept: Mapping[str, Any]) -> str:
    rows = [
        f"| `{lie}` | {reason} | {kept['undetectable'].get(lie, 0)} |" for lie, reason in UNDETECTABLE.items()
    ]
    return "\n".join(["| lie | why no host can see it | called erased and not so |", "|---|---|---|", *rows])


def _lies(kept: Mapping[str, Any]) -> str:
    return "\n".join(f"- `{name}`: {explain(BEHAVIOURS[name])}" for name in LIE_NAMES)


PARTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "sums": _sums, "table": _table, "unseen": _unseen, "lies": _lies,
}  # fmt: skip


def rendered(text: str, kept: Mapping[str, Any]) -> str:
    """The page with its marked parts anew."""
    for name, part in PARTS.items():
        start, end = f"<!-- {name}: from the code -->\n", "<!-- end -->"
        before, found, rest = text.partition(start)
        assert found, f"docs/lies.md has no part {name}"
        text = f"{before}{start}{part(kept)}\n{end}{rest.partition(end)[2]}"
    return text


def outdated() -> list[str]:
    """Why the page is not as the code and the figures have it."""
    kept = json.loads(FIGURES.read_text("utf-8"))
    wrong = []
    if rendered(PAGE.read_text("utf-8"), kept) != PAGE.read_text("utf-8"):
        wrong.append("docs/lies.md")
    if set(kept["table"]) - {"honest"} != set(LIE_NAMES):
        wrong.append("docs/lies.json has not the lies that there are")
    return wrong


def write(report: Mapping[str, Any]) -> None:
    kept = figures(report)
    FIGURES.write_text(json.dumps(kept, separators=(",", ":"), sort_keys=True) + "\n", "utf-8")
    PAGE.write_text(rendered(PAGE.read_text("utf-8"), kept), "utf-8")
