"""The bad-input corpus against the Connection: every case, cut in every way, comes to what it says."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Iterator

import pytest

from protocol.corpus.case import ANY, LINE_BEFORE, LINE_FROM_AGENT, Case, Stage, command, sized
from protocol.corpus.play import Outcome, cuts, opened, play
from protocol.corpus.table import cases
from teeth_protocol.connection import Answered, Closed, Connection, Role, State
from teeth_protocol.limits import Limits
from teeth_protocol.strictjson import loads

READERS = (Role.ENDPOINT, Role.AGENT)
_MEMORY = 64 << 20


def families() -> Iterator[tuple[Role, str, list[Case]]]:
    for reader in READERS:
        for family, found in itertools.groupby(cases(reader), key=lambda case: case.name.split(".")[0]):
            yield reader, family, list(found)


FAMILIES = list(families())


def test_there_are_cases_enough_and_each_has_its_reason() -> None:
    for reader in READERS:
        found = cases(reader)
        assert len(found) >= 400
        assert all(len(case.reason.splitlines()) == 1 for case in found)


@pytest.mark.parametrize(
    ("reader", "family", "found"),
    FAMILIES,
    ids=[f"{reader.value}-{family}" for reader, family, _ in FAMILIES],
)
def test_comes_to_what_it_says_however_it_is_cut(reader: Role, family: str, found: list[Case]) -> None:
    wrong: dict[str, str] = {}
    # The largest family is cut at every position for one reader here, and for both by `make fuzz`.
    step = 4 if (reader, family) == (Role.AGENT, "json") else 1
    for case in found:
        whole = play(case, [case.data])
        differs = [str(why) for why in disagreements(case, whole)]
        differs += [
            f"cut into {[len(piece) for piece in pieces][:4]}... it comes to {other}"
            for pieces in cuts(case.data, step=step)
            if (other := play(case, pieces)) != whole
        ][:1]
        if differs:
            wrong[case.name] = f"{differs}, all in all {whole}"
    assert wrong == {}


def disagreements(case: Case, outcome: Outcome) -> Iterator[str]:
    """Where what came is not what must come."""
    if (case.fatal is None) != (outcome.fatal is None) or (case.fatal or "") not in (outcome.fatal or ""):
        yield f"fatal_error {outcome.fatal!r}, expected {case.fatal!r}"
    for name, wanted in (
        ("peer_fatal", case.peer_fatal),
        ("closed", case.ends),
        ("ignored", case.ignored),
        ("waits", case.waits),
    ):
        if getattr(outcome, name) != wanted:
            yield f"{name} is {getattr(outcome, name)}, expected {wanted}"
    resolved = {identity: code for identity, code in outcome.resolved if code != "connection_lost"}
    if resolved != case.resolves:
        yield f"our commands were answered {resolved}, expected {case.resolves}"
    if case.ends:
        return
    answers = dict(outcome.answers)
    if answers.keys() != case.answers.keys():
        yield f"answered {sorted(answers)}, expected {sorted(case.answers)}"
    elif any(code not in (answers[identity], ANY) for identity, code in case.answers.items()):
        yield f"answers {answers}, expected {case.answers}"
    for identity, _, _ in outcome.delivered:  # pings alone may use an id again: they are answered at once
        if [name for name, _ in outcome.answers].count(identity) != 1:
            yield f"{identity} was not answered exactly once"


# --- our own commands


@pytest.mark.parametrize("reader", READERS)
def test_a_command_of_ours_is_answered_once_whatever_ends_the_connection(reader: Role) -> None:
    for case in cases(reader):
        if not case.ends:
            continue
        connection = opened(case)
        events = connection.receive_data(case.data, 0.0)
        answered = [event.id for event in events if isinstance(event, Answered)]
        ours = {
            Stage.BEFORE: {Role.AGENT: ["a1"], Role.ENDPOINT: []},
            Stage.AFTER: {Role.AGENT: ["a2"], Role.ENDPOINT: ["e1"]},
        }
        assert answered == ours[case.stage][reader], case.name
        assert isinstance(events[-1], Closed), case.name
        assert connection.next_deadline() is None


# --- time, on a virtual clock


def lived_until(connection: Connection, most: float) -> tuple[float, str]:
    """When the connection ends if only time passes, and what it says then."""
    now = 0.0
    while (deadline := connection.next_deadline()) is not None and deadline <= most:
        now = deadline
        connection.tick(now)
        after = connection.next_deadline()
        assert after is None or after > now, "a driver would spin"
    sent = connection.data_to_send().splitlines()
    return (now if connection.state is State.CLOSED else most), loads(sent[-1]).get("fatal_error", "")


def stage_of(reader: Role, stage: Stage) -> Connection:
    case = Case(name="time", reason="time", reader=reader, stage=stage, data=b"")
    return opened(case, limits=Limits())


@pytest.mark.parametrize("reader", READERS)
def test_a_started_line_that_never_ends_is_given_ten_seconds(reader: Role) -> None:
    for case in cases(reader):
        if case.waits and case.stage is Stage.AFTER:
            connection = stage_of(reader, Stage.AFTER)
            connection.receive_data(case.data, 0.0)
            assert lived_until(connection, 60) == (10.0, "a line was started and not ended in time"), (
                case.name
            )


@pytest.mark.parametrize("reader", READERS)
def test_no_handshake_is_waited_for_five_seconds(reader: Role) -> None:
    for case in cases(reader):
        if case.stage is Stage.BEFORE and not case.ends and "a1" not in case.resolves:
            connection = stage_of(reader, Stage.BEFORE)
            connection.receive_data(case.data, 0.0)
            assert lived_until(connection, 60) == (5.0, "no handshake in time"), case.name


@pytest.mark.parametrize("reader", READERS)
def test_silence_is_the_end_after_three_pings(reader: Role) -> None:
    connection = stage_of(reader, Stage.AFTER)
    assert lived_until(connection, 600)[0] == pytest.approx(3 * 15 * 1.2)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("drip", [b"{", b" ", b"x", b"\xff", b"\r"])
def test_a_byte_now_and_then_does_not_keep_a_line_alive(reader: Role, drip: bytes) -> None:
    connection = stage_of(reader, Stage.AFTER)
    for second in range(10):
        connection.receive_data(drip, float(second))
        assert connection.tick(float(second)) == []
    assert [type(event) for event in connection.tick(10.0)][-1] is Closed


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("blank", [b"\n", b" \n", b"\r\n", b"\t\t\r\n"])
def test_a_blank_line_is_a_line_with_a_time_of_its_own(reader: Role, blank: bytes) -> None:
    """What comes behind a blank line has ten seconds from its own first byte."""
    connection = stage_of(reader, Stage.AFTER)
    connection.receive_data(blank, 0.0)
    connection.receive_data(b" ", 0.0)
    connection.receive_data(blank + b"{", 9.0)
    assert connection.tick(10.0) == []
    assert connection.state is State.READY
    assert [type(event) for event in connection.tick(19.0)][-1] is Closed


# --- memory


def memory_of(case: Case, data: bytes) -> tuple[int, int]:
    """Bytes that a connection holds after reading the data, and the most that it took meanwhile."""
    connection = opened(case)
    gc.collect()
    tracemalloc.start()
    try:
        events = connection.receive_data(data, 0.0)
        assert events or connection.data_to_send() or len(connection._lines)
        return tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_no_case_takes_more_memory_than_it_may(reader: Role) -> None:
    # Both sides read alike; only an endpoint may say what is longer than an agent may.
    least = LINE_FROM_AGENT if reader is Role.AGENT else 100_000
    for case in cases(reader):
        if case.stage is Stage.AFTER and len(case.data) > least:
            assert memory_of(case, case.data)[1] < _MEMORY, case.name


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "value",
    [
        b'"' + b"x" * 250_000 + b'"',
        b'"' + "\U0001f600".encode() + b"x" * 250_000 + b'"',
        b"[" + b"{}," * 4_900 + b"{}]",
        b"[" + b"[]," * 4_900 + b"[]]",
        b"[" + b"1.5," * 9_900 + b"1]",
    ],
    ids=["letters", "four-byte-letters", "objects", "lists", "numbers"],
)
def test_commands_that_wait_are_bounded_in_memory(reader: Role, value: bytes) -> None:
    """256 commands may wait; 256 of the largest may not."""
    case = Case(name="memory", reason="memory", reader=reader, stage=Stage.AFTER, data=b"")
    lines = [command("no.such", b'{"x":' + value + b"}", id=f"c{number}") for number in range(256)]
    connection = opened(case)
    accepted = sum(len(connection.receive_data(one, 0.0)) for one in lines)
    busy = [loads(one)["error"]["code"] for one in connection.data_to_send().splitlines()]
    assert busy == ["busy"] * (256 - accepted)
    assert 8 <= accepted < 256
    assert connection.owes == accepted
    kept, peak = memory_of(case, lines[0])
    assert kept * accepted + peak < _MEMORY
    for number in range(accepted):
        connection.send_result(f"c{number}", {})
    assert len(connection.receive_data(lines[0], 0.0)) == 1  # there is room again


def test_the_lengths_are_exact() -> None:
    assert len(sized(LINE_BEFORE)) == LINE_BEFORE + 1
    assert len(sized(LINE_FROM_AGENT, "log")) == LINE_FROM_AGENT + 1
