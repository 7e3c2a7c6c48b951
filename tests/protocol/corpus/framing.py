"""Lines: their length, their ends, what is no JSON, and other protocols that come to the wrong door."""

from __future__ import annotations

from collections.abc import Iterator

from teeth_protocol.connection import Role

from .case import LINE_BEFORE, LINE_FROM_AGENT, LINE_FROM_ENDPOINT, RESULT, Case, Stage, command, sized

_PING = command("ping")
_OK = {"c1": RESULT}

# name -> (bytes, words of the fatal_error, reason)
_NO_MESSAGE: dict[str, tuple[bytes, str, str]] = {
    "bom.utf8": (b"\xef\xbb\xbf" + _PING, "JSON", "a byte order mark is no JSON"),
    "bom.utf16": (_PING.decode().encode("utf-16"), "", "UTF-16 with its mark"),
    "utf16.little": (_PING.decode().encode("utf-16-le"), "", "UTF-16"),
    "utf32.big": (_PING.decode().encode("utf-32-be"), "", "UTF-32"),
    "json.list": (b"[1]\n", "object", "a message is an object"),
    "json.string": (b'"ping"\n', "object", "a message is an object"),
    "json.number": (b"1\n", "object", "a message is an object"),
    "json.null": (b"null\n", "object", "a message is an object"),
    "json.true": (b"true\n", "object", "a message is an object"),
    "json.batch": (b"[" + _PING[:-1] + b"]\n", "object", "no batches as in JSON-RPC"),
    "json.two_objects": (_PING[:-1] + _PING, "JSON", "one object a line"),
    "json.two_by_cr": (_PING[:-1] + b"\r" + _PING, "JSON", "a CR alone ends no line"),
    "json.rest": (_PING[:-1] + b" x\n", "JSON", "something behind the object"),
    "json.comma_behind": (_PING[:-1] + b",\n", "JSON", "a comma behind the object"),
    "json.cut": (_PING[:-2] + b"\n", "JSON", "the last brace is missing"),
    "json.over_two_lines": (_PING.replace(b",", b",\n", 1), "JSON", "a message has no line ends inside"),
    "json.semicolon": (b";\n", "JSON", "one stray letter"),
    "json.brace": (b"{\n", "JSON", "an open brace"),
    "nul.alone": (b"\x00\n", "JSON", "a NUL"),
    "nul.before": (b"\x00" + _PING, "JSON", "a NUL before the object"),
    "nul.behind": (_PING[:-1] + b"\x00\n", "JSON", "a NUL behind the object"),
    "nul.many": (b"\x00" * 4000 + b"\n", "JSON", "a sparse file"),
    "control.del": (b"\x7f\n", "JSON", "a DEL"),
    "control.eot": (b"\x04\n", "JSON", "an end of transmission"),
    "control.escape": (b"\x1b[2J\n", "JSON", "a terminal's control sequence"),
    "stranger.http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "JSON", "a web browser"),
    "stranger.http2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "JSON", "HTTP/2's opening"),
    "stranger.tls": (bytes.fromhex("16030100a5010000a10303") + b"\n", "UTF-8", "TLS inside"),
    "stranger.ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", "JSON", "an SSH client"),
    "stranger.telnet": (b"\xff\xfd\x18\xff\xfd\x20\r\n", "UTF-8", "telnet's negotiation"),
    "stranger.smtp": (b"EHLO x\r\n", "JSON", "a mailer"),
    "stranger.redis": (b"*1\r\n$4\r\nPING\r\n", "JSON", "a Redis client"),
    "stranger.gzip": (b"\x1f\x8b\x08\x00\x00\n", "", "compressed"),
    "stranger.xml": (b"<?xml version='1.0'?><methodCall/>\n", "JSON", "XML-RPC"),
    "stranger.yaml": (b"method: ping\n", "JSON", "YAML"),
    "stranger.shell": (b"$(reboot)\n", "JSON", "a shell's words"),
    "stranger.pickle": (b"cos\nsystem\n(S'true'\ntR.\n", "JSON", "a pickle"),
}

# name -> (bytes, reason); every one holds one good ping c1
_GOOD: dict[str, tuple[bytes, str]] = {
    "end.lf": (_PING, "as it should be"),
    "end.crlf": (_PING[:-1] + b"\r\n", "a CR before the LF is dropped"),
    "end.cr_cr_lf": (_PING[:-1] + b"\r\r\n", "two of them are"),
    "end.lf_cr": (_PING + b"\r\n", "the CR makes a blank line"),
    "space.around": (b" \t" + _PING[:-1] + b"\t \r\n", "JSON's own space"),
    "space.cr_inside": (_PING.replace(b",", b",\r"), "CR is space between tokens"),
    "blank.one": (b"\n" + _PING, "blank lines are skipped"),
    "blank.crlf": (b"\r\n\r\n" + _PING, "blank lines are skipped"),
    "blank.spaces": (b"   \n\t\t\n \r \n" + _PING, "lines of nothing but space are blank"),
    "blank.many": (b"\n" * 3000 + _PING, "many blank lines cost nothing"),
    "blank.long": (b" " * LINE_BEFORE + b"\n" + _PING, "a blank line at the bound"),
    "blank.behind": (_PING + b"\n\r\n\n", "blank lines behind"),
}


def cases(reader: Role) -> Iterator[Case]:
    for stage in Stage:
        for name, (data, words, reason) in _NO_MESSAGE.items():
            yield Case(
                name=f"line.{name}.{stage.value}",
                reason=reason,
                reader=reader,
                stage=stage,
                data=data,
                fatal=words,
            )
        for name, (data, reason) in _GOOD.items():
            yield Case(
                name=f"line.{name}.{stage.value}",
                reason=reason,
                reader=reader,
                stage=stage,
                data=data,
                answers=_OK,
            )
    yield from _lengths(reader, Stage.BEFORE, LINE_BEFORE)
    yield from _lengths(
        reader, Stage.AFTER, LINE_FROM_AGENT if reader is Role.ENDPOINT else LINE_FROM_ENDPOINT
    )
    yield from _unended(reader)


def _lengths(reader: Role, stage: Stage, limit: int) -> Iterator[Case]:
    """The bound of a line, one byte below, at and one above it, whole and not yet whole."""
    over = f"longer than {limit}"
    # An agent may not send as much as it may be sent: it refuses the echo and lives on.
    answer = {"c1": RESULT if limit <= LINE_FROM_AGENT else "too_large"}
    for name, data, fatal in (
        ("below", sized(limit - 1), None),
        ("at", sized(limit), None),
        ("over", sized(limit + 1), over),
        ("at_with_crlf", sized(limit - 1)[:-1] + b"\r\n", None),
        ("over_with_crlf", sized(limit)[:-1] + b"\r\n", over),
        ("over_by_spaces", sized(limit)[:-1] + b" \n", over),
        ("blank_over", b" " * (limit + 1) + b"\n", over),
        ("many_times_over", sized(limit * 4), over),
    ):
        yield Case(
            name=f"length.{name}.{stage.value}",
            reason=f"a line of {stage.value}: {name} of {limit} bytes",
            reader=reader,
            stage=stage,
            data=data,
            fatal=fatal,
            answers={} if fatal else answer,
        )
    for name, data, fatal in (
        ("unended_at", sized(limit)[:-1], None),
        ("unended_over", sized(limit + 1)[:-1], over),
        ("unended_spaces_over", b" " * (limit + 1), over),
        ("unended_nuls_over", b"\x00" * (limit + 1), over),
    ):
        yield Case(
            name=f"length.{name}.{stage.value}",
            reason=f"a line that has not ended, {name} of {limit} bytes",
            reader=reader,
            stage=stage,
            data=data,
            fatal=fatal,
            waits=fatal is None,
        )


def _unended(reader: Role) -> Iterator[Case]:
    for stage in Stage:
        for name, data, answers, reason in (
            ("one_byte", b"{", {}, "the first byte of a line that never comes"),
            ("no_newline", _PING[:-1], {}, "a whole message whose line end is missing"),
            ("only_cr", _PING[:-1] + b"\r", {}, "a CR alone ends no line"),
            ("after_a_good_one", _PING + b'{"id":', _OK, "a good line, then the beginning of one"),
            ("cut_in_a_letter", b'{"x":"\xf0\x9f', {}, "the cut is in the middle of a letter"),
            ("space", b" ", {}, "not even a visible letter"),
            ("bad_already", b"\xff\xff", {}, "judged when it is whole, not before"),
        ):
            yield Case(
                name=f"unended.{name}.{stage.value}",
                reason=reason,
                reader=reader,
                stage=stage,
                data=data,
                answers=answers,
                waits=True,
            )
