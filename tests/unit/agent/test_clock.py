"""A machine whose clock is years away comes home all the same, and believes nobody more than it must."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes.living_agent import agent
from fakes.tls_endpoint import Authority, Visit, listening, make_authority, tls_endpoint
from teeth_agent.session.clock import ClockError, SystemClock
from teeth_agent.session.dial import DialError, TlsDialer

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
YEAR = 365 * DAY
# The machine's clock cannot be turned for a test, but the certificate can be of another time just as well.
TIMES = {"its clock is in 1970": (YEAR, 2 * YEAR), "its clock is in 2099": (-2 * YEAR, -YEAR)}


class Settable:
    """A clock that can be set, to no effect."""

    def __init__(self) -> None:
        self.set: list[float] = []

    def clock(self, floor: int = 0) -> SystemClock:
        return SystemClock(floor, set_to=self.set.append)


def test_a_clock_before_the_ramdisk_was_made_is_raised() -> None:
    told: list[float] = []
    clock = SystemClock(1000, now=lambda: 5.0, set_to=told.append)
    clock.raise_to_floor()
    SystemClock(1000, now=lambda: 1001.0, set_to=told.append).raise_to_floor()
    assert told == [1000]
    assert not clock.stepped


def test_a_step_says_what_it_did_and_goes_both_ways() -> None:
    told: list[float] = []
    clock = SystemClock(1000, now=lambda: 4070908800.0, set_to=told.append)
    words = clock.step(1700000000.0)
    assert words == "the clock stood at 2099-01-01 00:00:00 UTC and was set to 2023-11-14 22:13:20 UTC"
    assert (told, clock.stepped) == ([1700000000.0], True)
    with pytest.raises(ClockError, match="before this ramdisk was made"):
        clock.step(999.0)
    assert told == [1700000000.0]


def test_a_clock_that_cannot_be_set_is_one_error() -> None:
    def refuse(epoch: float) -> None:
        raise PermissionError(1, "Operation not permitted")

    clock = SystemClock(1000, now=lambda: 5.0, set_to=refuse)
    clock.raise_to_floor()
    with pytest.raises(ClockError, match="cannot be set: Operation not permitted"):
        clock.step(2000.0)
    assert not clock.stepped


@pytest.mark.parametrize(("before", "after"), TIMES.values(), ids=TIMES.keys())
async def test_the_time_is_asked_for_and_nothing_else_is_said(
    tmp_path: Path, before: dt.timedelta, after: dt.timedelta
) -> None:
    authority = make_authority(tmp_path / "ca", before=NOW + before, after=NOW + after)
    told = Settable()
    async with (
        tls_endpoint(authority) as endpoint,
        agent(endpoint.port, digest=authority.digest, clock=told.clock()) as living,
    ):
        assert await endpoint.enrolment() == {"only": "time"}
        # Its certificate is still of another time after that: so the agent complains and says no more.
        said = await living.screen.says("problem certificate_time")
        assert await endpoint.enrolment() == {"only": "time"}
    assert "the clock stood at " in said
    assert f", as 127.0.0.1:{endpoint.port} says\n" in said
    assert abs(told.set[0] - dt.datetime.now(dt.UTC).timestamp()) < 600
    assert endpoint.visits.qsize() == 0


async def test_after_the_step_everything_is_checked_and_the_agent_comes_home(tmp_path: Path) -> None:
    """The endpoint's certificate becomes good in the moment in which the clock is set."""
    early = make_authority(tmp_path / "ca", before=NOW + YEAR, after=NOW + 2 * YEAR)
    context = early.context()

    def set_to(epoch: float) -> None:
        early.issue_server(before=NOW - DAY, after=NOW + DAY)
        context.load_cert_chain(early.folder / "chain.pem", early.folder / "key.pem")

    clock = SystemClock(0, set_to=set_to)
    async with (
        tls_endpoint(early, context=context) as endpoint,
        agent(endpoint.port, digest=early.digest, clock=clock) as living,
    ):
        assert await endpoint.enrolment() == {"only": "time"}
        assert "csr" in await endpoint.enrolment()
        await endpoint.visit()
    assert clock.stepped
    assert "problem" not in living.screen.getvalue()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"time": 999}, "before this ramdisk was made"),
        ({"time": "noon"}, "does not say the time"),
        ({"time": True}, "does not say the time"),
        ({"time": None}, "does not say the time"),
        ({}, "does not say the time"),
        ({"time": 2**52}, "says no time"),
        ({"time": -5}, "says no time"),
    ],
)
async def test_what_cannot_be_the_time_is_not_believed(
    tmp_path: Path, answer: dict[str, Any], words: str
) -> None:
    authority = make_authority(tmp_path / "ca", before=NOW - 2 * YEAR, after=NOW - YEAR)
    told = Settable()

    async def say(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return answer

    async with tls_endpoint(authority) as endpoint:
        endpoint.enrol = say
        dialer = TlsDialer(ca_digest=authority.digest, ca_file=None, clock=told.clock(1000))
        with pytest.raises(DialError, match=words) as error:
            await dialer.dial("127.0.0.1", endpoint.port, None)
    assert error.value.code == "certificate_time"
    assert told.set == []


async def heard_by(authority: Authority, dialer: TlsDialer) -> tuple[str, list[bytes]]:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            heard.append(data)

    async with listening(listen, authority.context()) as port:
        with pytest.raises(DialError) as error:
            await dialer.dial("127.0.0.1", port, None)
    return error.value.code, heard


async def test_a_certificate_that_is_wrong_in_more_than_its_time_is_asked_nothing(
    tmp_path: Path, authority: Authority
) -> None:
    past = {"before": NOW - 2 * YEAR, "after": NOW - YEAR}
    elsewhere = make_authority(tmp_path / "elsewhere", address="127.0.0.2", **past)
    stranger = make_authority(tmp_path / "stranger", **past)
    told = Settable()
    for shown, trusted in ((elsewhere, elsewhere), (stranger, authority)):
        dialer = TlsDialer(ca_digest=None, ca_file=trusted.ca_file, clock=told.clock())
        assert await heard_by(shown, dialer) == ("wrong_ca", [])
    assert told.set == []


async def test_without_a_clock_to_set_it_is_a_problem_of_its_own(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca", before=NOW - 2 * YEAR, after=NOW - YEAR)
    dialer = TlsDialer(ca_digest=None, ca_file=authority.ca_file)
    assert await heard_by(authority, dialer) == ("certificate_time", [])


async def test_an_endpoint_that_will_not_say_the_time(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca", before=NOW - 2 * YEAR, after=NOW - YEAR)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b'"only"' in await reader.readline()

    dialer = TlsDialer(ca_digest=authority.digest, ca_file=None, clock=Settable().clock())
    async with listening(hang_up, authority.context()) as port:
        with pytest.raises(DialError, match="does not say the time") as error:
            await dialer.dial("127.0.0.1", port, None)
    assert error.value.code == "certificate_time"
