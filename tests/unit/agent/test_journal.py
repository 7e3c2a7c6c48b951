"""The agent's task journal: what was kept is there, what was not whole is not."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from teeth_agent.session import journal
from teeth_agent.session.journal import FileJournal, JournalError, replay

END = {
    "task_id": "t1",
    "seq": 4,
    "state": "error",
    "code": "no_disk",
    "msg": "no disk",
    "detail": {"a": [1.5]},
}


def acceptance(task_id: str = "t1") -> journal.Record:
    return journal.accepted(task_id, "decom.disk_erase", "d" * 64, below=1000)


def end(task_id: str = "t1", **members: Any) -> journal.Record:
    return journal.ended(task_id, {**END, "task_id": task_id, **members}, state="error", percent=40.0)


def test_a_tasks_life() -> None:
    (task,) = replay([acceptance(), journal.numbered("t1", 2000)]).values()
    assert (task.state, task.below, task.end, task.acknowledged) == ("running", 2000, None, False)
    (task,) = replay([acceptance(), end()]).values()
    assert (task.state, task.percent, task.end) == ("error", 40.0, END)
    (task,) = replay([acceptance(), end(), journal.acknowledged("t1")]).values()
    assert (task.state, task.end, task.acknowledged) == ("error", None, True)
    assert replay([acceptance(), journal.forgotten("t1")]) == {}


@pytest.mark.parametrize(
    "records",
    [
        [{"kind": "accepted"}],
        [{"task_id": "t1"}],
        [end()],
        [{**acceptance(), "below": "many"}],
        [{**acceptance(), "kind": "promised"}],
    ],
)
def test_nonsense_is_not_guessed_at(records: list[journal.Record]) -> None:
    with pytest.raises(JournalError, match="makes no sense"):
        replay(records)


def test_records_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "teeth" / "tasks.jsonl"
    kept = [acceptance(), end(), acceptance("t2")]
    assert FileJournal(path).load() == []
    for record in kept:
        FileJournal(path).append(record)
    assert FileJournal(path).load() == kept
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("cut", range(1, 40, 7))
def test_a_torn_last_line_is_dropped_and_does_not_spoil_the_next(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "tasks.jsonl"
    kept = FileJournal(path)
    kept.append(acceptance())
    kept.append(acceptance("t2"))
    path.write_bytes(path.read_bytes()[:-cut])
    assert FileJournal(path).load() == [acceptance()]
    FileJournal(path).append(end())
    assert FileJournal(path).load() == [acceptance(), end()]


@pytest.mark.parametrize("line", [b"{not json\n", b"[1]\n", b"\xff\n", b"7\n"])
def test_a_damaged_line_is_said_and_nothing_is_made_of_it(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "tasks.jsonl"
    FileJournal(path).append(acceptance())
    path.write_bytes(path.read_bytes() + line + path.read_bytes())
    with pytest.raises(JournalError, match="damaged"):
        FileJournal(path).load()


def test_the_file_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    kept = FileJournal(path, compact_at=4096)
    sizes = []
    for number in range(400):
        kept.append(acceptance(f"t{number}"))
        kept.append(end(f"t{number}"))
        kept.append(journal.acknowledged(f"t{number}"))
        if number >= 4:
            kept.append(journal.forgotten(f"t{number - 4}"))
        sizes.append(path.stat().st_size)
    assert max(sizes) < 3 * 4096
    tasks = replay(FileJournal(path).load())
    assert list(tasks) == ["t396", "t397", "t398", "t399"]
    assert all(task.acknowledged and task.state == "error" for task in tasks.values())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["tasks.jsonl"]


def test_a_compaction_keeps_every_end_that_is_owed(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    kept = FileJournal(path, compact_at=256)
    kept.append(acceptance("owed"))
    kept.append(end("owed"))
    kept.append(acceptance("running"))
    for number in range(50):
        kept.append(journal.numbered("running", 1000 * number))
    tasks = replay(FileJournal(path).load())
    assert tasks["owed"].end == {**END, "task_id": "owed"}
    assert (tasks["running"].state, tasks["running"].below) == ("running", 49_000)


def test_what_cannot_be_kept_is_not_kept_by_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tasks.jsonl"
    kept = FileJournal(path)
    kept.append(acceptance())
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 10:
            return write(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(JournalError, match="No space left on device"):
            kept.append(end())
    assert kept.load() == [acceptance()]
    kept.append(end())
    assert kept.load() == [acceptance(), end()]


def test_a_place_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be written"):
        FileJournal(tmp_path / "file" / "tasks.jsonl").append(acceptance())
    (tmp_path / "folder").mkdir()
    with pytest.raises(JournalError, match="cannot be read"):
        FileJournal(tmp_path / "folder").load()


def test_a_status_comes_back_byte_for_byte(tmp_path: Path) -> None:
    said = {
        "task_id": "t1",
        "seq": 1,
        "state": "complete",
        "percent": 100.0,
        "eta": 0,
        "result": {"ü": 0.1, "b": 1},
    }
    path = tmp_path / "tasks.jsonl"
    FileJournal(path).append(acceptance())
    FileJournal(path).append(journal.ended("t1", said, state="complete", percent=99.99))
    (task,) = replay(FileJournal(path).load()).values()
    assert json.dumps(task.end) == json.dumps(said)
