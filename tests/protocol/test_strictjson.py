"""The JSON reader for untrusted lines: each refusal, and that reader and writer agree."""

from __future__ import annotations

import enum
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fakes import plainjson
from teeth_protocol.strictjson import JsonError, check, dumps, loads

REFUSED = {
    "empty": b"",
    "nothing but space": b"   ",
    "list": b"[1]",
    "string": b'"a"',
    "number": b"1",
    "null": b"null",
    "two documents": b"{}{}",
    "rest": b"{} x",
    "unended object": b'{"a":1',
    "unended string": b'{"a":"b',
    "unended escape": b'{"a":"b\\',
    "bare word": b"{a:1}",
    "single quotes": b"{'a':1}",
    "trailing comma": b'{"a":[1,]}',
    "comment": b'{"a":1}//x',
    "byte order mark": b"\xef\xbb\xbf{}",
    "control character": b'{"a":"\x01"}',
    "newline in a string": b'{"a":"\n"}',
    "invalid UTF-8": b'{"a":"\xff"}',
    "overlong UTF-8": b'{"a":"\xc0\xaf"}',
    "UTF-8 surrogate": b'{"a":"\xed\xa0\x80"}',
    "escaped lone surrogate": b'{"a":"\\ud800"}',
    "escaped low surrogate": b'{"a":"x\\udc00x"}',
    "surrogates the wrong way round": b'{"a":"\\udc00\\ud800"}',
    "surrogate in a key": b'{"a":{"\\ud800":1}}',
    "surrogate in a list": b'{"a":[["\\ud800"]]}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "minus Infinity": b'{"a":-Infinity}',
    "1e400": b'{"a":1e400}',
    "-1e400": b'{"a":-1e400}',
    "2^53 + 1": b'{"a":9007199254740993}',
    "-2^53 - 1": b'{"a":-9007199254740993}',
    "a number of a million digits": b'{"a":' + b"9" * 1_000_000 + b"}",
    "a fraction of a million digits": b'{"a":0.' + b"9" * 1_000_000 + b"}",
    "leading zero": b'{"a":01}',
    "plus": b'{"a":+1}',
    "hexadecimal": b'{"a":0x10}',
    "equal keys": b'{"a":1,"a":1}',
    "equal keys, one escaped": b'{"a":1,"\\u0061":2}',
    "equal keys, deep": b'{"x":[{"a":1,"b":2,"a":3}]}',
    "depth": b'{"a":' * 17 + b"1" + b"}" * 17,
    "a million open lists": b"[" * 1_000_000,
    "a million open objects": b'{"a":' * 200_000,
    "closed before it is open": b"]" * 20 + b"[" * 20,
    "many values": b'{"a":[' + b"1," * 10_000 + b"1]}",
    "many empty objects": b'{"a":[' + b"{}," * 10_000 + b"{}]}",
    "NUL": b"\x00",
    "UTF-16": '{"a":1}'.encode("utf-16"),
}


@pytest.mark.parametrize("line", REFUSED.values(), ids=REFUSED.keys())
def test_refuses(line: bytes) -> None:
    with pytest.raises(JsonError):
        loads(line)


def test_refusals_do_not_quote_the_line() -> None:
    secret = "hunter2-hunter2"
    for line in (
        f'{{"token":"{secret}\\q"}}',
        f'{{"token":"{secret}"',
        f'{{"{secret}":1,"{secret}":2}}',
        f'{{"token":{secret}}}',
    ):
        with pytest.raises(JsonError) as error:
            loads(line.encode())
        assert secret not in str(error.value)


ACCEPTED: dict[str, tuple[bytes, dict[str, Any]]] = {
    "empty object": (b"{}", {}),
    "space around": (b' \t{ "a" : 1 }\r', {"a": 1}),
    "2^53": (b'{"a":9007199254740992,"b":-9007199254740992}', {"a": 2**53, "b": -(2**53)}),
    "a large double": (b'{"a":1e308}', {"a": 1e308}),
    "escaped pair": (b'{"a":"\\ud83d\\ude00"}', {"a": "\U0001f600"}),
    "a backslash before u": (b'{"a":"\\\\ud800"}', {"a": "\\ud800"}),
    "brackets in a string": (
        b'{"a":"[[[[[[[[[[[[[[[[[[[[{{{{{{{{,,,,"}',
        {"a": "[" * 20 + "{" * 8 + "," * 4},
    ),
    "an escaped quote, then brackets": (b'{"a":"\\"[[[[[[[[[[[[[[[[["}', {"a": '"' + "[" * 17}),
    "equal keys in two objects": (b'{"a":{"k":1},"b":{"k":1}}', {"a": {"k": 1}, "b": {"k": 1}}),
    "depth 16": (b'{"a":' * 16 + b"1" + b"}" * 16, json.loads('{"a":' * 16 + "1" + "}" * 16)),
    "10,000 values": (b'{"a":[' + b"1," * 9_997 + b"1]}", {"a": [1] * 9_998}),
}


@pytest.mark.parametrize(("line", "value"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepts(line: bytes, value: dict[str, Any]) -> None:
    assert loads(line) == value


def test_one_value_more_is_one_too_many() -> None:
    with pytest.raises(JsonError, match="10000 values"):
        loads(b'{"a":[' + b"1," * 9_998 + b"1]}")


def test_bounds_are_the_callers() -> None:
    assert loads(b'{"a":[1,2]}', max_depth=2, max_values=4)
    with pytest.raises(JsonError, match="deeper than 1"):
        loads(b'{"a":[1,2]}', max_depth=1)
    with pytest.raises(JsonError, match="more than 3"):
        loads(b'{"a":[1,2]}', max_values=3)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=40
)
objects = st.dictionaries(st.text(), values)


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


@given(objects.filter(lambda value: _depth(value) <= 16), st.booleans())
@example({"a": "\\ud800", "b": "\\"}, True)
def test_what_json_writes_is_read_alike(value: dict[str, Any], escaped: bool) -> None:
    assert loads(json.dumps(value, ensure_ascii=escaped).encode()) == value
    assert loads(dumps(value)) == value
    assert b"\n" not in dumps(value)


@given(st.binary(max_size=300))
def test_bytes_never_raise_anything_else(line: bytes) -> None:
    try:
        value = loads(line)
    except JsonError:
        return
    assert json.loads(line) == value


fragments = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b'"a"',
        b"1",
        b"1e999",
        b"NaN",
        b"\\u",
        b"d800",
        b" ",
        b"\xff",
    ]
)


@given(st.lists(fragments, max_size=40).map(b"".join))
def test_almost_json_never_raises_anything_else(line: bytes) -> None:
    try:
        value = loads(b'{"a":' + line + b"}")
    except JsonError:
        return
    assert json.loads(b'{"a":' + line + b"}") == value


class Colour(enum.StrEnum):
    RED = "red"


UNWRITABLE: dict[str, Any] = {
    "NaN": float("nan"),
    "infinity": float("inf"),
    "2^53 + 1": 2**53 + 1,
    "bytes": b"x",
    "a set": {1},
    "an object": object(),
    "lone surrogate": "\ud800",
    "surrogate in a key": {"\udcff": 1},
    "a number as key": {1: "a", "1": "b"},
    "too deep": json.loads("[" * 16 + "]" * 16),
    "too many": [0] * 10_000,
    "too many empty ones": [[] for _ in range(5_000)],
}


@pytest.mark.parametrize("value", UNWRITABLE.values(), ids=UNWRITABLE.keys())
def test_does_not_write_what_it_would_not_read(value: Any) -> None:
    with pytest.raises(JsonError):
        dumps({"a": value})


def test_a_value_that_holds_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["a"] = value
    with pytest.raises(JsonError, match="deeper"):
        dumps(value)


def test_writes_tuples_and_enums_as_what_they_are() -> None:
    assert dumps({"a": (1, 2), "b": Colour.RED, "c": True}) == b'{"a":[1,2],"b":"red","c":true}'


@given(objects, st.integers(1, 6), st.integers(1, 30))
def test_reader_and_writer_count_alike(value: dict[str, Any], depth: int, count: int) -> None:
    line = json.dumps(value).encode()
    try:
        check(value, max_depth=depth, max_values=count)
    except JsonError:
        with pytest.raises(JsonError):
            loads(line, max_depth=depth, max_values=count)
    else:
        assert loads(line, max_depth=depth, max_values=count) == value


# --- the short cuts against the plain form


def outcome(work: Callable[[], Any]) -> Any:
    """What came of it; of a refusal that it is one."""
    try:
        return work()
    except JsonError:
        return JsonError


pieces = st.sampled_from(
    [
        b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\\\", b'\\"', b'"a"', b'"b":', b'"b":1,', b"{}",
        b"[]", b"1", b"-0", b"0.5", b"1e999", b"1e308", b"-1e400", b"9007199254740992", b"9007199254740993",
        b"1" * 15, b"1" * 16, b"1" * 17, b"0." + b"3" * 60, b"0." + b"3" * 70, b"NaN", b"-Infinity",
        b'"\\u0041"', b'"\\ud83d\\ude00"', b'"\\uDc00"', b'"\\\\ud800"', b"true", b"null", b" ", b"\t",
        b"\xff", b"\xc3\xa4", b"\n",
    ]
)  # fmt: skip


@given(st.lists(pieces, max_size=30).map(b"".join), st.integers(1, 5), st.integers(1, 20))
@example(b'{"a":"\\\\","b":[[[[]]]]}', 5, 20)
@example(b'{"a":"\\"[[[[[[[[[[","b":[]}', 2, 20)
@example(b'{"a":' + b"[" * 6 + b"]" * 6 + b"}", 5, 20)
def test_the_short_cuts_take_what_the_plain_form_takes(inner: bytes, depth: int, count: int) -> None:
    for line in (inner, b'{"a":' + inner + b"}", b"{" + inner + b"}", b'{"a":[' + inner + b"]}"):
        ours = outcome(lambda line=line: loads(line, max_depth=depth, max_values=count))
        plain = outcome(lambda line=line: plainjson.loads(line, max_depth=depth, max_values=count))
        assert ours == plain, line
        assert repr(ours) == repr(plain)


def test_every_refusal_is_one_in_the_plain_form_too() -> None:
    for line in REFUSED.values():
        assert outcome(lambda line=line: plainjson.loads(line)) is JsonError
    for line, value in ACCEPTED.values():
        assert plainjson.loads(line) == value


odd = st.sampled_from(
    [
        2**53, 2**53 + 1, -(2**53) - 1, 10**400, 1e308, float("nan"), float("inf"), "\ud800", b"x", {1}, True,
        None, Colour.RED, (), (1, 2), {1: 2}, {None: 1}, {"\udcff": 1}, {Colour.RED: 1}, {"1": 1, 1: 2},
    ]
)  # fmt: skip
oddities = st.recursive(
    scalars | odd, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=4), inner), max_leaves=20
)


@given(st.dictionaries(st.text(max_size=4), oddities), st.integers(1, 5), st.integers(1, 20))
def test_the_short_cuts_write_what_the_plain_form_writes(value: Any, depth: int, count: int) -> None:
    ours = outcome(lambda: dumps(value, max_depth=depth, max_values=count))
    assert ours == outcome(lambda: plainjson.dumps(value, max_depth=depth, max_values=count))


# --- memory

MIB = 1 << 20
HUNGRY: dict[str, bytes] = {
    "one text": b'{"a":"' + b"x" * (MIB - 9) + b'"}',
    "one text with an emoji": b'{"a":"\xf0\x9f\x98\x80' + b"x" * (MIB - 13) + b'"}',
    "escapes": b'{"a":"' + b"\\u0041" * (MIB // 6 - 2) + b'"}',
    "escaped pairs": b'{"a":"' + b"\\ud83d\\ude00" * (MIB // 12 - 2) + b'"}',
    "quotes alone": b"[" * 20 + b'"' * (MIB - 20),
    "escaped quotes": b'{"a":"' + b'\\"' * (MIB // 2 - 5) + b'"}',
    "backslashes": b'{"a":"' + b"\\" * (MIB - 9),
    "short texts": b'{"a":[' + b'"ab",' * (MIB // 5 - 3) + b"1]}",
    "what is between quotes": b"[" * 20 + b'"ab' * (MIB // 3 - 7),
    "short texts and brackets": b'{"a":[' + b'"[",' * (MIB // 4 - 3) + b"1]}",
    "open lists": b"[" * MIB,
    "closed lists": b"]" * MIB,
    "empty objects": b'{"a":[' + b"{}," * (MIB // 3 - 4) + b"{}]}",
    "commas": b"," * MIB,
    "10,000 texts of 100": b'{"a":[' + b",".join([b'"' + b"x" * 100 + b'"'] * 9_990) + b"]}",
    "10,000 texts of 25 emoji": b'{"a":['
    + b",".join([b'"' + b"\xf0\x9f\x98\x80" * 25 + b'"'] * 9_990)
    + b"]}",
    "5,000 objects": b'{"a":[' + b",".join([b'{"' + b"k" * 150 + b'":1}'] * 4_990) + b"]}",
    "digits": b'{"a":' + b"9" * (MIB - 6) + b"}",
    "a fraction": b'{"a":0.' + b"9" * (MIB - 8) + b"}",
    "spaces": b" " * (MIB - 2) + b"{}",
    "not UTF-8": b"\xff" * MIB,
}


@pytest.mark.parametrize("line", HUNGRY.values(), ids=HUNGRY.keys())
def test_no_line_costs_more_than_64_mib(line: bytes) -> None:
    assert len(line) <= MIB
    value, peak = measured(lambda: loads(line))
    assert peak < 64 * MIB
    if value is not JsonError:
        written, peak = measured(lambda: dumps(value))
        assert peak < 64 * MIB
        assert outcome(lambda: loads(written)) == value


def measured(work: Callable[[], Any]) -> tuple[Any, int]:
    tracemalloc.start()
    try:
        value = outcome(work)
        return value, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
