"""Who says what when: before and after the handshake, ids, answers to nothing, more than may wait."""

from __future__ import annotations

from collections.abc import Iterator

from teeth_protocol.connection import Role

from .case import ANY, PENDING, RESULT, Case, Stage, command, line, ping, sized, text
from .envelope import KINDS

_METHODS = (
    "log",
    "task_status",
    "status",
    "inventory",
    "cancel_task",
    "decom.disk_erase",
    "decom.firmware_secure",
    "decom.qc",
    "standbye.cache_images",
    "standbye.prepare_image",
    "standbye.run_image",
    "no.such",
    "Handshake",
    "handshake2",
    "PING",
)
_V = ("version", b'"v1"')


def result(identity: str, body: bytes = b"{}") -> bytes:
    return line(_V, ("id", text(identity)), ("result", body))


def error(identity: str, body: bytes = b'{"msg":"no","code":"bad_params"}') -> bytes:
    return line(_V, ("id", text(identity)), ("error", body))


def cases(reader: Role) -> Iterator[Case]:
    yield from _before(reader)
    yield from _answers_to_nothing(reader)
    yield from _ids(reader)
    yield from _errors(reader)
    yield from _floods(reader)
    yield from _handshakes(reader)
    if reader is Role.AGENT:
        yield from _handshake_answers()


def _before(reader: Role) -> Iterator[Case]:
    for method in _METHODS:
        yield Case(
            name=f"before.{method}",
            reason="only ping, handshake and enroll are served before the handshake",
            reader=reader,
            stage=Stage.BEFORE,
            data=command(method),
            fatal="before the handshake",
        )
    yield Case(
        name="before.ping_then_log",
        reason="the good one is answered, the other ends it",
        reader=reader,
        stage=Stage.BEFORE,
        data=ping(b"1") + command("log", id="c2"),
        fatal="before the handshake",
    )
    yield Case(
        name="before.echo_that_grows",
        reason="its echo would be longer than a stranger's line",
        reader=reader,
        stage=Stage.BEFORE,
        data=ping(b"[" + b"1e15," * 500 + b"1]"),
        answers={"c1": "too_large"},
    )


def _answers_to_nothing(reader: Role) -> Iterator[Case]:
    for stage in Stage:
        for name, data, count in (
            ("result", result("zz9"), 1),
            ("error", error("zz9"), 1),
            ("of_the_peers_own_id", ping(b"1") + result("c1"), 1),
            ("many", b"".join(result(f"zz{n}") for n in range(200)), 200),
            ("next_id", result("e999") + result("a999"), 2),
        ):
            yield Case(
                name=f"answer_to_nothing.{name}.{stage.value}",
                reason="ignored and counted",
                reader=reader,
                stage=stage,
                data=data,
                ignored=count,
                answers={"c1": RESULT} if b"ping" in data else {},
            )
    ours = "e1" if reader is Role.ENDPOINT else "a2"
    for name, data, code in (
        ("result", result(ours), RESULT),
        ("error", error(ours), "bad_params"),
        ("large_result", result(ours, b'{"disks":"' + b"x" * 200_000 + b'"}'), RESULT),
    ):
        yield Case(
            name=f"answer.{name}",
            reason="our command is answered",
            reader=reader,
            stage=Stage.AFTER,
            data=data,
            resolves={ours: code},
        )
    for name, data in (
        ("twice", result(ours) + result(ours)),
        ("yes_then_no", result(ours) + error(ours)),
        ("no_then_yes", error(ours) + result(ours)),
    ):
        yield Case(
            name=f"answer.{name}",
            reason="the first answer stands, the second is ignored",
            reader=reader,
            stage=Stage.AFTER,
            data=data,
            resolves={ours: RESULT if name != "no_then_yes" else "bad_params"},
            ignored=1,
        )
    for kind, value in KINDS.items():
        if kind not in ("empty_object", "object"):
            yield Case(
                name=f"answer.result_{kind}",
                reason="an answer to our command, of the wrong kind",
                reader=reader,
                stage=Stage.AFTER,
                data=result(ours, value),
                fatal="result is not",
            )


def _errors(reader: Role) -> Iterator[Case]:
    """An error response whose members are of any kind still is a refusal."""
    ours = "e1" if reader is Role.ENDPOINT else "a2"
    for member in ("msg", "code", "detail"):
        for kind, value in KINDS.items():
            others = {"msg": b'"no"', "code": b'"odd"', "detail": b"{}"} | {member: value}
            body = line(*others.items())[:-1]
            code = "odd" if member != "code" else "unspecified"
            if member == "code" and "string" in kind:
                code = "x" if kind == "string" else ""
            yield Case(
                name=f"error.{member}_{kind}",
                reason="a refusal, whatever its members are",
                reader=reader,
                stage=Stage.AFTER,
                data=error(ours, body),
                resolves={ours: code or "unspecified"},
            )
    for name, body, code in (
        ("empty", b"{}", "unspecified"),
        ("only_msg", b'{"msg":"no"}', "unspecified"),
        ("long_msg", b'{"msg":"' + b"x" * 100_000 + b'","code":"odd"}', "odd"),
        ("long_code", b'{"msg":"no","code":"' + b"x" * 100_000 + b'"}', "x" * 128),
        ("msg_of_control_letters", b'{"msg":"\\u001b[2J\\n","code":"odd"}', "odd"),
    ):
        yield Case(
            name=f"error.{name}",
            reason="a refusal, whatever its members are",
            reader=reader,
            stage=Stage.AFTER,
            data=error(ours, body),
            resolves={ours: code},
        )


def _ids(reader: Role) -> Iterator[Case]:
    yield Case(
        name="id.used_again_while_owed",
        reason="an answer could not be told from the other",
        reader=reader,
        stage=Stage.AFTER,
        data=command("no.such") * 2,
        fatal="used again",
        racy=True,
    )
    yield Case(
        name="id.ping_with_an_owed_id",
        reason="an answer could not be told from the other",
        reader=reader,
        stage=Stage.AFTER,
        data=command("no.such") + ping(b"1"),
        fatal="used again",
        racy=True,
    )
    yield Case(
        name="id.used_again_by_pings",
        reason="a ping is answered at once: nothing is owed",
        reader=reader,
        stage=Stage.AFTER,
        data=ping(b"1") * 3,
        answers={"c1": RESULT},
    )
    for name, identity in (("of_ours", "e1"), ("of_ours_too", "a1"), ("of_ours_later", "a2")):
        yield Case(
            name=f"id.{name}",
            reason="each side numbers its own commands",
            reader=reader,
            stage=Stage.AFTER,
            data=command("no.such", id=identity),
            answers={identity: "unknown_method"},
            handled=frozenset({identity}),
        )


def _floods(reader: Role) -> Iterator[Case]:
    names = [f"c{n}" for n in range(PENDING + 44)]
    yield Case(
        name="flood.pings",
        reason="each is answered, none is owed",
        reader=reader,
        stage=Stage.AFTER,
        data=b"".join(ping(b"1", id=name) for name in names),
        answers=dict.fromkeys(names, RESULT),
    )
    yield Case(
        name="flood.commands",
        reason="beyond 256 that wait the next are refused",
        reader=reader,
        stage=Stage.AFTER,
        data=b"".join(command("no.such", id=name) for name in names),
        answers=dict.fromkeys(names[:PENDING], "unknown_method") | dict.fromkeys(names[PENDING:], "busy"),
        handled=frozenset(names[:PENDING]),
        racy=True,
    )
    yield Case(
        name="flood.at_the_bound",
        reason="256 commands may wait",
        reader=reader,
        stage=Stage.AFTER,
        data=b"".join(command("no.such", id=name) for name in names[:PENDING]),
        answers=dict.fromkeys(names[:PENDING], "unknown_method"),
        handled=frozenset(names[:PENDING]),
    )
    yield Case(
        name="flood.large_unknown",
        reason="large params of a method that nobody has",
        reader=reader,
        stage=Stage.AFTER,
        data=sized(250_000, "no.such"),
        answers={"c1": "unknown_method"},
        handled=frozenset({"c1"}),
    )


def _handshakes(reader: Role) -> Iterator[Case]:
    for name, params in (("", b"{}"), ("_with_params", b'{"id":"n","version":"1"}')):
        yield Case(
            name=f"handshake.again{name}",
            reason="the handshake is done once",
            reader=reader,
            stage=Stage.AFTER,
            data=command("handshake", params),
            answers={"c1": "bad_state" if reader is Role.ENDPOINT else ANY},
            handled=frozenset() if reader is Role.ENDPOINT else frozenset({"c1"}),
        )
    yield Case(
        name="handshake.in_no_id",
        reason="the handshake needs an id as everything does",
        reader=reader,
        stage=Stage.BEFORE,
        data=line(_V, ("method", b'"handshake"'), ("params", b"{}")),
        fatal="id",
    )


def _handshake_answers() -> Iterator[Case]:
    """What an endpoint may wrongly answer to the agent's handshake (a1)."""
    for kind, value in KINDS.items():
        good = kind in ("empty_object", "object")
        yield Case(
            name=f"handshake.result_{kind}",
            reason="the answer to our handshake",
            reader=Role.AGENT,
            stage=Stage.BEFORE,
            data=result("a1", value),
            fatal=None if good else "result is not",
            resolves={"a1": RESULT} if good else {},
        )
    yield Case(
        name="handshake.refused_by_error",
        reason="a refused handshake is the end",
        reader=Role.AGENT,
        stage=Stage.BEFORE,
        data=error("a1"),
        peer_fatal=True,
        resolves={"a1": "bad_params"},
    )
    yield Case(
        name="handshake.answered_twice",
        reason="the first answer stands, the second is ignored",
        reader=Role.AGENT,
        stage=Stage.BEFORE,
        data=result("a1") * 2,
        resolves={"a1": RESULT},
        ignored=1,
    )
    yield Case(
        name="handshake.answered_long",
        reason="the bound of a line moves with the answer, not before it",
        reader=Role.AGENT,
        stage=Stage.BEFORE,
        data=result("a1", b'{"x":"' + b"x" * 4096 + b'"}'),
        fatal="longer than 4096",
    )
    yield Case(
        name="handshake.answered_then_long",
        reason="behind the answer a line may be long",
        reader=Role.AGENT,
        stage=Stage.BEFORE,
        data=result("a1") + sized(100_000),
        resolves={"a1": RESULT},
        answers={"c1": RESULT},
    )
    yield Case(
        name="handshake.by_the_endpoint",
        reason="an agent is not shaken hands with",
        reader=Role.AGENT,
        stage=Stage.BEFORE,
        data=command("handshake"),
        answers={"c1": ANY},
        handled=frozenset({"c1"}),
    )
