"""The schemas in docs/schema: as the types are, true to the readers, good for the page's examples."""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.schemas import near, validator
from teeth.endpoint.secrets import REDACTED, redact
from teeth.paths import find_checkout
from teeth_protocol.errors import RemoteProtocolError
from teeth_protocol.fields import FieldError
from teeth_protocol.messages import Command, Fatal, Success, parse
from teeth_protocol.methods import METHODS
from teeth_protocol.shape import read, schema, secret_members, to_json
from teeth_protocol.strictjson import loads
from teeth_protocol.wire.catalogue import SHAPES, Shape
from teeth_protocol.wire.envelope import envelope

ROOT = find_checkout().root
ALL: dict[str, Shape] = {
    f"{name}.{part}": shaped
    for name, shapes in SHAPES.items()
    for part in ("params", "result", "outcome")
    if (shaped := getattr(shapes, part)) is not None
}
VALIDATORS = {name: validator(schema(shaped)) for name, shaped in ALL.items()}


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("protocol_docs", ROOT / "scripts/protocol_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_is_up_to_date() -> None:
    wanted = generator().wanted()
    there = {path.relative_to(ROOT) for path in (ROOT / "docs/schema").glob("*.json")}
    assert there == {path for path in wanted if path.suffix == ".json"}
    stale = [path for path, text in wanted.items() if (ROOT / path).read_text(encoding="utf-8") != text]
    assert stale == [], "make schemas"


def test_every_method_has_its_schemas() -> None:
    assert SHAPES.keys() == METHODS.keys()
    for name, shapes in SHAPES.items():
        assert (shapes.outcome is not None) == METHODS[name].task


def test_the_examples_are_what_the_schemas_say() -> None:
    examples = re.findall(
        r"^```json\n(.*?)^```$", (ROOT / "docs/protocol.md").read_text("utf-8"), re.M | re.S
    )
    messages = validator(envelope())
    asked: dict[str, str] = {}
    parts = set()
    for example in examples:
        value = loads(" ".join(example.split()).encode())
        messages.validate(value)
        message = parse(value)
        if isinstance(message, Command):
            asked[message.id] = message.method
            parts.add(part := f"{message.method}.params")
            VALIDATORS[part].validate(message.params)
        elif isinstance(message, Success):
            parts.add(part := f"{asked[message.id]}.result")
            VALIDATORS[part].validate(message.result)
    assert len(parts) >= 4


def accepts(shaped: Shape, value: Any) -> bool:
    try:
        message = read(shaped, value)
    except FieldError:
        return False
    assert read(type(message), to_json(message)) == message
    return True


@pytest.mark.parametrize("name", ALL)
def test_reader_and_schema_agree(name: str) -> None:
    counted = {True: 0, False: 0}

    @settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
    @given(near(schema(ALL[name])))
    def agree(value: Any) -> None:
        taken = accepts(ALL[name], value)
        assert taken == VALIDATORS[name].is_valid(value), value
        counted[taken] += 1

    agree()
    assert counted[True] > 0


MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "version": st.sampled_from(["v1", "v2", None, 1]),
    "id": st.sampled_from(["a", "a.b:c-d_e", "", "x" * 129, "a b", "a\n", 7, None]),
    "method": st.sampled_from(["ping", "Rescue/Enter-2", "", "x" * 129, "a\n", "ä", None]),
    "params": st.sampled_from([{}, {"a": 1}, None, [], False, "x"]),
    "result": st.sampled_from([{}, {"a": 1}, None, [], "x"]),
    "error": st.sampled_from([{}, {"msg": "no"}, {"msg": 7}, None, [], "x"]),
    "fatal_error": st.sampled_from(["no", None, {}]),
    "other": st.just(1),
}


@settings(max_examples=600, deadline=None)
@given(
    st.sets(st.sampled_from(["version", "params", "result", "error", "other"]), max_size=3),
    st.sets(st.sampled_from(["id", "method", "fatal_error"])),
    st.data(),
)
def test_the_envelope_is_what_parse_takes(some: set[str], more: set[str], data: st.DataObject) -> None:
    value = {name: data.draw(MEMBERS[name], label=name) for name in sorted(some | more)}
    try:
        message = parse(value)
    except RemoteProtocolError:
        assert not ENVELOPE.is_valid(value)
    else:
        assert ENVELOPE.is_valid(value)
        if not isinstance(message, Fatal):
            assert parse(message.to_json()) == message


ENVELOPE = validator(envelope())


def test_the_message_that_nobody_could_mistake_is_in_both() -> None:
    for value in ({"id": "1", "method": "ping"}, {"id": "1", "result": {}}, {"fatal_error": "no", "id": 7}):
        assert ENVELOPE.is_valid(value)
        parse(value)
    for value in ({"id": "1"}, {"id": "1", "method": "ping", "result": {}}, {"id": "1", "error": "no"}):
        assert not ENVELOPE.is_valid(value)


@pytest.mark.parametrize("name", ALL)
def test_every_secret_is_redacted(name: str) -> None:
    for member in secret_members(ALL[name]):
        told = redact({"params": [{member: {"deep": "hunter2"}}]})
        assert told == {"params": [{member: REDACTED}]}, member


def test_some_members_are_secret() -> None:
    found = {member for shaped in ALL.values() for member in secret_members(shaped)}
    assert found >= {"token", "config_drive", "meta_data", "user_data", "vendor_data", "content_b64"}


def test_no_secret_is_in_a_repr() -> None:
    planted = {
        "meta_data": {"uuid": "hunter2"}, "user_data": "hunter2", "vendor_data": {"a": "hunter2"},
        "network_data": ["hunter2"], "files": [{"path": "/x", "content_b64": "hunter2="}],
    }  # fmt: skip
    said = [
        ("standbye.run_image.params", {"task_id": "t", "image_id": "i", "config_drive": planted}),
        ("enroll.params", {"id": "n", "boot_id": "b", "csr": "c", "token": "hunter2"}),
    ]
    for name, value in said:
        message = read(ALL[name], value)
        assert "hunter2" in json.dumps(to_json(message))
        assert "hunter2" not in repr(message)
