"""Which endpoint is dialled when: a pure choice."""

from __future__ import annotations

import random

import pytest

from teeth_agent.session.places import Places

ENDPOINTS = [("a", 1), ("b", 2), ("c", 3)]


def places(jitter: float = 1.0) -> Places:
    return Places(ENDPOINTS, backoff=1.0, jitter=lambda: jitter)


def test_all_are_tried_in_order_before_anybody_waits() -> None:
    home, tried = places(), []
    for _ in ENDPOINTS:
        place, wait = home.next(0.0)
        assert wait == 0
        tried.append(str(place))
        home.failed(place, 0.0)
    assert tried == ["a:1", "b:2", "c:3"]
    place, wait = home.next(0.25)
    assert (str(place), wait) == ("a:1", 0.75)


def test_an_earlier_one_is_preferred_as_soon_as_it_is_due() -> None:
    home = places()
    first, _ = home.next(0.0)
    home.failed(first, 0.0)
    second, _ = home.next(0.5)
    assert str(second) == "b:2"
    home.met(second, 0.5)  # a session of half a second
    assert str(home.next(1.0)[0]) == "a:1"


def test_each_has_its_own_backoff_up_to_the_slowest() -> None:
    home = places()
    first, _ = home.next(0.0)
    waits = []
    for _ in range(20):
        home.failed(first, 100.0)
        waits.append(first.due - 100.0)
    assert waits == [1, 2, 4, 8, 16, *[30] * 15]
    assert str(home.next(100.0)[0]) == "b:2"
    home.met(first, 200.0)
    assert first.due == 201.0


@pytest.mark.parametrize("seed", range(20))
def test_a_wait_is_anything_from_nothing_to_the_most(seed: int) -> None:
    home = Places(ENDPOINTS, backoff=1.0, jitter=random.Random(seed).random)
    place, _ = home.next(0.0)
    for number in range(8):
        home.failed(place, 0.0)
        assert 0 <= place.due <= min(30, 2**number)
        home.refused(place, 0.0)
        assert 15 <= place.due <= 30


def test_who_refuses_is_not_asked_again_soon_even_with_the_least_jitter() -> None:
    home = places(jitter=0.0)
    place, _ = home.next(0.0)
    home.refused(place, 10.0)
    assert place.due == 25.0
    home.welcome(place, 11.0)
    assert home.next(11.0) == (place, 0.0)


def test_the_same_news_is_told_once_and_now_and_then_again() -> None:
    place, _ = places().next(0.0)
    assert [place.news("down") for _ in range(41)] == [n % 20 == 0 for n in range(41)]
    assert place.news("another reason")
    assert place.news("down")
