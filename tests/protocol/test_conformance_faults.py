"""Endpoints and agents that are wrong in one way each: the transcript that is meant to find it does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes.plain_agent import PlanningDisk, real_agent
from fakes.plain_endpoint import plain_endpoint
from fakes.tls_endpoint import DEADLINE
from fakes.wrong_wire import Fault, relay, when
from teeth.conformance.agentdoor import AgentDoor
from teeth.conformance.doors import EndpointDoor, NobodyThereError
from teeth.conformance.kit import check, select
from teeth.conformance.play import Outcome

pytestmark = pytest.mark.slow

TRANSCRIPTS = Path(__file__).parent / "transcripts"
Message = dict[str, Any]


def result(message: Message) -> bool:
    return "result" in message


def says(method: str) -> Any:
    return lambda message: message.get("method") == method


def answers(identity: str) -> Any:
    return lambda message: message.get("id") == identity and "method" not in message


def ends(message: Message) -> bool:
    return message.get("method") == "task_status" and message["params"].get("state") in ("complete", "error")


def with_params(**change: Any) -> Any:
    return lambda message: {**message, "params": {**message["params"], **change}}


def with_result(**change: Any) -> Any:
    return lambda message: {**message, "result": {**message["result"], **change}}


def without(*names: str, of: str) -> Any:
    return lambda message: {
        **message,
        of: {name: value for name, value in message[of].items() if name not in names},
    }


def replaced(old: bytes, new: bytes) -> Any:
    return lambda line: [line.replace(old, new)]


def once_more() -> Any:
    """Every end of a task is followed by another one under a new message id."""
    return when(ends, lambda message: [message, {**message, "id": f"{message['id']}-again"}])


# name of the fault: (the transcript that finds it, the fault, words of the finding)
ENDPOINT: dict[str, tuple[str, Fault, str]] = {
    "answers twice": (
        "seed-ping-echo",
        Fault(said=when(answers("p1"), lambda m: [m, m])),
        "twice",
    ),
    "never answers": ("seed-log", Fault(said=when(answers("l1"), lambda m: [])), "nothing that fits came"),
    "echoes wrongly": (
        "seed-ping-echo",
        Fault(said=when(answers("p1"), with_result(x=[1, None, "e"]))),
        r'\.result\.x\[2\]: expected "é", came "e"',
    ),
    "adds to the echo": (
        "seed-ping-echo",
        Fault(said=when(answers("p1"), with_result(at=5))),
        r"\.result\.at: a member that must",
    ),
    "answers under another id": (
        "seed-ping-echo",
        Fault(said=when(answers("p1"), lambda m: {**m, "id": "p9"})),
        "never asked",
    ),
    "answers under a number": (
        "seed-ping-echo",
        Fault(said=when(answers("p1"), lambda m: {**m, "id": 1})),
        "whose id is not",
    ),
    "answers in another version": (
        "seed-ping-echo",
        Fault(said=when(answers("p1"), lambda m: {**m, "version": "v2"})),
        "version is not",
    ),
    "answers with both result and error": (
        "seed-error-response",
        Fault(said=when(answers("u1"), lambda m: {**m, "result": {}})),
        "result and error",
    ),
    "an error without words": (
        "seed-error-response",
        Fault(said=when(answers("u1"), lambda m: {**m, "error": {"code": "x"}})),
        "without a msg",
    ),
    "an error that is a text": (
        "seed-error-response",
        Fault(said=when(answers("u1"), lambda m: {**m, "error": "no"})),
        "not an object",
    ),
    "another code": (
        "command-unknown",
        Fault(said=when(answers("u1"), lambda m: {**m, "error": {"msg": "?", "code": "what"}})),
        r'\.error\.code: expected "unknown_method", came "what"',
    ),
    "closes on an unknown method": (
        "command-unknown",
        Fault(said=when(answers("u1"), lambda m: None)),
        "closed the connection",
    ),
    "an answer in latin-1": (
        "seed-ping-echo",
        Fault(said=replaced("é".encode(), "é".encode("latin-1"))),
        "not UTF-8",
    ),
    "an answer with NaN": (
        "json-integers",
        Fault(said=replaced(b"-9007199254740992", b"NaN")),
        "NaN",
    ),
    "an answer with a key twice": (
        "seed-ping-empty",
        Fault(said=when(answers("p1"), lambda m: b'{"id":"p1","id":"p1","result":{}}')),
        "a key twice",
    ),
    "an answer that is no JSON": (
        "seed-ping-empty",
        Fault(said=when(answers("p1"), lambda m: b"pong")),
        "not JSON",
    ),
    "an answer that is too deep": (
        "seed-ping-empty",
        Fault(
            said=when(answers("p1"), lambda m: b'{"id":"p1","result":{},"x":%s%s}' % (b"[" * 99, b"]" * 99))
        ),
        "deeper than 16",
    ),
    "an endless answer": (
        "seed-ping-empty",
        Fault(said=when(answers("p1"), lambda m: b'{"x":"%s"}' % (b"x" * (1 << 20)))),
        "more than 1048576 bytes",
    ),
    "a welcome without an id": (
        "seed-handshake",
        Fault(said=when(answers("h1"), without("id", of="result"))),
        r"\.result\.id: expected STRING",
    ),
    "takes NaN": ("json-nan", Fault(heard=replaced(b"NaN", b"0")), "was to end the connection, and answered"),
    "takes a key twice": (
        "json-duplicate-keys",
        Fault(heard=replaced(b'"id": "p1", "id"', b'"id"')),
        "and answered",
    ),
    "takes bytes that are no UTF-8": (
        "framing-utf8-invalid",
        Fault(heard=replaced(b"\xff\xfe", b"??")),
        "never asked",
    ),
    "takes a line that is too long": (
        "length-first-too-long",
        Fault(heard=replaced(b"x" * 3000, b"")),
        "and answered",
    ),
    "takes a stranger's log": (
        "early-log",
        Fault(heard=when(says("log"), lambda m: {**m, "method": "ping"})),
        "and answered",
    ),
    "takes params that are a list": (
        "envelope-params-list",
        Fault(heard=replaced(b"[1, 2]", b"{}")),
        "and answered",
    ),
    "takes a blank line for a message": (
        "framing-blank-lines",
        Fault(heard=lambda line: [line.strip() or b"?"]),
        "ended the connection",
    ),
    "stumbles over unknown members": (
        "envelope-unknown-members",
        Fault(heard=replaced(b'"priority": "high"', b'"result": {}')),
        "ended the connection",
    ),
    "loses one of many": (
        "command-pipelined",
        Fault(said=when(answers("p37"), lambda m: [])),
        "nothing that fits came",
    ),
    "stays when told that all is over": (
        "seed-fatal-closes",
        Fault(heard=when(lambda m: "fatal_error" in m, lambda m: [])),
        "nothing that fits",
    ),
    "says fatal and stays": ("seed-broken-line", Fault(deaf_to_end=True), "did not close"),
    "speaks on after fatal": (
        "seed-broken-line",
        Fault(said=when(lambda m: "fatal_error" in m, lambda m: [m, {"id": "x", "method": "ping"}])),
        "spoke on",
    ),
    "a fatal_error that is an object": (
        "seed-broken-line",
        Fault(said=when(lambda m: "fatal_error" in m, lambda m: {"fatal_error": {}})),
        "not a text",
    ),
    "closes without a word": (
        "seed-broken-line",
        Fault(said=when(lambda m: "fatal_error" in m, lambda m: None)),
        "closed the connection",
    ),
    "asks before the handshake": (
        "early-ping",
        Fault(greeting=(b'{"id":"x","method":"inventory","params":{}}',)),
        "before the handshake",
    ),
    "asks without params that are an object": (
        "early-ping",
        Fault(greeting=(b'{"id":"x","method":"ping","params":[]}',)),
        "params are not an object",
    ),
    "leaves the older session": (
        "handshake-newer-session",
        Fault(said=when(lambda m: "fatal_error" in m, lambda m: [])),
        "closed the connection",
    ),
    "takes a second end": (
        "seed-task-over",
        Fault(said=when(answers("s2"), lambda m: {"id": "s2", "result": {}})),
        r"\.error: expected an object, came nothing",
    ),
    "refuses an end said again": (
        "task-end-repeated",
        Fault(said=when(answers("s2"), lambda m: {"id": "s2", "error": {"msg": "no"}})),
        r"\.result: expected OBJECT, came nothing",
    ),
    "takes an error without a msg": (
        "task-status-msg-missing",
        Fault(said=when(answers("s1"), lambda m: {"id": "s1", "result": {}})),
        r"\.error",
    ),
    "tells a certificate to whoever asks the time": (
        "enroll-time",
        Fault(said=when(answers("e1"), with_result(certificate="x"))),
        "expected nothing",
    ),
}


class Forgetful:
    """An endpoint that changes the params of a command every time it sends it."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, message: Message) -> Message:
        self.times += 1
        return {**message, "params": {**message["params"], "attempt": self.times}}


ENDPOINT["sends another command instead of the lost one"] = (
    "task-sent-again",
    Fault(said=when(says("decom.disk_erase"), Forgetful())),
    "nothing that fits came",
)

AGENT: dict[str, tuple[str, Fault, str]] = {
    "answers twice": ("seed-status", Fault(said=when(answers("s1"), lambda m: [m, m])), "twice"),
    "a status without uptime": (
        "seed-status",
        Fault(said=when(answers("s1"), without("uptime", of="result"))),
        r"\.result\.uptime: expected NUMBER, came nothing",
    ),
    "a handshake without a version": (
        "seed-handshake",
        Fault(said=when(says("handshake"), without("version", of="params"))),
        "nothing that fits",
    ),
    "logs before its welcome": (
        "early-ping",
        Fault(
            greeting=(
                b'{"id":"x1","method":"handshake","params":{}}',
                b'{"id":"x","method":"log","params":{}}',
            )
        ),
        "before the handshake",
    ),
    "uses an id twice": (
        "early-ping",
        Fault(said=when(says("handshake"), lambda m: [m, m])),
        "used the id 'a1' again",
    ),
    "closes on an unknown method": (
        "command-unknown",
        Fault(said=when(answers("u1"), lambda m: None)),
        "closed the connection",
    ),
    "takes Infinity": ("json-infinity", Fault(heard=replaced(b"-Infinity", b"0")), "and answered"),
    "takes what comes before the handshake": (
        "early-status",
        Fault(heard=when(says("status"), lambda m: {**m, "method": "ping"})),
        "and answered",
    ),
    "goes on after its end": (
        "seed-task-silent-after-end",
        Fault(said=once_more()),
        "after its end was acknowledged",
    ),
    "says it again after it was acknowledged": (
        "task-same-again",
        Fault(said=once_more()),
        "after its end was acknowledged",
    ),
    "gives another end": (
        "task-end-unacknowledged",
        Fault(said=when(ends, lambda m: {**m, "params": {**m["params"], "said": m["id"] + str(id(m))}})),
        "another end",
    ),
    "forgets an end that was not acknowledged": (
        "task-listed",
        Fault(said=when(says("handshake"), with_params(tasks=[]))),
        r"nothing that fits",
    ),
    "starts the same task twice": (
        "task-same-again",
        Fault(said=when(answers("e3"), with_result(state="running"))),
        r'\.result\.state: expected "complete", came "running"',
    ),
    "takes other params under the same id": (
        "task-conflict",
        Fault(said=when(answers("e2"), lambda m: {"id": "e2", "result": {"task_id": "t"}})),
        r"\.error: expected an object",
    ),
    "refuses a second task without a name": (
        "task-second-refused",
        Fault(said=when(answers("e2"), lambda m: {"id": "e2", "error": {"msg": "busy", "code": "busy"}})),
        r'\.error\.msg: expected /.*second.*refused/, came "busy"',
    ),
    "an error without words at the end": (
        "seed-task-life",
        Fault(said=when(ends, with_params(state="error"))),
        "error status without a msg",
    ),
    "progress without an estimate": (
        "seed-task-life",
        Fault(said=when(ends, lambda m: {**m, "params": {"task_id": "t", "state": "running", "percent": 5}})),
        "without eta and percent",
    ),
    "cancels what there is not": (
        "cancel-unknown",
        Fault(said=when(answers("c1"), lambda m: {"id": "c1", "result": {}})),
        r"\.error",
    ),
    "comes again under another name": ("handshake-same-name", Fault(), ""),
}


class Renaming:
    """An agent with a new name on every connection."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, message: Message) -> Message:
        self.times += 1
        return {**message, "params": {**message["params"], "id": f"node-{self.times}"}}


AGENT["comes again under another name"] = (
    "handshake-same-name",
    Fault(said=when(says("handshake"), Renaming())),
    "nothing that fits came",
)


STRETCH = 0.6  # what never comes is not waited for as long as with a stranger
AT_ONCE = 8


def verdict(outcomes: list[Outcome], words: str) -> str:
    """ "" when the finding is the one that was to be made."""
    (outcome,) = outcomes
    found = "\n".join((outcome.message, *outcome.detail))
    if outcome.status == "fail" and re.search(words, found) and outcome.line and outcome.step:
        return ""
    return f"{outcome.status}: {found}"


async def together(work: Mapping[str, Callable[[], Awaitable[str]]]) -> dict[str, str]:
    """A few at a time; those that gave something, by name."""
    few = asyncio.Semaphore(AT_ONCE)

    async def one(job: Callable[[], Awaitable[str]]) -> str:
        async with few:
            return await job()

    said = await asyncio.gather(*(one(job) for job in work.values()))
    return {name: words for name, words in zip(work, said, strict=True) if words}


async def test_wrong_endpoints_are_found_out(tmp_path: Path) -> None:
    async with plain_endpoint(tmp_path / "data") as (port, ask):

        async def one(name: str, fault: Fault, words: str) -> str:
            chosen = select(TRANSCRIPTS, "endpoint", only=(name,))
            async with relay(port, fault) as wrong:
                door = EndpointDoor(("127.0.0.1", wrong))
                return verdict(await in_thread(check, chosen, door, ask=ask, stretch=STRETCH), words)

        missed = await together({name: functools.partial(one, *case) for name, case in ENDPOINT.items()})
    assert missed == {}


async def test_wrong_agents_are_found_out() -> None:
    async def one(name: str, fault: Fault, words: str) -> str:
        chosen = select(TRANSCRIPTS, "agent", only=(name,))
        with contextlib.closing(AgentDoor(("127.0.0.1", 0), patience=DEADLINE)) as door:
            async with (
                relay(door.address[1], fault, tested_dials=True) as wrong,
                real_agent(wrong, disk=PlanningDisk()),
            ):
                return verdict(await in_thread(check, chosen, door, stretch=STRETCH), words)

    missed = await together({name: functools.partial(one, *case) for name, case in AGENT.items()})
    assert missed == {}


async def test_without_a_fault_the_relay_changes_nothing(tmp_path: Path) -> None:
    """What is found behind it is the fault's doing."""
    async with plain_endpoint(tmp_path / "data") as (port, ask), relay(port, Fault()) as through:
        names = tuple(name for name, _, _ in ENDPOINT.values())
        chosen = select(TRANSCRIPTS, "endpoint", only=names)
        outcomes = await in_thread(check, chosen, EndpointDoor(("127.0.0.1", through)), ask=ask, stretch=6)
    assert [one.transcript.name for one in outcomes if one.status != "pass"] == []
    with contextlib.closing(AgentDoor(("127.0.0.1", 0), patience=DEADLINE)) as door:
        async with (
            relay(door.address[1], Fault(), tested_dials=True) as through,
            real_agent(through, disk=PlanningDisk()),
        ):
            chosen = select(TRANSCRIPTS, "agent", only=tuple(name for name, _, _ in AGENT.values()))
            outcomes = await in_thread(check, chosen, door, stretch=6)
    assert [one.transcript.name for one in outcomes if one.status == "fail"] == []


async def test_an_agent_that_stays_away_is_told_once_and_the_rest_fails_at_once() -> None:
    with contextlib.closing(AgentDoor(("127.0.0.1", 0), patience=1)) as door:
        chosen = select(TRANSCRIPTS, "agent", only=("seed-ping-*", "handshake-hang-up"))
        with pytest.raises(NobodyThereError, match="no agent said a handshake"):
            await in_thread(check, chosen, door)


async def in_thread(function: Callable[..., list[Outcome]], *arguments: Any, **options: Any) -> list[Outcome]:
    """As asyncio.to_thread, with threads of its own: the endpoint's database needs those of the loop."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        work = functools.partial(function, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(pool, work)
