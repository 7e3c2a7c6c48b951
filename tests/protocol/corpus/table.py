"""Every case of the wire, for both readers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from teeth_protocol.connection import Role

from . import conversation, envelope, framing, json_values
from .case import LINE_BEFORE, LINE_FROM_AGENT, RESULT, Case, Stage, command, ping

FOUND = Path(__file__).parent / "found"


def cases(reader: Role) -> tuple[Case, ...]:
    """All cases that this side must bear, in a stable order, under names that stand once."""
    found = (
        *framing.cases(reader),
        *envelope.cases(reader),
        *_json(reader),
        *conversation.cases(reader),
    )
    names = [case.name for case in found]
    assert len(set(names)) == len(names), sorted({name for name in names if names.count(name) > 1})
    assert all(case.reason for case in found)
    return found


def found_inputs(target: str) -> dict[str, bytes]:
    """What fuzzing ``target`` has found so far: name -> bytes, one plain file each."""
    return {path.stem: path.read_bytes() for path in sorted((FOUND / target).glob("*.bin"))}


def _json(reader: Role) -> Iterator[Case]:
    for name, (value, words, reason) in json_values.REFUSED.items():
        for stage in Stage:
            yield Case(
                name=f"json.{name}.{stage.value}",
                reason=reason,
                reader=reader,
                stage=stage,
                data=ping(value),
                fatal=words,
            )
        if not name.startswith("depth."):  # one level less deep, it may be taken
            yield Case(
                name=f"json.{name}.as_params",
                reason=reason,
                reader=reader,
                stage=Stage.AFTER,
                data=command("ping", value),
                fatal=words,
            )
    for name, (value, reason) in json_values.TAKEN.items():
        for stage in Stage:
            yield Case(
                name=f"json.{name}.{stage.value}",
                reason=reason,
                reader=reader,
                stage=stage,
                data=ping(value),
                answers={"c1": RESULT},
            )
    for name, (value, refusal, reason) in json_values.LARGE.items():
        data = ping(value)
        assert LINE_BEFORE < len(data) <= LINE_FROM_AGENT, f"{name}: {len(data)} bytes"
        yield Case(
            name=f"json.{name}",
            reason=reason,
            reader=reader,
            stage=Stage.AFTER,
            data=data,
            fatal=refusal,
            answers={"c1": RESULT} if refusal is None else {},
        )
        yield Case(
            name=f"json.{name}.too_long",
            reason="a stranger may not say as much",
            reader=reader,
            stage=Stage.BEFORE,
            data=data,
            fatal=f"longer than {LINE_BEFORE}",
        )
