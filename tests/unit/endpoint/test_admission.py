from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeth.endpoint.admission import Admission, AdmissionLimits, Pass, network_of

ONE, TWO = "192.0.2.1", "192.0.2.2"


def let_in(admission: Admission, address: str = ONE, now: float = 0.0) -> Pass:
    entry = admission.connect(address, now)
    assert isinstance(entry, Pass), entry
    return entry


def why(admission: Admission, address: str = ONE, now: float = 0.0) -> str:
    verdict = admission.connect(address, now)
    assert isinstance(verdict, str)
    return verdict


def test_strangers_are_bounded_and_a_handshake_makes_room() -> None:
    admission = Admission(AdmissionLimits(strangers=2))
    first, _ = let_in(admission, ONE), let_in(admission, TWO)
    assert why(admission, "192.0.2.3") == "too many connections without a handshake"
    admission.known(first)
    let_in(admission, "192.0.2.3")
    assert (admission.open, admission.strangers) == (3, 2)


def test_one_address_cannot_keep_the_others_out() -> None:
    admission = Admission(AdmissionLimits(strangers=3, strangers_of_one=2))
    entries = [let_in(admission) for _ in range(2)]
    assert why(admission) == "too many connections without a handshake from this address"
    let_in(admission, TWO)
    admission.leave(entries[0])
    let_in(admission)


def test_connections_are_bounded_handshake_or_not() -> None:
    admission = Admission(AdmissionLimits(connections=3, connections_of_one=2))
    entries = [let_in(admission) for _ in range(2)]
    for entry in entries:
        admission.known(entry)
    assert why(admission) == "too many connections from this address"
    admission.known(let_in(admission, TWO))
    assert why(admission, "192.0.2.3") == "too many connections"
    admission.leave(entries[0])
    let_in(admission, "192.0.2.3")


def test_a_rate_is_refilled_by_time() -> None:
    admission = Admission(AdmissionLimits(rate=2.0, burst=3.0))
    for _ in range(3):
        admission.leave(let_in(admission))
    assert why(admission) == "this address connects too often"
    admission.leave(let_in(admission, TWO))  # another one's is its own
    assert why(admission, now=0.4) == "this address connects too often"
    admission.leave(let_in(admission, now=0.5))
    # However long it was away, it may not save up more than a burst.
    for _ in range(3):
        admission.leave(let_in(admission, now=1000.0))
    assert why(admission, now=1000.0) == "this address connects too often"


def test_a_refused_enrolment_costs_more_and_the_debt_has_a_bottom() -> None:
    admission = Admission(AdmissionLimits(rate=1.0, burst=9.0, failure=6.0))
    entry = let_in(admission)  # 8 units are left
    assert admission.enrol(entry, 0.0)
    admission.failed(entry, 0.0)
    assert admission.enrol(entry, 0.0)  # the last one
    assert not admission.enrol(entry, 0.5)
    for _ in range(100):
        admission.failed(entry, 0.5)
    assert not admission.enrol(entry, 10.0)
    assert admission.enrol(entry, 10.5)  # nine seconds of debt and one for this try
    assert why(admission, now=10.5) == "this address connects too often"


def test_what_is_said_twice_counts_once() -> None:
    admission = Admission()
    entry, other = let_in(admission), let_in(admission)
    for _ in range(2):
        admission.known(entry)
        admission.leave(entry)
        admission.leave(other)
        admission.known(other)
    assert (admission.open, admission.strangers) == (0, 0)


def test_a_thousand_agents_of_one_address_get_in_within_a_minute() -> None:
    """The laboratory of the limits' words: everybody dials at once, again 0 to 30 s after each refusal."""
    admission, chance = Admission(), random.Random(1)
    dials = [(0.0, agent) for agent in range(1000)]
    last = 0.0
    while dials:
        now, agent = heapq.heappop(dials)
        if _gets_in(admission, now):
            last = now
        else:
            heapq.heappush(dials, (now + 30 * chance.random(), agent))
    assert last < 60
    assert (admission.open, admission.strangers) == (1000, 0)


def _gets_in(admission: Admission, now: float) -> bool:
    """An agent enrols on one connection and has its session on the next."""
    stranger = admission.connect("127.0.0.1", now)
    if isinstance(stranger, str):
        return False
    enrolled = admission.enrol(stranger, now)
    admission.leave(stranger)
    agent = admission.connect("127.0.0.1", now) if enrolled else ""
    if isinstance(agent, str):
        return False
    admission.known(agent)
    return True


def test_the_table_of_addresses_is_bounded_and_those_connected_stay() -> None:
    admission = Admission(AdmissionLimits(addresses=4, connections=2, rate=0.0, burst=1.0))
    kept = let_in(admission, "203.0.113.1")
    for number in range(100):
        admission.leave(let_in(admission, f"198.51.100.{number}"))
    assert len(admission._sources) <= 6
    assert not admission.enrol(kept, 0.0)  # what it has spent is still known
    assert why(admission, "203.0.113.1") == "this address connects too often"
    assert why(admission, "198.51.100.99") == "this address connects too often"
    admission.leave(let_in(admission, "198.51.100.0"))  # long quiet and forgotten


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1:2", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::1", "::/64"),
        ("nonsense", "nonsense"),
    ],
)
def test_an_ipv6_host_is_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["connect", "known", "leave", "enrol", "failed"]),
            st.integers(0, 3),
            st.floats(0, 2),
        ),
        max_size=200,
    )
)
def test_the_counts_are_those_of_the_connections(steps: list[tuple[str, int, float]]) -> None:
    limits = AdmissionLimits(
        connections=5, strangers=3, connections_of_one=4, strangers_of_one=2, rate=1.0, burst=5.0,
        failure=3.0, addresses=1,
    )  # fmt: skip
    admission, now = Admission(limits), 0.0
    entries: list[Pass] = []
    for step, number, passed in steps:
        now += passed
        if step == "connect":
            verdict = admission.connect(f"192.0.2.{number}", now)
            entries += [verdict] if isinstance(verdict, Pass) else []
        elif entries:
            entry = entries[number % len(entries)]
            if step in ("enrol", "failed"):
                getattr(admission, step)(entry, now)
            else:
                getattr(admission, step)(entry)
        here = [entry for entry in entries if not entry.gone]
        assert admission.open == len(here) <= 5
        assert admission.strangers == sum(entry.stranger for entry in here) <= 3
        assert len(admission._sources) <= 6
