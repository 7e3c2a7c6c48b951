"""What the agent's process has promised is kept by the next one of the same boot."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from teeth_agent.errors import AgentError
from teeth_agent.session import journal
from teeth_agent.session.journal import FileJournal, JournalError, MemoryJournal
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import Job, TaskRunner
from teeth_agent.tasks.context import TaskContext
from teeth_protocol.errors import Problem, ProblemError
from teeth_protocol.messages import Command
from teeth_protocol.strictjson import dumps
from teeth_stream import RemoteError

PLAN = {"task_id": "look", "plan": True}
ERASE = "decom.disk_erase"


class Home:
    """The other side of pump: says yes to everything, unless told what to say."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.refuse: Callable[[Mapping[str, Any]], str] = lambda status: ""
        self.news = asyncio.Condition()

    async def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        async with self.news:
            self.said.append(json.dumps(params))
            self.news.notify_all()
        if code := self.refuse(params):
            raise RemoteError(Problem(code=code, msg="no"))
        return {"verdict": "applied"}

    def ends(self) -> list[dict[str, Any]]:
        return [status for line in self.said if (status := json.loads(line))["state"] != "running"]


class Life:
    """One process of the agent: jobs are kept in ``jobs`` and run when the test says so."""

    def __init__(self, kept: journal.Journal, **options: Any) -> None:
        self.jobs: dict[str, Job] = {}
        self.told: list[str] = []
        self.runner = TaskRunner(
            TaskContext(boot_id="b"), LogSpool(), lambda method: self.work if method == ERASE else None,
            self.told.append, journal=kept, start=self.begin, progress_interval=0.0, retry_interval=0.0,
            **options,
        )  # fmt: skip
        self.result: dict[str, Any] = {"proof": 1}

    def begin(self, job: Job) -> None:
        self.jobs[job.task_id] = job

    def work(self, params: Mapping[str, Any], context: TaskContext, reporter: Any) -> dict[str, Any]:
        return self.result

    def start(self, task_id: str = "t1", **params: Any) -> dict[str, Any]:
        return self.runner.start(ERASE, {"task_id": task_id, **params})

    def refused(self, task_id: str = "t1", **params: Any) -> Problem:
        with pytest.raises(ProblemError) as error:
            self.start(task_id, **params)
        return error.value.problem

    @contextlib.asynccontextmanager
    async def at(self, home: Home, ends: int = 1) -> AsyncIterator[None]:
        """Connected until so many ends were said."""
        pump = asyncio.create_task(self.runner.pump(home))  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(30), home.news:
                await home.news.wait_for(lambda: len(home.ends()) >= ends)
            await asyncio.sleep(0)
            yield
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)


@pytest.fixture
def kept(tmp_path: Path) -> FileJournal:
    return FileJournal(tmp_path / "tasks.jsonl")


async def settled(life: Life) -> None:
    async with asyncio.timeout(30):
        while life.runner.summary():  # noqa: ASYNC110 - what empties it has no event
            await asyncio.sleep(0)


async def test_a_task_that_ran_is_interrupted_and_not_begun_again(kept: FileJournal) -> None:
    first = Life(kept)
    accepted = first.start(allow=["S1"])
    assert accepted["state"] == "running"
    first.jobs["t1"].reporter.progress(40)
    second = Life(kept)
    assert second.runner.summary() == [{"task_id": "t1", "method": ERASE, "state": "error", "percent": 0.0}]
    assert second.start(allow=["S1"]) == {"task_id": "t1", "state": "error", "percent": 0.0}
    assert second.refused(allow=["S2"]).code == "task_conflict"
    assert second.jobs == {}
    home = Home()
    async with second.at(home):
        (end,) = home.ends()
        assert (end["code"], end["msg"]) == (
            "interrupted", "the agent was restarted while this task ran; its tools were stopped",
        )  # fmt: skip
        assert end["seq"] > 1
        await settled(second)
    assert Life(kept).runner.summary() == []


async def test_numbers_go_on_rising_over_a_restart(kept: FileJournal) -> None:
    first = Life(kept)
    first.start()
    task = first.runner._tasks["t1"]
    with task.guard:
        numbers = [task.stamp({})["seq"] for _ in range(2500)]
    second, home = Life(kept), Home()
    async with second.at(home):
        assert home.ends()[0]["seq"] > max(numbers)
    assert [record["kind"] for record in kept.load()].count("numbered") == 3  # not one for each status


async def test_an_end_is_said_again_byte_for_byte(kept: FileJournal) -> None:
    first, home = Life(kept), Home()
    home.refuse = lambda status: "connection_lost"
    first.start()
    first.jobs["t1"].run()
    async with first.at(home):
        pass
    second, again = Life(kept), Home()
    async with second.at(again):
        await settled(second)
    assert again.said == home.said
    assert again.ends()[0]["result"] == {"proof": 1}
    third = Life(kept)
    assert third.runner.summary() == []
    assert third.start()["state"] == "complete"
    assert third.jobs == {}


async def test_an_end_that_was_refused_for_good_is_not_said_again(kept: FileJournal) -> None:
    first, home = Life(kept), Home()
    home.refuse = lambda status: "task_finished"
    first.start()
    first.jobs["t1"].run()
    async with first.at(home):
        await settled(first)
    assert Life(kept).runner.summary() == []


class Full(MemoryJournal):
    """A journal without room for records of one kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def append(self, record: journal.Record) -> None:
        if record["kind"] == self.kind:
            raise JournalError("no space left on device")
        super().append(record)


async def test_what_cannot_be_promised_is_not_begun() -> None:
    kept = Full("accepted")
    life = Life(kept)
    problem = life.refused()
    assert (problem.code, problem.msg) == (
        "journal_failed", "the task was not started: no space left on device",
    )  # fmt: skip
    assert (life.jobs, life.runner.summary()) == ({}, [])
    kept.kind = ""
    assert life.start()["state"] == "running"  # nothing is claimed by it


async def test_an_end_without_a_record_is_said_all_the_same() -> None:
    life, home = Life(Full("ended")), Home()
    life.start()
    life.jobs["t1"].run()
    async with life.at(home):
        assert home.ends()[0]["state"] == "complete"


async def test_who_does_not_know_what_was_done_begins_nothing(kept: FileJournal) -> None:
    Life(kept).start()
    kept.path.write_bytes(b"garbage\n")
    life = Life(kept)
    problem = life.refused("t2")
    assert problem.code == "journal_failed"
    assert "damaged" in problem.msg
    assert life.told == [f"problem journal_failed: {problem.msg}"]


async def test_a_job_that_cannot_be_started_leaves_nothing(kept: FileJournal) -> None:
    life = Life(kept)

    def no_threads(job: Job) -> None:
        raise RuntimeError("can't start new thread")

    life.runner._start = no_threads
    with pytest.raises(RuntimeError):
        life.start()
    assert life.runner.summary() == []
    life.runner._start = life.begin
    assert life.start()["state"] == "running"
    assert [record["kind"] for record in kept.load()] == ["accepted", "forgotten", "accepted"]


async def test_nothing_is_begun_while_an_earlier_processs_tool_runs(kept: FileJournal) -> None:
    Life(kept).start()
    reason = ["hdparm (pid 7) of an earlier agent process does not end"]
    life = Life(kept, blocked=lambda: reason[0])
    assert life.refused("t2") == Problem(code="busy", msg=reason[0])
    home = Home()
    async with life.at(home):
        assert home.ends()[0]["msg"].endswith("while this task ran; " + reason[0])
    reason[0] = ""
    assert life.start("t2")["state"] == "running"


async def test_the_journal_holds_no_secrets(kept: FileJournal) -> None:
    life = Life(kept)
    life.start(config_drive={"user_data": "hunter2"})
    life.jobs["t1"].run()
    assert "hunter2" not in kept.path.read_text()


async def test_forgotten_tasks_are_forgotten_by_the_journal_too(kept: FileJournal) -> None:
    life, home = Life(kept), Home()
    for number in range(70):
        life.start(f"t{number}", plan=True)
        life.jobs[f"t{number}"].run()
        async with life.at(home, number + 1):
            await settled(life)
    remembered = journal.replay(kept.load())
    assert len(remembered) == 64
    assert "t69" in remembered


async def test_two_tasks_run_at_once_when_they_touch_different_devices(kept: FileJournal) -> None:
    life = Life(kept)
    life.start("t1", allow=["S1"])
    life.start("t2", allow=["S2"])
    life.start("look", plan=True)
    assert life.refused("t3").code == "device_busy"
    life.jobs["t1"].context.claim(["wwn-1"])
    life.jobs["t2"].context.claim(["wwn-2"])
    with pytest.raises(AgentError, match=r"task t1 \(decom.disk_erase\) is using wwn-1"):
        life.jobs["t2"].context.claim(["wwn-1"])
    life.jobs["t1"].run()
    life.jobs["t2"].run()
    assert life.start("t3")["state"] == "running"


# --- ends that the wire would not carry


def deepest() -> dict[str, Any]:
    """A result with which a status is just as deep as a message may be, and its command is deeper."""
    value: dict[str, Any] = {}
    for _ in range(14):
        value = {"x": value}
    status = {"task_id": "t1", "seq": 1, "state": "complete", "percent": 100.0, "eta": 0, "result": value}
    dumps(status)
    with pytest.raises(ValueError, match="deeper"):
        dumps(Command(id="a1", method="task_status", params=status).to_json())
    return value


async def test_a_result_too_deep_for_the_wire_is_an_end_all_the_same(kept: FileJournal) -> None:
    life, home = Life(kept), Home()
    life.result = deepest()
    life.start()
    life.jobs["t1"].run()
    async with life.at(home):
        (end,) = home.ends()
    assert (end["state"], end["code"]) == ("error", "internal")
    assert "cannot be reported" in end["msg"]
    dumps(Command(id="a1", method="task_status", params=end).to_json())


async def test_an_error_without_words_is_given_some(kept: FileJournal) -> None:
    life, home = Life(kept), Home()
    life.start()
    life.jobs["t1"].fail(AgentError("", code="tool_failed"))
    async with life.at(home):
        assert home.ends()[0]["msg"] == "tool_failed"


async def test_a_thread_carries_a_job_out() -> None:
    """The way it is done on a machine."""
    done = threading.Event()

    def announce(line: str) -> None:
        if "complete" in line:
            done.set()

    def work(*_: Any) -> dict[str, Any]:
        return {"thread": threading.current_thread().name}

    runner = TaskRunner(TaskContext(boot_id="b"), LogSpool(), lambda method: work, announce)
    runner.start(ERASE, {"task_id": "t1"})
    assert await asyncio.to_thread(done.wait, 30)
    (message,) = runner._tasks["t1"].outbox
    assert message.params["result"] == {"thread": "task-t1"}
