"""The table lie x method, for a terminal and for docs/lies.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lies.cases import HONEST
from lies.lists import ALL_LIES, METHODS, UNDETECTABLE

Cells = Mapping[tuple[str, str], Mapping[str, int]]


def cells(
    report: Mapping[str, Any], kinds: Sequence[str] = ("honest", "lie")
) -> dict[tuple[str, str], Mapping[str, int]]:
    return {(row["lie"], row["method"]): row for row in report["table"] if row["kind"] in kinds}


def cell(found: Mapping[str, int] | None) -> str:
    """One word where all runs ended alike: "erased" truly, "caught" (none was called erased)."""
    if found is None:
        return ""
    if found["false"]:
        return f"**{found['false']} false**"
    if not found["refused"]:
        return "erased"
    if not found["erased"]:
        return "caught"
    return f"{found['erased']} / {found['refused']}"


def markdown(report: Mapping[str, Any]) -> str:
    """One row for each lie, one column for each method."""
    found = cells(report)
    methods = [method.value for method in METHODS if any(key[1] == method.value for key in found)]
    lies = [lie for lie in ALL_LIES if any(key[0] == lie for key in found)]
    rows = [["lie", *(method.replace("_", " ") for method in methods)], ["---"] * (len(methods) + 1)]
    for lie in sorted(lies, key=lambda name: (name != HONEST, name in UNDETECTABLE)):
        name = f"{lie} *" if lie in UNDETECTABLE else lie
        rows.append([name, *(cell(found.get((lie, method))) for method in methods)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def text(report: Mapping[str, Any]) -> str:
    """The same for a terminal: erased/caught/FALSE as counts."""
    found = cells(report)
    methods = [method.value for method in METHODS if any(key[1] == method.value for key in found)]
    lines = [f"{number:>3} {method}" for number, method in enumerate(methods, 1)]
    lines.append(
        f"{'erased/caught/false':<26}" + "".join(f"{number:>11}" for number in range(1, len(methods) + 1))
    )
    for lie in ALL_LIES:
        if not any(key[0] == lie for key in found):
            continue
        row = [found.get((lie, method)) for method in methods]
        told = ["" if one is None else f"{one['erased']}/{one['refused']}/{one['false']}" for one in row]
        mark = "*" if lie in UNDETECTABLE else " "
        lines.append(f"{lie:<25}{mark}" + "".join(f"{one:>11}" for one in told))
    lines.append("* no host can see it")
    return "\n".join(lines)
