"""Log records kept while nobody listens: bounded, in order, always sendable."""

from __future__ import annotations

import logging
import math
import threading
from typing import Any

import pytest

from teeth_agent.session.spool import LogSpool
from teeth_protocol.strictjson import dumps


def drain(spool: LogSpool) -> list[dict[str, Any]]:
    records = []
    while (record := spool.take()) is not None:
        records.append(record)
    return records


def test_the_oldest_go_first_and_are_counted() -> None:
    spool = LogSpool(max_records=3)
    for number in range(5):
        spool.add("info", "l", f"{number}")
    records = drain(spool)
    assert [record["event"] for record in records] == ["2", "3", "4"]
    assert [record.get("dropped") for record in records] == [2, None, None]


def test_what_is_put_back_is_the_oldest_and_keeps_its_count() -> None:
    spool = LogSpool(max_records=2)
    for number in range(3):
        spool.add("info", "l", f"{number}")
    record = spool.take()
    assert record is not None
    spool.put_back(record)
    records = drain(spool)
    assert [(r["event"], r.get("dropped")) for r in records] == [("1", 1), ("2", None)]


def test_what_is_put_back_when_no_room_is_left_is_the_first_to_go() -> None:
    """It was taken, and as many came meanwhile as there is room for."""
    spool = LogSpool(max_records=2)
    spool.add("info", "l", "0")
    record = spool.take()
    assert record is not None
    for number in (1, 2):
        spool.add("info", "l", f"{number}")
    spool.put_back(record)
    assert [(r["event"], r.get("dropped")) for r in drain(spool)] == [("1", 1), ("2", None)]


def test_what_is_given_up_is_counted_with_what_it_counted() -> None:
    spool = LogSpool(max_records=2)
    for number in range(3):
        spool.add("info", "l", f"{number}")
    record = spool.take()
    assert record is not None
    spool.give_up(record)
    assert [(r["event"], r.get("dropped")) for r in drain(spool)] == [("2", 2)]


def test_a_record() -> None:
    spool = LogSpool()
    told = []
    spool.notify = lambda: told.append(1)
    spool.add("warning", "erase", "slow", task_id="t1", disk="S1")
    record = spool.take()
    assert record is not None
    assert (record["level"], record["logger"], record["event"], record["task_id"], record["fields"]) == (
        "warning", "erase", "slow", "t1", {"disk": "S1"},
    )  # fmt: skip
    assert record["monotonic"] > 0
    assert record["time"] > 0
    assert told == [1]
    assert spool.take() is None


AWKWARD: dict[str, Any] = {
    "integer": 2**60,
    "NaN": math.nan,
    "bytes": b"x",
    "surrogate": "\udcff",
    "object": object(),
    "long": "x" * 5000,
}


@pytest.mark.parametrize("value", AWKWARD.values(), ids=AWKWARD.keys())
def test_whatever_is_logged_can_be_sent(value: Any) -> None:
    spool = LogSpool()
    spool.add("info", "l", f"{value}\udcff" * 1000, value=value)
    (record,) = drain(spool)
    assert len(dumps(record)) < 8192
    assert list(record["fields"]) == ["left_out"]


def test_its_clocks_are_given_to_it() -> None:
    spool = LogSpool(clock=lambda: 1.5, monotonic=lambda: 2.5)
    spool.add("info", "l", "x")
    assert [(r["time"], r["monotonic"]) for r in drain(spool)] == [(1.5, 2.5)]


def test_it_is_a_logging_handler() -> None:
    spool = LogSpool()
    logger = logging.Logger("teeth.test")
    logger.addHandler(spool)
    logger.debug("not this")
    logger.warning("a %s", "word")
    logger.info("a %d", "mistake")
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("it failed")
    assert [(r["level"], r["event"]) for r in drain(spool)] == [
        ("warning", "a word"),
        ("info", "a %d ('mistake',)"),
        ("error", "it failed: ValueError: why"),
    ]


def test_many_threads_log_at_once() -> None:
    spool = LogSpool(max_records=100)

    def log(name: str) -> None:
        for number in range(500):
            spool.add("info", name, f"{number}")

    threads = [threading.Thread(target=log, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = drain(spool)
    assert len(records) == 100
    assert records[0]["dropped"] == 1900
    for name in {record["logger"] for record in records}:
        events = [int(record["event"]) for record in records if record["logger"] == name]
        assert events == sorted(events)
