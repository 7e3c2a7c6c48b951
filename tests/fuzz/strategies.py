"""What to throw at readers: JSON values, JSON written oddly, and JSON that was damaged on the way."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

texts = st.text(max_size=12)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from(
        ["", "running", "error", "complete", "sha256:" + "0" * 64, "http://[", "é", "\x00", "[" * 9]
    )
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=5)

_SPACES = st.text(" \t\r\n", max_size=2)
_RAW = st.sampled_from(
    [
        "1e400",
        "-1e999",
        "1E+2",
        "-0",
        "-0.0",
        "01",
        "1.",
        ".5",
        "9007199254740992",
        "9007199254740993",
        "NaN",
        "-Infinity",
        "0x1",
        "1_0",
        "tru",
        "nul",
        "'a'",
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\u12"',
        '"\\u+123"',
        '"\\q"',
        '"\x01"',
        '"a',
        "{}",
        "[]",
        "[,]",
        "[1,]",
        '{"a":1,"a":2}',
        '{"a":1,"\\u0061":2}',
        "{1:2}",
        "1" * 64,
        "1" * 65,
        "0." + "3" * 62,
        "0." + "3" * 63,
        "\ufeff1",
        "\u00a01",
        "/**/1",
        "[" * 20,
        "]" * 20,
    ]
)


@st.composite
def written(draw: st.DrawFn, depth: int = 0) -> str:
    """A JSON value as text, with odd spaces and escapes, and now and then with what is none."""
    kind = draw(st.integers(0, 9 if depth < 18 else 5))
    space = draw(_SPACES)
    if kind == 0:
        return space + draw(_RAW)
    if kind < 6:
        return space + json.dumps(draw(scalars), ensure_ascii=draw(st.booleans()))
    items = [draw(written(depth + 1)) for _ in range(draw(st.integers(0, 3)))]
    if kind < 8:
        return f"{space}[{','.join(items)}{draw(_SPACES)}]"
    keys = [json.dumps(draw(texts), ensure_ascii=draw(st.booleans())) for _ in items]
    pairs = [f"{draw(_SPACES)}{key}{draw(_SPACES)}:{item}" for key, item in zip(keys, items, strict=True)]
    return f"{space}{{{','.join(pairs)}}}"


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A JSON object's bytes, some of them changed."""
    data = bytearray(f'{{"a":{draw(written())},"b":{draw(written())}}}'.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        piece = draw(
            st.binary(max_size=2) | st.sampled_from([b'"', b"\\", b"{", b"]", b",", b"\xed\xa0\x80", b"e9"])
        )
        data[at : at + draw(st.integers(0, 2))] = piece
    return bytes(data)
