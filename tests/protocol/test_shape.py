"""One annotation, three things: what is read, what is written, what the schema says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pytest

from teeth_protocol.fields import FieldError
from teeth_protocol.shape import (
    REQUIRED,
    SECRET,
    Forms,
    Items,
    Range,
    Text,
    read,
    schema,
    secret_members,
    to_json,
    unknown,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    name: Annotated[str, Text(most=4)]
    key: Annotated[str, SECRET] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """One of
    everything."""

    text: Annotated[str, Text(least=2, most=4)]
    cut: Annotated[str, Text(least=0, most=3, cut=True)] = ""
    ident: Annotated[str, Text(pattern="[a-z]+", words="small letters")] = "a"
    count: Annotated[int, Range(least=1, most=9)] = 1
    share: Annotated[float, Range(least=0, most=1, clamp=True)] = 0.0
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    parts: Annotated[tuple[Part, ...], Items(most=2)] = ()
    table: Annotated[Mapping[str, float], Items(most=2, name=3)] = field(default_factory=dict)
    mixed: str | int | bool | Part | None = None
    any: Any = None
    secret: Annotated[tuple[str, ...] | None, SECRET] = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    CLOSED: ClassVar[str] = "there is no such param"

    exclude: tuple[str, ...] = ()


READ: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the least": ({}, {}),
    "cut": ({"cut": "abcdef"}, {"cut": "abc"}),
    "whole as a double": ({"count": 3.0}, {"count": 3}),
    "clamped": ({"share": 7}, {"share": 1.0}),
    "null is left out": ({"cut": None, "count": None, "kind": None, "parts": None, "table": None}, {}),
    "a part": ({"parts": [{"name": "x"}]}, {"parts": (Part(name="x"),)}),
    "a table": ({"table": {"a": 1}}, {"table": {"a": 1.0}}),
    "one of many: flag": ({"mixed": True}, {"mixed": True}),
    "one of many: number": ({"mixed": 1}, {"mixed": 1}),
    "one of many: object": ({"mixed": {"name": "x"}}, {"mixed": Part(name="x")}),
    "anything": ({"any": [{"a": None}]}, {"any": [{"a": None}]}),
    "what nobody knows": ({"x": 1, "y": {}}, {}),
}


@pytest.mark.parametrize(("given", "members"), READ.values(), ids=READ.keys())
def test_reads(given: dict[str, Any], members: dict[str, Any]) -> None:
    whole = read(Whole, {"text": "abc", **given})
    assert whole == Whole(text="abc", **members)
    assert read(Whole, to_json(whole)) == whole


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"text": None}, "params.text: expected a string"),
    "short": ({"text": "a"}, "params.text: expected 2 to 4 characters"),
    "long": ({"text": "abcde"}, "params.text: expected 2 to 4 characters"),
    "kind of text": ({"cut": 7}, "params.cut: expected a string"),
    "pattern": ({"ident": "A"}, "params.ident: expected small letters"),
    "pattern, one line more": ({"ident": "a\n"}, "params.ident: expected small letters"),
    "small": ({"count": 0}, "params.count: expected 1 to 9"),
    "large": ({"count": 10}, "params.count: expected 1 to 9"),
    "fraction": ({"count": 1.5}, "params.count: expected a whole number"),
    "flag as number": ({"count": True}, "params.count: expected a whole number"),
    "below a clamp": ({"share": -0.1}, "params.share: expected 0 or more"),
    "not finite": ({"share": float("inf")}, "params.share: expected a number"),
    "number as flag": ({"flag": 0}, "params.flag: expected true or false"),
    "null as flag": ({"flag": None}, "params.flag: expected true or false"),
    "choice": ({"kind": "c"}, "params.kind: expected one of a, b"),
    "list as choice": ({"kind": ["a"]}, "params.kind: expected one of a, b"),
    "deep": ({"parts": [{"name": "a"}, {"name": 1}]}, "params.parts[1].name: expected a string"),
    "deep, missing": ({"parts": [{}]}, "params.parts[0].name: missing, expected a string"),
    "many": ({"parts": [{"name": "a"}] * 3}, "params.parts: expected at most 2 items"),
    "no list": ({"parts": {}}, "params.parts: expected a list"),
    "table": ({"table": {"a": "x"}}, "params.table.a: expected a number"),
    "long name": ({"table": {"abcd": 1}}, "params.table: expected member names of at most 3"),
    "large table": ({"table": {"a": 1, "b": 1, "c": 1}}, "params.table: expected at most 2 members"),
    "none of many": ({"mixed": []}, "params.mixed: expected a string or a whole number or true or false or"),
    "one of many, wrong inside": ({"mixed": {}}, "params.mixed.name: missing"),
    "secret": ({"secret": ["hunter2", 2]}, "params.secret[1]: expected a string"),
}


@pytest.mark.parametrize(("given", "words"), WRONG.values(), ids=WRONG.keys())
def test_names_what_is_wrong(given: dict[str, Any], words: str) -> None:
    with pytest.raises(FieldError) as caught:
        read(Whole, {"text": "abc", **given})
    assert str(caught.value).startswith(words)


def test_names_where_it_began() -> None:
    with pytest.raises(FieldError, match=r"^answer\.text: missing, expected a string$"):
        read(Whole, {}, "answer")
    with pytest.raises(FieldError, match=r"^params: expected an object$"):
        read(Whole, [])


def test_a_closed_one_refuses_what_it_does_not_know() -> None:
    assert read(Closed, {"exclude": ["a"]}) == Closed(exclude=("a",))
    with pytest.raises(FieldError, match=r"^params\.exlude: there is no such param$"):
        read(Closed, {"exlude": ["a"], "zzz": 1})
    assert schema(Closed)["additionalProperties"] is False


def test_what_is_not_known_can_be_counted() -> None:
    assert unknown(Whole, {"text": "abc", "x": 1, "y": 2}) == 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Yes:
    state: Annotated[Literal["yes"], REQUIRED] = "yes"


@dataclass(frozen=True, slots=True, kw_only=True)
class No:
    why: Annotated[str, Text()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Perhaps:
    odds: float


ANSWER: Forms[Yes | No | Perhaps] = Forms(
    title="Answer", text="", cases=(("state", "yes", Yes), ("why", None, No)), otherwise=Perhaps
)


def test_forms() -> None:
    assert read(ANSWER, {"state": "yes", "why": ""}) == Yes()
    assert read(ANSWER, {"state": "no", "why": "x"}) == No(why="x")
    assert read(ANSWER, {"odds": 1}) == Perhaps(odds=1.0)
    with pytest.raises(FieldError, match=r"params\.odds: missing"):
        read(ANSWER, {"state": "no"})
    assert to_json(Yes()) == {"state": "yes"}
    with pytest.raises(FieldError, match=r"params\.state: missing"):
        read(Yes, {})


def test_the_schema_says_the_same() -> None:
    told = schema(Whole)
    assert told["description"] == "One of everything."
    assert told["required"] == ["text"]
    members = told["properties"]
    assert members["text"] == {"type": "string", "minLength": 2, "maxLength": 4}
    assert members["cut"] == {"type": ["string", "null"], "default": ""}
    assert members["ident"]["pattern"] == "^(?:[a-z]+)$"
    assert members["count"] == {"type": ["integer", "null"], "minimum": 1, "maximum": 9, "default": 1}
    assert members["share"] == {"type": ["number", "null"], "minimum": 0, "default": 0.0}
    assert members["flag"] == {"type": "boolean", "default": False}
    assert members["kind"] == {"enum": ["a", "b", None], "default": "a"}
    assert members["parts"]["items"] == {"$ref": "#/$defs/Part"}
    assert members["mixed"]["anyOf"][-1] == {"type": "null"}
    assert members["any"] == {}
    assert told["$defs"]["Part"]["properties"]["key"]["writeOnly"] is True


def test_secrets_are_marked_wherever_they_stand() -> None:
    assert set(secret_members(Whole)) == {"secret", "key"}
    assert "hunter2" not in repr(Whole(text="abc", secret=("hunter2",), mixed=Part(name="x", key="hunter2")))
