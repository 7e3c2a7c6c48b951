"""Write what the protocol's documentation takes from the code: docs/schema/ and parts of docs/protocol.md.

A part stands between ``<!-- NAME: from the code -->`` and ``<!-- end -->``. ``--check`` writes nothing and
fails if something is not up to date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from teeth_protocol import shape
from teeth_protocol.capabilities import CAPABILITIES
from teeth_protocol.connection import TRANSITIONS, State
from teeth_protocol.methods import METHODS
from teeth_protocol.wire.catalogue import SHAPES
from teeth_protocol.wire.envelope import envelope

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path("docs/protocol.md")
SCHEMAS = Path("docs/schema")


def schemas() -> dict[str, dict[str, Any]]:
    """Every schema by its file's name."""
    found: dict[str, dict[str, Any]] = {"message.json": envelope()}
    index: dict[str, Any] = {}
    for name, shapes in SHAPES.items():
        parts = {"params": shapes.params, "result": shapes.result, "outcome": shapes.outcome}
        files = {part: f"{name}.{part}.json" for part, shaped in parts.items() if shaped is not None}
        for part, file in files.items():
            found[file] = shape.schema(parts[part])
        method = METHODS[name]
        index[name] = {
            "asked_by": method.asked_by,
            "task": method.task,
            "destructive": method.destructive,
            "before_handshake": method.before_handshake,
            "served": method.served,
            **files,
        }
    return {**found, "index.json": {"message": "message.json", "methods": index}}


def states() -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.HANDSHAKE.value}"]
    lines += [f"    {old.value} --> {new.value}: {why.value}" for (old, why), new in TRANSITIONS.items()]
    return "\n".join([*lines, f"    {State.CLOSED.value} --> [*]", "```"])


def commands() -> str:
    lines = ["| method | asked by | task | destroys | schemas |", "|---|---|---|---|---|"]
    for method in METHODS.values():
        shapes = SHAPES[method.name]
        parts = ["params", "result", *(["outcome"] if shapes.outcome is not None else [])]
        links = ", ".join(f"[{part}](schema/{method.name}.{part}.json)" for part in parts)
        name = f"`{method.name}`" + ("" if method.served else " (not served yet)")
        words = ["yes" if yes else "" for yes in (method.task, method.destructive)]
        lines.append(f"| {name} | {method.asked_by} | {words[0]} | {words[1]} | {links} |")
    return "\n".join(lines)


def capabilities() -> str:
    rows = [f"| `{name}` | {meaning} |" for name, meaning in CAPABILITIES.items()]
    return "\n".join(["| capability | what may be used when both sides have it |", "|---|---|", *rows])


PARTS: Mapping[str, Callable[[], str]] = {
    "states": states, "commands": commands, "capabilities": capabilities,
}  # fmt: skip


def page(text: str) -> str:
    """The page with its marked parts as the code has them now."""
    for name, part in PARTS.items():
        start, end = f"<!-- {name}: from the code -->\n", "<!-- end -->"
        if text.count(start) != 1:
            raise SystemExit(f"{PAGE}: {start.strip()} stands there {text.count(start)} times")
        before, _, rest = text.partition(start)
        text = f"{before}{start}{part()}\n{end}{rest.partition(end)[2]}"
    return text


def wanted() -> dict[Path, str]:
    """Every generated file and its text."""
    files = {SCHEMAS / name: json.dumps(told, indent=1) + "\n" for name, told in schemas().items()}
    return {**files, PAGE: page((ROOT / PAGE).read_text(encoding="utf-8"))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a file is not up to date"
    )
    check = parser.parse_args().check
    files = wanted()
    stale = [path for path in (ROOT / SCHEMAS).glob("*.json") if path.relative_to(ROOT) not in files]
    changed = [path for path, text in files.items() if not _is(ROOT / path, text)]
    for path in [*changed, *(path.relative_to(ROOT) for path in stale)]:
        print(f"{'not up to date' if check else 'written' if path in files else 'removed'}: {path}")
    if check:
        return 1 if changed or stale else 0
    (ROOT / SCHEMAS).mkdir(exist_ok=True)
    for path in changed:
        (ROOT / path).write_text(files[path], encoding="utf-8")
    for path in stale:
        path.unlink()
    return 0


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
