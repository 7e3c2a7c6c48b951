"""Properties of what reads the wire: lines, JSON, messages, fields, every method's params."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.reference_json import Refused, read
from fuzz.strategies import damaged, objects, scalars, texts, values, written
from protocol.corpus.case import Case
from protocol.corpus.samples import ERASE, HELLO, PREPARE, RUN, STATUS
from protocol.corpus.table import cases
from teeth.endpoint.hello import parse_hello
from teeth.endpoint.taskstate import parse_status
from teeth_agent.erase.policy import read_policy
from teeth_agent.errors import AgentError
from teeth_agent.image.params import read_prepare, read_run
from teeth_agent.session.spool import LogSpool
from teeth_protocol.connection import Role
from teeth_protocol.errors import ProblemError, RemoteProtocolError
from teeth_protocol.fields import FieldError, Fields
from teeth_protocol.framing import LineBuffer
from teeth_protocol.messages import Command, Failure, Fatal, Success, parse
from teeth_protocol.strictjson import JsonError, dumps, loads

# --- lines


@given(st.lists(st.sampled_from([b"a", b"{}", b"\n", b"\r", b" ", b"xyz", b"\xff"])).map(b"".join), st.data())
def test_lines_are_the_same_however_they_are_cut(stream: bytes, data: st.DataObject) -> None:
    whole = lines_of([stream])
    at = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *at], [*at, len(stream)], strict=True)]
    assert lines_of(pieces) == whole
    wanted = [line.rstrip(b"\r") for line in stream.split(b"\n")[:-1] if line.strip()]
    assert whole == (wanted, len(stream.split(b"\n")[-1]))


def lines_of(pieces: list[bytes]) -> tuple[list[bytes], int]:
    buffer, found = LineBuffer(), []
    for piece in pieces:
        buffer.feed(piece)
        while (line := buffer.next_line(1000)) is not None:
            found.append(line)
    return found, len(buffer)


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 40))
def test_what_a_line_buffer_keeps_is_bounded(pieces: list[bytes], limit: int) -> None:
    buffer = LineBuffer()
    for piece in pieces:
        buffer.feed(piece)
        try:
            while (line := buffer.next_line(limit)) is not None:
                assert len(line) <= limit
        except RemoteProtocolError:
            return
        assert len(buffer) <= limit


# --- JSON


def corpus_lines(reader: Role) -> list[Case]:
    return [case for case in cases(reader) if len(case.data) < 20_000]


def agrees(line: bytes, **bounds: int) -> None:
    """The strict reader and the slow one take the same, and read it alike; so does the standard library."""
    try:
        wanted: Any = read(line, depth=bounds.get("max_depth", 16), values=bounds.get("max_values", 10_000))
    except Refused:
        with pytest.raises(JsonError):
            loads(line, **bounds)
        return
    value = loads(line, **bounds)
    assert repr(value) == repr(wanted)
    assert repr(value) == repr(json.loads(line))
    assert repr(loads(dumps(value))) == repr(value)


@given(damaged())
@example(b'{"a":' * 16 + b"1" + b"}" * 16)
@example(b'{"a":"\\ud83d\\ude00\\ud83d"}')
def test_the_reader_agrees_with_a_slow_one(line: bytes) -> None:
    agrees(line)


@given(written(), st.integers(1, 5), st.integers(1, 20))
def test_the_readers_count_alike(text: str, depth: int, count: int) -> None:
    agrees(f'{{"a":{text}}}'.encode("utf-8", "surrogatepass"), max_depth=depth, max_values=count)


@given(st.binary(max_size=60))
def test_the_readers_agree_on_any_bytes(data: bytes) -> None:
    agrees(data)
    agrees(b'{"a":"' + data + b'"}')


def test_the_readers_agree_on_the_corpus() -> None:
    for case in corpus_lines(Role.ENDPOINT):
        for line in case.data.split(b"\n"):
            agrees(line)


@given(objects)
def test_what_is_written_is_read_again(value: dict[str, Any]) -> None:
    with contextlib.suppress(JsonError):  # deeper than the wire goes
        line = dumps(value)
        assert b"\n" not in line
        assert repr(loads(line)) == repr(value)


# --- messages and fields

_members = st.sampled_from(["version", "id", "method", "params", "result", "error", "fatal_error", "other"])


@given(st.dictionaries(_members, values | st.sampled_from(["v1", "c1", "ping"]), max_size=5))
def test_any_object_is_a_message_or_refused(value: dict[str, Any]) -> None:
    try:
        message = parse(value)
    except RemoteProtocolError:
        return
    assert isinstance(message, Command | Success | Failure | Fatal)
    assert parse(message.to_json()) == message
    dumps(message.to_json())  # what was read can be written


@given(objects, texts, st.integers(0, 5))
def test_fields_raise_only_field_errors(value: dict[str, Any], name: str, most: int) -> None:
    fields = Fields(value)
    kinds: list[tuple[Any, type | tuple[type, ...]]] = [
        (lambda: fields.text(name), str),
        (lambda: fields.text(name, None, max_length=3), (str, type(None))),
        (lambda: fields.integer(name), int),
        (lambda: fields.integer(name, None, least=1, most=7), (int, type(None))),
        (lambda: fields.number(name, 0.5), (int, float)),
        (lambda: fields.flag(name, False), bool),
        (lambda: fields.choice(name, ("a", "b"), "a"), str),
        (lambda: fields.object(name), Fields),
        (lambda: fields.object(name, optional=True), (Fields, type(None))),
        (lambda: fields.items(name, [], most=most), list),
        (lambda: fields.texts(name, [], most=most), list),
    ]
    for get, kind in kinds:
        try:
            got = get()
        except FieldError:
            continue
        assert isinstance(got, kind)
        assert kind is bool or not isinstance(got, bool)


# --- the params of every method

_ERASE = {"task_id", *ERASE}


@st.composite
def altered(draw: st.DrawFn, good: dict[str, Any]) -> dict[str, Any]:
    """Good params with some members exchanged for anything, left out or added, however deep they stand."""

    def change(value: Any) -> Any:
        roll = draw(st.integers(0, 9))
        if roll == 0:
            return draw(values)
        if isinstance(value, dict):
            kept = {key: change(item) for key, item in value.items() if draw(st.integers(0, 11))}
            return kept | (draw(objects) if roll == 1 else {})
        if isinstance(value, list):
            return [change(item) for item in value] + ([draw(scalars)] if roll == 1 else [])
        return draw(scalars) if roll == 1 else value

    changed = change(good)
    return changed if isinstance(changed, dict) else good


@given(altered(HELLO))
def test_a_handshake_is_read_or_refused(params: dict[str, Any]) -> None:
    with contextlib.suppress(ProblemError):
        parse_hello(params)


@given(altered(STATUS))
def test_a_status_is_read_or_refused(params: dict[str, Any]) -> None:
    try:
        status = parse_status(params)
    except ProblemError:
        return
    assert status.percent is None or 0 <= status.percent <= 100
    assert status.eta is None or status.eta >= 0


@given(altered(PREPARE))
def test_prepare_image_is_read_or_refused(params: dict[str, Any]) -> None:
    with contextlib.suppress(FieldError, AgentError):
        read_prepare(params)


@given(altered(RUN))
@example({**RUN, "config_drive": {**RUN["config_drive"], "files": [{"path": "/a", "content_b64": "é"}]}})
def test_run_image_is_read_or_refused(params: dict[str, Any]) -> None:
    with contextlib.suppress(FieldError, AgentError):
        read_run(params)


@given(
    st.dictionaries(st.sampled_from(sorted(_ERASE)), values | st.lists(texts, max_size=3), max_size=6)
    | objects
)
def test_disk_erase_is_read_or_refused(params: dict[str, Any]) -> None:
    try:
        read_policy(params)
    except (FieldError, AgentError):
        return
    assert set(params) <= _ERASE


# --- the agent's log spool


@given(st.lists(st.sampled_from(["add", "take", "put_back", "give_up"]), max_size=60), st.integers(1, 5))
@example(["add", "take", "add", "put_back"], 1)
def test_the_spool_is_bounded_and_counts_what_it_loses(steps: list[str], most: int) -> None:
    spool = LogSpool(max_records=most, clock=lambda: 0.0, monotonic=lambda: 0.0)
    added = taken = told = 0
    out: dict[str, Any] | None = None
    last = -1
    for step in steps:
        if step == "add":
            spool.add("info", "test", str(added))
            added += 1
        elif step == "take" and out is None:
            out = spool.take()
        elif step == "put_back" and out is not None:
            spool.put_back(out)
            out = None
        elif step == "give_up" and out is not None:
            spool.give_up(out)
            out = None
        assert len(spool._records) <= most
    if out is not None:
        spool.put_back(out)
    spool.add("info", "test", str(added))  # so that there is one to carry the last count
    while (record := spool.take()) is not None:
        assert int(record["event"]) > last  # in their order
        last = int(record["event"])
        taken, told = taken + 1, told + record.get("dropped", 0)
    assert taken + told == added + 1


@given(
    st.text(max_size=3000),
    st.dictionaries(st.text(max_size=5), values | st.floats() | st.binary(), max_size=3),
)
@settings(max_examples=50)
def test_whatever_is_logged_can_be_sent(event: str, fields: dict[str, Any]) -> None:
    spool = LogSpool()
    fields = {
        name: value
        for name, value in fields.items()
        if name not in ("level", "logger", "event", "task_id", "self")
    }
    spool.add("info", "test", event, **fields)
    record = spool.take()
    assert record is not None
    assert len(dumps({"id": "a1", "method": "log", "params": record})) < 16 << 10


@given(
    st.text(max_size=20) | st.sampled_from(["%s", "%d", "%(a)s", "%", "%z", "%s %s"]),
    st.lists(values, max_size=2),
)
@example("%(0)", [{"": None}])
def test_no_log_line_of_our_own_fails(msg: str, args: list[Any]) -> None:
    spool = LogSpool()
    spool.handle(logging.LogRecord("test", logging.INFO, "x.py", 1, msg, tuple(args), None))
    assert spool.take() is not None
