from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from teeth.endpoint import nodestore, taskstate
from teeth.endpoint.database import Database
from teeth.endpoint.nodestore import NodeStore
from teeth.endpoint.schema import sessions, task_events
from teeth.endpoint.taskrows import sql_rows
from teeth.endpoint.taskstate import TaskState, Verdict, parse_status
from teeth.endpoint.taskstore import TaskStore
from teeth.errors import TeethError
from teeth_protocol.errors import ProblemError

SECRET = "correct-horse-battery"
PARAMS: dict[str, Any] = {"image_id": "i", "config_drive": {"user_data": SECRET}}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    db = Database(tmp_path / "data")
    yield db
    db.close()


@pytest.fixture
def tasks(db: Database) -> TaskStore:
    NodeStore(db.engine).open_session("n1", macs=(), boot_id="b1", agent="1", peer="p")
    return TaskStore(sql_rows(db.engine))


def create(tasks: TaskStore, task_id: str = "t1", params: dict[str, Any] = PARAMS, **members: Any) -> bool:
    _, new = tasks.create(task_id, "n1", "standbye.run_image", asked=params, sent=params, **members)
    return new


def say(tasks: TaskStore, state: str, *, epoch: int = 1, node: str = "n1", **members: Any) -> Verdict:
    status = parse_status({"task_id": "t1", "state": state, **members})
    return tasks.report(node, epoch, status)[1]


def test_what_was_reported_is_there_after_a_restart(tmp_path: Path) -> None:
    first = Database(tmp_path)
    NodeStore(first.engine).open_session("n1", macs=("m",), boot_id="b1", agent="1", peer="p")
    store = TaskStore(sql_rows(first.engine))
    create(store)
    say(store, "running", seq=3, percent=40, eta=9, step="write", fields={"rate": 7})
    first.close()
    second = Database(tmp_path)
    try:
        task = TaskStore(sql_rows(second.engine)).get("t1")
        assert task is not None
        assert (task.state, task.percent, task.eta, task.seq) == (TaskState.RUNNING, 40.0, 9.0, 3)
        assert TaskStore(sql_rows(second.engine)).events("t1")[-1]["fields"] == {"rate": 7}
        node = NodeStore(second.engine).node("n1")
        assert node is not None
        assert node.macs == ("m",)
    finally:
        second.close()


def test_commits_are_made_durable(db: Database) -> None:
    with db.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL


def test_the_same_task_is_not_made_twice(tasks: TaskStore) -> None:
    assert create(tasks) is True
    assert create(tasks) is False
    with pytest.raises(TeethError, match="asks for something else"):
        create(tasks, params={"image_id": "other"})


def test_a_report_of_an_unknown_task_or_an_old_session_is_refused(tasks: TaskStore) -> None:
    with pytest.raises(ProblemError) as caught:
        say(tasks, "running")
    assert caught.value.problem.code == "unknown_task"
    create(tasks)
    with pytest.raises(ProblemError) as caught:
        say(tasks, "running", epoch=0)
    assert caught.value.problem.code == "stale_epoch"
    with pytest.raises(ProblemError) as caught:
        say(tasks, "running", node="n2")
    assert caught.value.problem.code == "stale_epoch"


def test_secrets_are_in_no_listing_and_gone_when_the_task_is_over(db: Database, tasks: TaskStore) -> None:
    create(tasks)
    assert SECRET not in repr(tasks.listing())
    assert SECRET not in repr(tasks.events("t1"))
    assert tasks.sending("t1", "b1", 1) == PARAMS
    say(tasks, "complete", seq=1)
    assert tasks.sending("t1", "b1", 1) is None


def test_secrets_are_wiped_from_the_files(tmp_path: Path) -> None:
    db = Database(tmp_path)
    NodeStore(db.engine).open_session("n1", macs=(), boot_id="b1", agent="1", peer="p")
    store = TaskStore(sql_rows(db.engine))
    create(store)
    before = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert SECRET.encode() in before  # the test can see it where it is
    say(store, "complete", seq=1)
    db.close()
    after = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert SECRET.encode() not in after
    assert (tmp_path / "endpoint.sqlite").stat().st_mode & 0o777 == 0o600


def test_progress_is_kept_within_bounds_and_changes_always(db: Database, tasks: TaskStore) -> None:
    create(tasks)
    for seq in range(1, 260):
        say(tasks, "running", seq=seq, percent=seq / 3)
    say(tasks, "running", seq=300, phase="prepared")
    say(tasks, "complete", seq=301)
    with db.engine.connect() as connection:
        progress = connection.execute(
            sa.select(sa.func.count()).select_from(task_events).where(task_events.c.progress)
        ).scalar_one()
    assert progress == 200
    states = [event["state"] for event in tasks.events("t1")]
    assert (states[0], states[1], states[-1]) == ("queued", "running", "complete")
    assert "prepared" in [event["phase"] for event in tasks.events("t1")]


def test_a_landing_counts_once(tasks: TaskStore) -> None:
    create(tasks, landing_hash="h")
    say(tasks, "running", seq=1, phase="leaving")
    task, first = tasks.land("h", "digest", {"hostname": "web"})
    assert (task.state, first) == (TaskState.COMPLETE, True)
    again, first = tasks.land("h", "digest", {"hostname": "web"})
    assert (again, first) == (task, False)
    with pytest.raises(ProblemError) as caught:
        tasks.land("h", "another digest", {"hostname": "evil"})
    assert caught.value.problem.code == "landing_used"
    with pytest.raises(ProblemError) as caught:
        tasks.land("unheard of", "digest", {})
    assert caught.value.problem.code == "landing_unknown"


def test_a_change_that_changes_nothing_leaves_no_trace(tasks: TaskStore) -> None:
    create(tasks)
    before = len(tasks.events("t1"))
    assert tasks.change("t1", taskstate.disconnected)[1] is False
    assert tasks.change_open("n1", taskstate.disconnected) == []
    assert len(tasks.events("t1")) == before


def test_epochs_rise_and_old_sessions_cannot_write(db: Database) -> None:
    store = NodeStore(db.engine)
    one = store.open_session("n1", macs=(), boot_id="b1", agent="1", peer="p")
    two = store.open_session("n1", macs=(), boot_id="b2", agent="1", peer="p")
    assert (one.epoch, two.epoch) == (1, 2)
    assert store.set_inventory("n1", one.epoch, {"disks": []}) is False
    assert store.set_inventory("n1", two.epoch, {"disks": [], "token": SECRET}) is True
    node = store.node("n1")
    assert node is not None
    assert node.inventory == {"disks": [], "token": "[redacted]"}


def test_only_nodes_without_a_session_are_silent(tmp_path: Path, db: Database) -> None:
    now = [1000.0]
    store = NodeStore(db.engine, clock=lambda: now[0])
    gone = store.open_session("gone", macs=(), boot_id="b", agent="1", peer="p")
    store.open_session("here", macs=(), boot_id="b", agent="1", peer="p")
    store.close_session(gone.session_id, "ended")
    assert store.silent_since(1000.0) == []
    assert store.silent_since(1001.0) == ["gone"]
    store.close_stale_sessions()
    assert store.silent_since(1001.0) == ["gone", "here"]


def test_logs_are_bounded_per_node(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodestore, "_LOGS_KEPT", 10)
    monkeypatch.setattr(nodestore, "_LOGS_SLACK", 4)
    store = NodeStore(db.engine)
    store.add_log("n2", {"event": "quiet"})
    for number in range(40):
        store.add_log("n1", {"event": f"e{number}", "password": SECRET})
    kept = store.logs("n1")
    assert len(kept) <= 15
    assert kept[-1] == {"event": "e39", "password": "[redacted]"}
    assert store.logs("n2") == [{"event": "quiet"}]


def test_a_log_record_of_a_whole_line_is_kept_short(db: Database) -> None:
    store = NodeStore(db.engine)
    record = {
        "level": "info", "event": "e" * 100_000, "time": 1.5, "n" * 1000: 1,
        "fields": {f"f{number}": "x" * 1000 for number in range(100)},
        **{f"m{number}": "y" * 5000 for number in range(30)},
    }  # fmt: skip
    kept = store.add_log("n1", record)
    assert (kept["level"], kept["time"], kept["event"]) == ("info", 1.5, "e" * 1024)
    assert "letters" in kept["left_out"]
    assert len(json.dumps(store.logs("n1"))) < 16 << 10


def test_two_endpoints_do_not_share_a_folder(tmp_path: Path, db: Database) -> None:
    with pytest.raises(TeethError, match="in use by another endpoint"):
        Database(tmp_path / "data")


def test_what_is_no_store_of_ours_is_refused_and_let_go(tmp_path: Path) -> None:
    (tmp_path / "endpoint.sqlite").write_bytes(b"this is not a database" * 100)
    with pytest.raises(TeethError, match="cannot be opened"):
        Database(tmp_path)
    (tmp_path / "endpoint.sqlite").unlink()
    connection = sqlite3.connect(tmp_path / "endpoint.sqlite")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(TeethError, match="schema 99"):
        Database(tmp_path)
    (tmp_path / "endpoint.sqlite").unlink()
    Database(tmp_path).close()


def test_a_folder_that_cannot_be_one_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TeethError, match="cannot be used"):
        Database(tmp_path / "file")


async def test_transactions_keep_the_order_they_were_asked_in(db: Database) -> None:
    seen: list[int] = []
    await asyncio.gather(*(db.call(seen.append, number) for number in range(50)))
    assert seen == list(range(50))


def test_a_node_keeps_its_newest_sessions(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodestore, "_SESSIONS_KEPT", 3)
    store = NodeStore(db.engine)
    store.open_session("n2", macs=(), boot_id="b", agent="1", peer="p")
    for _ in range(10):
        store.close_session(
            store.open_session("n1", macs=(), boot_id="b", agent="1", peer="p").session_id, "over"
        )
    with db.engine.begin() as connection:
        kept = connection.execute(sa.select(sessions.c.node_id, sessions.c.epoch)).all()
    assert [tuple(row) for row in kept] == [("n2", 1), ("n1", 8), ("n1", 9), ("n1", 10)]
