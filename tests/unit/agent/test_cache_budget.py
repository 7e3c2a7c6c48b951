"""Which images fit: tables."""

from __future__ import annotations

import pytest

from teeth_agent.image.cache.budget import (
    LEAVE,
    PREPARE,
    Held,
    Wanted,
    memory_budget,
    memory_reserve,
    needed,
    plan,
)  # fmt: skip

MIB, GIB = 1 << 20, 1 << 30


def wanted(*sizes):
    return [Wanted(key=f"w{index}", size=size * MIB) for index, size in enumerate(sizes)]


def room(*sizes):
    """A budget for exactly these."""
    return sum(needed(size * MIB) for size in sizes)


@pytest.mark.parametrize(
    ("sizes", "budget", "fits"),
    [
        ([10, 20, 30], room(10, 20, 30), (0, 1, 2)),
        ([10, 20, 30], room(10, 20, 30) - 1, (0, 1)),
        ([10, 20, 5], room(10, 5), (0, 2)),  # the second does not fit, a smaller one behind it does
        ([100, 1, 1], room(2), (1,)),
        ([1], 0, ()),
        ([], room(1), ()),
    ],
)
def test_as_many_as_fit_in_order(sizes, budget, fits):
    found = plan(wanted(*sizes), [], budget)
    assert found.fits == fits
    assert set(found.left_out) == set(range(len(sizes))) - set(fits)


def test_what_is_left_out_is_told_with_its_figures():
    found = plan(wanted(10, 20), [], room(10) + 5)
    assert found.left_out == {1: f"needs {needed(20 * MIB)} bytes, 5 of {room(10) + 5} are left for it"}


def test_one_content_costs_once():
    twice = [Wanted(key="a", size=10 * MIB), Wanted(key="a", size=10 * MIB)]
    assert plan(twice, [], room(10)).fits == (0, 1)


def held(*entries):
    return [Held(key=key, size=size * MIB, rank=rank) for key, size, rank in entries]


@pytest.mark.parametrize(
    ("entries", "budget", "evict"),
    [
        ([("x", 10, 5), ("y", 10, 9)], room(10, 10, 10), ()),  # all of it fits beside what is wanted
        ([("x", 10, 5), ("y", 10, 9)], room(10, 10), ("y",)),  # the lowest priority goes first
        ([("x", 10, 5), ("y", 10, 9)], room(10), ("y", "x")),
        ([("w0", 10, 7)], room(10), ()),  # what is wanted stays
        ([("w0", 10, 7), ("x", 10, 0)], room(10) + 5, ("x",)),
    ],
)
def test_what_is_not_wanted_goes_only_as_room_is_needed(entries, budget, evict):
    assert plan(wanted(10), held(*entries), budget).evict == evict


def test_a_wanted_image_that_does_not_fit_any_more_goes_first():
    found = plan(wanted(10, 50), held(("w1", 50, 0), ("x", 5, 3)), room(10, 5))
    assert found.fits == (0,)
    assert found.evict == ("w1",)


@pytest.mark.parametrize(
    ("total", "available", "already", "budget"),
    [
        (1 * GIB, 800 * MIB, 0, 800 * MIB - PREPARE - LEAVE - 64 * MIB),
        (64 * GIB, 60 * GIB, 0, 60 * GIB - PREPARE - LEAVE - 64 * GIB // 20),
        (1 * GIB, 400 * MIB, 300 * MIB, 700 * MIB - PREPARE - LEAVE - 64 * MIB),
        (1 * GIB, 300 * MIB, 0, 0),
        (0, 0, 0, 0),
    ],
)
def test_memory_leaves_room_for_preparing_and_leaving(total, available, already, budget):
    assert memory_budget(available=available, total=total, held=already) == budget
    assert memory_reserve(total) >= PREPARE + LEAVE
