"""The envelope: what is read, what is cut, what ends the connection."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeth_protocol.errors import Problem, RemoteProtocolError
from teeth_protocol.fields import FieldError, Fields
from teeth_protocol.messages import Command, Failure, Fatal, Message, Success, parse, valid_id

READ: dict[str, tuple[dict[str, Any], Message]] = {
    "command": (
        {"version": "v1", "id": "1", "method": "log", "params": {"a": 1}},
        Command(id="1", method="log", params={"a": 1}),
    ),
    "no params": ({"version": "v1", "id": "1", "method": "ping"}, Command(id="1", method="ping", params={})),
    "null params": ({"id": "1", "method": "ping", "params": None}, Command(id="1", method="ping", params={})),
    "unknown members": (
        {"version": "v1", "id": "1", "result": {}, "elapsed": 3, "x": {"y": []}},
        Success(id="1", result={}),
    ),
    "a method from another time": (
        {"version": "v1", "id": "1", "method": "Rescue/Enter-2", "params": {}},
        Command(id="1", method="Rescue/Enter-2", params={}),
    ),
    "the longest id": ({"id": "x" * 128, "result": {}}, Success(id="x" * 128, result={})),
    "error": (
        {"id": "1", "error": {"msg": "no", "code": "busy", "detail": {"by": "t1"}}},
        Failure(id="1", problem=Problem(code="busy", msg="no", detail={"by": "t1"})),
    ),
    "the seed's error": (
        {"id": "1", "error": {"msg": "no"}},
        Failure(id="1", problem=Problem(code="unspecified", msg="no")),
    ),
    "an error that says nothing": (
        {"id": "1", "error": {"msg": 7, "code": [], "detail": "x"}},
        Failure(id="1", problem=Problem(code="unspecified", msg="no message given")),
    ),
    "fatal": ({"fatal_error": "go away"}, Fatal(message="go away")),
    "fatal of another version": ({"version": "v9", "fatal_error": "go away"}, Fatal(message="go away")),
    "fatal that is no text": ({"fatal_error": {"a": 1}}, Fatal(message="{'a': 1}")),
}


@pytest.mark.parametrize(("value", "message"), READ.values(), ids=READ.keys())
def test_reads(value: dict[str, Any], message: Message) -> None:
    assert parse(value) == message


REFUSED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "version": {"version": "v2", "id": "1", "method": "ping"},
    "version as a number": {"version": 1, "id": "1", "method": "ping"},
    "no id": {"version": "v1", "method": "ping"},
    "a number as id": {"version": "v1", "id": 1, "method": "ping"},
    "an empty id": {"version": "v1", "id": "", "method": "ping"},
    "a long id": {"version": "v1", "id": "x" * 129, "method": "ping"},
    "an id with a space": {"version": "v1", "id": "a b", "method": "ping"},
    "an id that ends in a newline": {"version": "v1", "id": "a\n", "method": "ping"},
    "an id of other letters": {"version": "v1", "id": "ä", "method": "ping"},
    "only an id": {"version": "v1", "id": "1"},
    "method and result": {"version": "v1", "id": "1", "method": "ping", "result": {}},
    "result and error": {"version": "v1", "id": "1", "result": {}, "error": {}},
    "a number as method": {"version": "v1", "id": "1", "method": 7},
    "an empty method": {"version": "v1", "id": "1", "method": ""},
    "a long method": {"version": "v1", "id": "1", "method": "x" * 129},
    "a method with a newline": {"version": "v1", "id": "1", "method": "ping\n"},
    "params as a list": {"version": "v1", "id": "1", "method": "ping", "params": []},
    "params as false": {"version": "v1", "id": "1", "method": "ping", "params": False},
    "result as null": {"version": "v1", "id": "1", "result": None},
    "result as a list": {"version": "v1", "id": "1", "result": []},
    "error as text": {"version": "v1", "id": "1", "error": "no"},
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED.keys())
def test_refuses(value: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        parse(value)


def test_long_words_are_cut() -> None:
    message = parse({"id": "1", "error": {"msg": "x" * 100_000, "code": "y" * 1000}})
    assert isinstance(message, Failure)
    assert (len(message.problem.msg), len(message.problem.code)) == (4096, 128)
    fatal = parse({"fatal_error": "x" * 100_000})
    assert isinstance(fatal, Fatal)
    assert len(fatal.message) == 4096


@given(st.from_regex(r"\A[A-Za-z0-9._:-]{1,128}\Z"))
def test_ids(text: str) -> None:
    assert valid_id(text)
    for message in (
        Command(id=text, method="ping", params={}),
        Success(id=text, result={"a": 1}),
        Failure(id=text, problem=Problem(code="c", msg="m", detail={"d": 1})),
    ):
        assert parse(message.to_json()) == message


PARAMS = {
    "text": "abc",
    "empty": "",
    "n": 5,
    "x": 1.5,
    "yes": True,
    "none": None,
    "o": {"p": {}},
    "l": ["a", 1],
}

WRONG = {
    "missing": (lambda f: f.text("gone"), "params.gone: missing, expected a string"),
    "null where required": (lambda f: f.text("none"), "params.none: expected a string"),
    "empty": (lambda f: f.text("empty"), "params.empty: expected 1 to"),
    "long": (lambda f: f.text("text", max_length=2), "params.text: expected 1 to 2"),
    "number as text": (lambda f: f.text("n"), "params.n: expected a string"),
    "true as number": (lambda f: f.integer("yes"), "params.yes: expected a whole number"),
    "true as real": (lambda f: f.number("yes"), "params.yes: expected a number"),
    "fraction": (lambda f: f.integer("x"), "params.x: expected a whole number"),
    "small": (lambda f: f.integer("n", least=6), "params.n: expected 6 to"),
    "large": (lambda f: f.integer("n", most=4), "params.n: expected 0 to 4"),
    "number as flag": (lambda f: f.flag("n"), "params.n: expected true or false"),
    "choice": (lambda f: f.choice("text", ("x", "y")), "params.text: expected one of x, y"),
    "deep": (lambda f: f.object("o").object("p").text("q"), "params.o.p.q: missing"),
    "object": (lambda f: f.object("l"), "params.l: expected an object"),
    "list": (lambda f: f.items("o"), "params.o: expected a list"),
    "long list": (lambda f: f.items("l", most=1), "params.l: expected at most 1"),
    "texts": (lambda f: f.texts("l"), r"params.l\[1\]: expected a string"),
}  # fmt: skip


@pytest.mark.parametrize(("read", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_member_is_named(read: Any, words: str) -> None:
    with pytest.raises(FieldError, match=words):
        read(Fields(PARAMS))


def test_members() -> None:
    fields = Fields(PARAMS)
    assert fields.text("text") == "abc"
    assert fields.text("gone", "d") == "d"
    assert fields.text("none", None) is None
    assert (fields.integer("n"), fields.number("n"), fields.number("x"), fields.flag("yes")) == (
        5,
        5,
        1.5,
        True,
    )
    assert fields.object("gone", optional=True) is None
    assert fields.object("none", optional=True) is None
    assert fields.items("gone", []) == []
    assert "text" in fields
    assert "gone" not in fields
    with pytest.raises(FieldError, match="params: expected an object"):
        Fields([])
