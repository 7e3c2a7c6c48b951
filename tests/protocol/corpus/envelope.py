"""The envelope around every message: version, id, method, params, result, error, fatal_error."""

from __future__ import annotations

import string
from collections.abc import Iterator

from teeth_protocol.connection import Role

from .case import ID_LENGTH, RESULT, Case, Stage, command, line, text

_V = ("version", b'"v1"')
_ID = ("id", b'"c1"')
_PING = ("method", b'"ping"')
_P = ("params", b"{}")

# What a member may wrongly be: one of every kind of JSON value.
KINDS: dict[str, bytes] = {
    "null": b"null",
    "true": b"true",
    "zero": b"0",
    "one": b"1",
    "negative": b"-1",
    "real": b"1.5",
    "huge_number": b"1e308",
    "empty_string": b'""',
    "string": b'"x"',
    "empty_list": b"[]",
    "list": b'["x"]',
    "empty_object": b"{}",
    "object": b'{"x":1}',
}

_GOOD_IDS = {
    "one_letter": "a",
    "one_digit": "0",
    "one_dot": ".",
    "whole_alphabet": string.ascii_letters + string.digits + "._:-",
    "at": "i" * ID_LENGTH,
    "below": "i" * (ID_LENGTH - 1),
    "like_a_path": "..",
    "like_a_number": "1e400",
    "like_python": "None",
    "like_an_option": "--help",
}
_BAD_IDS = {
    "over": "i" * (ID_LENGTH + 1),
    "long": "i" * 2000,
    "space": "a b",
    "space_before": " a",
    "slash": "a/b",
    "backslash": "a\\b",
    "newline": "a\n",
    "newline_inside": "a\nb",
    "cr": "a\r",
    "nul": "a\0",
    "escape": "\x1b[2J",
    "plus": "a+b",
    "at_sign": "a@b",
    "comma": "a,b",
    "tilde": "~a",
    "quote": 'a"b',
    "umlaut": "é",
    "fullwidth": "ａ",
    "arabic_digit": "١",
    "combining": "e\u0301",
    "zero_width": "a\u200b",
    "emoji": "\U0001f600",
}

_GOOD_METHODS = {"one": "x", "at": "m" * 128, "punctuation": "!~#$%&'()*+,-./:;<=>?@[]^_`{|}"}
_BAD_METHODS = {
    "empty": "",
    "over": "m" * 129,
    "long": "m" * 3000,
    "space": "a b",
    "newline": "ping\n",
    "nul": "ping\0",
    "del": "ping\x7f",
    "tab": "ping\t",
    "umlaut": "pïng",
    "emoji": "\U0001f600",
    "no_break_space": "ping\u00a0",
}


def cases(reader: Role) -> Iterator[Case]:
    for stage in Stage:
        for name, (data, words, reason) in _faults().items():
            yield Case(
                name=f"envelope.{name}.{stage.value}",
                reason=reason,
                reader=reader,
                stage=stage,
                data=data,
                fatal=words,
            )
        for name, (data, answer, reason) in _good().items():
            yield Case(
                name=f"envelope.{name}.{stage.value}",
                reason=reason,
                reader=reader,
                stage=stage,
                data=data,
                answers=answer,
            )
        for name, (data, reason) in _peer_fatals().items():
            yield Case(
                name=f"envelope.{name}.{stage.value}",
                reason=reason,
                reader=reader,
                stage=stage,
                data=data,
                peer_fatal=True,
            )
    for name, method in _GOOD_METHODS.items():
        yield Case(
            name=f"envelope.method.{name}",
            reason="a method that nobody has is no broken envelope",
            reader=reader,
            stage=Stage.AFTER,
            data=command(method),
            answers={"c1": "unknown_method"},
            handled=frozenset({"c1"}),
        )


def _faults() -> dict[str, tuple[bytes, str, str]]:
    """name -> (bytes, words, reason)."""
    found = {
        "empty": (b"{}\n", "id", "an object of nothing"),
        "no_id": (line(_V, _PING, _P), "id", "an answer could not be given"),
        "no_kind": (line(_V, _ID), "exactly one", "neither command nor answer"),
        "only_params": (line(_V, _ID, _P), "exactly one", "neither command nor answer"),
        "method_and_result": (
            line(_V, _ID, _PING, ("result", b"{}")),
            "exactly one",
            "both command and answer",
        ),
        "method_and_error": (
            line(_V, _ID, _PING, ("error", b"{}")),
            "exactly one",
            "both command and answer",
        ),
        "result_and_error": (
            line(_V, _ID, ("result", b"{}"), ("error", b"{}")),
            "exactly one",
            "both yes and no",
        ),
        "all_three": (
            line(_V, _ID, _PING, ("result", b"{}"), ("error", b"{}")),
            "exactly one",
            "everything at once",
        ),
        "result_and_null_error": (
            line(_V, _ID, ("result", b"{}"), ("error", b"null")),
            "exactly one",
            "JSON-RPC 1.0 writes both",
        ),
        "two_ids": (line(_V, _ID, ("id", b'"c2"'), _PING), "twice", "which of the two is to be answered?"),
        "two_methods": (line(_V, _ID, _PING, ("method", b'"log"')), "twice", "which of the two is meant?"),
        "two_versions": (line(_V, ("version", b'"v2"'), _ID, _PING), "twice", "which of the two is meant?"),
        "method_in_capitals": (
            line(_V, _ID, ("Method", b'"ping"')),
            "exactly one",
            "names are as they are written",
        ),
        "json_rpc": (
            b'{"jsonrpc":"2.0","method":"ping","params":{},"id":1}\n',
            "id",
            "another protocol: its id is a number",
        ),
    }
    for name, value in KINDS.items():
        found[f"version.{name}"] = (line(("version", value), _ID, _PING), "version", "not the version v1")
        if name != "string":  # "x" is a good id and a good method
            found[f"id.{name}"] = (line(_V, ("id", value), _PING), "id", "no id")
            found[f"method.{name}"] = (line(_V, _ID, ("method", value)), "method", "no method")
        if name not in ("null", "empty_object", "object"):
            found[f"params.{name}"] = (
                line(_V, _ID, _PING, ("params", value)),
                "params",
                "params are an object",
            )
        if name not in ("empty_object", "object"):
            found[f"result.{name}"] = (line(_V, _ID, ("result", value)), "result", "a result is an object")
            found[f"error.{name}"] = (line(_V, _ID, ("error", value)), "error", "an error is an object")
    for version in ("v2", "V1", "v1 ", "v1.0", "1", "", "v1\n"):
        found[f"version.text_{text(version).decode()}"] = (
            line(("version", text(version)), _ID, _PING),
            "version",
            "not the version v1",
        )
    for name, identity in _BAD_IDS.items():
        found[f"id.text_{name}"] = (command("ping", id=identity), "id", "no id: its letters or its length")
    for name, method in _BAD_METHODS.items():
        found[f"method.text_{name}"] = (command(method), "method", "no method: its letters or its length")
    return found


def _good() -> dict[str, tuple[bytes, dict[str, str], str]]:
    """name -> (bytes, answers, reason)."""
    ok = {"c1": RESULT}
    found = {
        "no_version": (line(_ID, _PING, _P), ok, "the version may be left out"),
        "no_params": (line(_V, _ID, _PING), ok, "missing params are {}"),
        "null_params": (line(_V, _ID, _PING, ("params", b"null")), ok, "null params are {}"),
        "other_order": (line(_P, _PING, _ID, _V), ok, "members have no order"),
        "unknown_member": (line(_V, _ID, _PING, _P, ("trace", b"[1,{}]")), ok, "unknown members are ignored"),
        "many_unknown_members": (
            line(_V, _ID, _PING, *((f"x{n}", b"1") for n in range(200))),
            ok,
            "unknown members are ignored",
        ),
        "escaped_names": (
            b'{"\\u0069d":"c1","\\u006dethod":"p\\u0069ng"}\n',
            ok,
            "escapes may stand in names",
        ),
        "names_of_python": (
            line(_V, _ID, _PING, ("__class__", b'"x"'), ("self", b"1"), ("__dict__", b"{}")),
            ok,
            "names that mean something in Python",
        ),
    }
    for name, identity in _GOOD_IDS.items():
        found[f"id.good_{name}"] = (
            command("ping", id=identity),
            {identity: RESULT},
            "within the bounds of an id",
        )
    return found


def _peer_fatals() -> dict[str, tuple[bytes, str]]:
    """name -> (bytes, reason): the peer says its last word, however badly."""
    found = {
        "fatal.text": (line(_V, ("fatal_error", b'"no"')), "as it should be"),
        "fatal.bare": (line(("fatal_error", b'"no"')), "without a version"),
        "fatal.other_version": (line(("version", b'"v2"'), ("fatal_error", b'"no"')), "from another time"),
        "fatal.with_command": (line(_V, _ID, _PING, ("fatal_error", b'"no"')), "last words come first"),
        "fatal.control_letters": (
            line(("fatal_error", b'"\\u001b[2J\\n\\u0000"')),
            "what a console must not obey",
        ),
        "fatal.long": (line(("fatal_error", b'"' + b"x" * 3900 + b'"')), "many words"),
        "fatal.then_more": (
            line(("fatal_error", b'"no"')) + command("ping") + b"\xff\n",
            "nobody listens any more",
        ),
        "fatal.twice": (line(("fatal_error", b'"no"')) * 2, "once is enough"),
    }
    for name, value in KINDS.items():
        found[f"fatal.kind_{name}"] = (line(("fatal_error", value)), "no text, but the end all the same")
    return found
