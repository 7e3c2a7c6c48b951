"""Tasks in threads, and what is said about them: order, ends, faults. The connection is a scripted one."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from teeth_agent.errors import AgentError, DeviceError
from teeth_agent.reporter import Reporter
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import TaskRunner
from teeth_agent.tasks import TaskFunction
from teeth_agent.tasks.context import TaskContext
from teeth_protocol.errors import Problem, ProblemError
from teeth_protocol.fields import Fields
from teeth_stream import RemoteError

Run = Callable[[Reporter], dict[str, Any]]


class Wire:
    """What pump speaks to. ``answer`` says what becomes of each status; all are kept in ``said``."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.news = asyncio.Condition()

    async def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert method == "task_status"
        async with self.news:
            self.said.append(json.loads(json.dumps(params)))
            self.news.notify_all()
        return await self.answer(params)

    async def answer(self, params: dict[str, Any]) -> dict[str, Any]:
        return {}

    async def until(self, state: str) -> dict[str, Any]:
        async with asyncio.timeout(30), self.news:
            await self.news.wait_for(lambda: any(status["state"] == state for status in self.said))
        return next(status for status in self.said if status["state"] == state)


class Bench:
    """A runner whose method "work" does what the test says, and its running pump."""

    def __init__(self, run: Run | None = None, wire: Wire | None = None) -> None:
        self.wire = wire or Wire()
        self.spool = LogSpool()
        self.announced: list[str] = []
        self.run = run
        self.runner = TaskRunner(
            TaskContext(boot_id="b"), self.spool, self.load, self.announce,
            progress_interval=0.0, retry_interval=0.0,
        )  # fmt: skip

    def announce(self, line: str) -> None:
        self.announced.append(line)

    def load(self, method: str) -> TaskFunction | None:
        if method != "work":
            return None

        def function(params: Mapping[str, Any], context: TaskContext, reporter: Reporter) -> dict[str, Any]:
            assert self.run is not None
            return self.run(reporter)

        return function

    def start(self, task_id: str = "t1", **params: Any) -> dict[str, Any]:
        return self.runner.start("work", {"task_id": task_id, **params})

    async def __aenter__(self) -> Bench:
        self.pump = asyncio.create_task(self.runner.pump(self.wire))  # type: ignore[arg-type]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.pump.cancel()
        await asyncio.gather(self.pump, return_exceptions=True)


async def end_of(run: Run) -> dict[str, Any]:
    """The last status of a task that runs like this."""
    async with Bench(run) as bench:
        bench.start()
        async with asyncio.timeout(30), bench.wire.news:
            await bench.wire.news.wait_for(lambda: any(s["state"] != "running" for s in bench.wire.said))
        assert bench.runner.start("work", {"task_id": "t1"})["state"] == bench.wire.said[-1]["state"]
        return bench.wire.said[-1]


# --- ends


async def test_a_result() -> None:
    assert await end_of(lambda _: {"a": (1, 2)}) == {
        "task_id": "t1", "seq": 1, "state": "complete", "percent": 100.0, "eta": 0, "result": {"a": [1, 2]},
    }  # fmt: skip


def fail(error: BaseException) -> Run:
    def run(reporter: Reporter) -> dict[str, Any]:
        raise error

    return run


async def test_an_error_with_its_code_and_detail() -> None:
    ended = await end_of(fail(DeviceError("disk S1 does not answer", detail={"disks": [{"serial": "S1"}]})))
    assert (ended["state"], ended["code"], ended["msg"], ended["detail"]) == (
        "error", "device_failed", "disk S1 does not answer", {"disks": [{"serial": "S1"}]},
    )  # fmt: skip


async def test_wrong_params_are_named() -> None:
    ended = await end_of(lambda _: {"x": Fields({}).text("image_id")})
    assert (ended["code"], ended["msg"]) == ("bad_params", "params.image_id: missing, expected a string")


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), SystemExit(3), KeyboardInterrupt(), MemoryError()])
async def test_a_fault_is_an_end_too(error: BaseException) -> None:
    ended = await end_of(fail(error))
    assert (ended["state"], ended["code"]) == ("error", "internal")
    assert type(error).__name__ in ended["msg"]


@pytest.mark.parametrize(
    "result",
    [{"x": 2**60}, {"x": "x" * (300 << 10)}, {"x": math.nan}, {"x": b""}, {"x": "\udcff"}, {1: 2}, None],
    ids=["integer", "long", "NaN", "bytes", "surrogate", "key", "not an object"],
)
async def test_a_result_that_cannot_be_sent_is_no_completion(result: Any) -> None:
    ended = await end_of(lambda _: result)
    if result is None:  # JSON, if not what was promised: as it is
        assert ended["result"] is None
        return
    assert (ended["state"], ended["code"]) == ("error", "internal")
    assert "cannot be reported" in ended["msg"]


async def test_an_error_whose_detail_cannot_be_sent_keeps_its_code() -> None:
    ended = await end_of(fail(AgentError("no \udcff", code="gone", detail={"x": 2**60})))
    assert (ended["state"], ended["code"], ended["msg"]) == ("error", "gone", "no ?")
    assert "detail" not in ended


async def test_the_console_is_told() -> None:
    async with Bench(fail(DeviceError("dead"))) as bench:
        bench.start()
        await bench.wire.until("error")
        assert bench.announced == ["work started", "problem work error: device_failed: dead"]


# --- order


async def test_numbers_rise_and_percent_never_falls() -> None:
    def run(reporter: Reporter) -> dict[str, Any]:
        for percent in (10.0, 50.0, 20.0, math.nan, math.inf, -5.0, 60.0, 1000.0):
            reporter.progress(percent, eta=-1.0, step="write")
            reporter.checkpoint(f"at {percent}")
        return {}

    async with Bench(run) as bench:
        bench.start()
        await bench.wire.until("complete")
        numbers = [status["seq"] for status in bench.wire.said]
        assert numbers == sorted(set(numbers))
        checkpoints = [status["percent"] for status in bench.wire.said if "phase" in status]
        assert checkpoints == [10, 50, 50, 50, 50, 50, 60, 100]


async def test_progress_is_thinned_and_the_last_is_said() -> None:
    enough = threading.Event()

    class Slow(Wire):
        async def answer(self, params: dict[str, Any]) -> dict[str, Any]:
            if params["state"] == "running":
                await asyncio.to_thread(enough.wait, 30)
            return {}

    said = asyncio.Event()
    loop = asyncio.get_running_loop()

    def run(reporter: Reporter) -> dict[str, Any]:
        for number in range(1000):
            reporter.progress(number / 10, eta=math.inf, step="write", done=number)
        enough.set()
        asyncio.run_coroutine_threadsafe(said.wait(), loop).result(30)
        return {}

    async with Bench(run, Slow()) as bench:
        bench.start()
        async with asyncio.timeout(30), bench.wire.news:
            await bench.wire.news.wait_for(
                lambda: any(s.get("fields", {}).get("done") == 999 for s in bench.wire.said)
            )
        said.set()
        await bench.wire.until("complete")
        running = [status for status in bench.wire.said if status["state"] == "running"]
        assert len(running) < 10
        assert (running[-1]["percent"], running[-1]["eta"], running[-1]["step"]) == (99.9, None, "write")


async def test_progress_from_another_thread_never_overtakes_a_checkpoint() -> None:
    """The checkpoint has its number before the progress that comes later: it must be sent before."""
    held, entered = asyncio.Event(), threading.Event()

    class Held(Wire):
        async def answer(self, params: dict[str, Any]) -> dict[str, Any]:
            if params.get("step") == "first":
                entered.set()
                await held.wait()
            return {}

    def run(reporter: Reporter) -> dict[str, Any]:
        reporter.progress(1, step="first")
        assert entered.wait(30)
        waiter = threading.Thread(target=reporter.checkpoint, args=("prepared",))
        waiter.start()
        while not bench.runner._tasks["t1"].outbox:
            threading.Event().wait(0.001)
        reporter.progress(2, step="second")
        loop.call_soon_threadsafe(held.set)
        waiter.join(30)
        return {}

    loop = asyncio.get_running_loop()
    async with Bench(run, Held()) as bench:
        bench.start()
        await bench.wire.until("complete")
        numbers = [status["seq"] for status in bench.wire.said]
        assert numbers == sorted(set(numbers))
        assert [s.get("phase") or s.get("step") for s in bench.wire.said][:2] == ["first", "prepared"]


async def test_nothing_is_said_after_the_end() -> None:
    kept: list[Reporter] = []

    def run(reporter: Reporter) -> dict[str, Any]:
        kept.append(reporter)
        return {}

    async with Bench(run) as bench:
        bench.start()
        await bench.wire.until("complete")
        kept[0].progress(50, step="a thread that outlived its task")
        bench.start("t2")
        async with asyncio.timeout(30), bench.wire.news:
            await bench.wire.news.wait_for(lambda: bench.wire.said[-1]["task_id"] == "t2")
        assert [(s["task_id"], s["state"]) for s in bench.wire.said] == [
            ("t1", "complete"),
            ("t2", "complete"),
        ]


async def test_many_threads_report_at_once() -> None:
    def run(reporter: Reporter) -> dict[str, Any]:
        def report(first: int) -> None:
            for number in range(200):
                reporter.progress(first + number / 10, step="write", n=number)
                if number % 50 == 0:
                    reporter.checkpoint(f"{first}.{number}")
                reporter.log("info", "n", number=number)

        threads = [threading.Thread(target=report, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return {}

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        async with Bench(run) as bench:
            bench.start()
            await bench.wire.until("complete")
    finally:
        sys.setswitchinterval(interval)
    numbers = [status["seq"] for status in bench.wire.said]
    percents = [status["percent"] for status in bench.wire.said]
    assert numbers == sorted(set(numbers))
    assert percents == sorted(percents)
    assert sum("phase" in status for status in bench.wire.said) == 32
    assert bench.wire.said[-1]["state"] == "complete"


async def test_a_checkpoint_does_not_wait_for_the_interval() -> None:
    def run(reporter: Reporter) -> dict[str, Any]:
        reporter.progress(1)
        for number in range(3):
            reporter.checkpoint(f"{number}")
        return {}

    wire, bench = Wire(), Bench(run)
    runner = TaskRunner(
        TaskContext(boot_id="b"), bench.spool, bench.load, bench.announce, progress_interval=3600.0
    )
    pump = asyncio.create_task(runner.pump(wire))  # type: ignore[arg-type]
    runner.start("work", {"task_id": "t1"})
    await wire.until("complete")
    pump.cancel()
    await asyncio.gather(pump, return_exceptions=True)


async def test_a_checkpoint_that_cannot_be_sent_fails_its_task() -> None:
    ended = await end_of(lambda reporter: dict(reporter.checkpoint("prepared", x=2**60)))
    assert (ended["state"], ended["code"]) == ("error", "internal")
    assert "prepared cannot be reported" in ended["msg"]


# --- what the endpoint answers


async def test_refused_progress_is_dropped() -> None:
    class Refuses(Wire):
        async def answer(self, params: dict[str, Any]) -> dict[str, Any]:
            if params["state"] == "running" and "phase" not in params:
                raise RemoteError(Problem(code="internal", msg="no"))
            return {}

    def run(reporter: Reporter) -> dict[str, Any]:
        for number in range(5):
            reporter.progress(number)
            reporter.checkpoint("c")
        return {}

    async with Bench(run, Refuses()) as bench:
        bench.start()
        await bench.wire.until("complete")


@pytest.mark.parametrize("code", ["connection_lost", "timeout", "stale_epoch", "draining"])
async def test_a_lost_connection_ends_the_pump_and_loses_nothing(code: str) -> None:
    class Lost(Wire):
        async def answer(self, params: dict[str, Any]) -> dict[str, Any]:
            raise RemoteError(Problem(code=code, msg="gone"))

    go = threading.Event()

    def run(reporter: Reporter) -> dict[str, Any]:
        reporter.progress(30, step="write")
        assert go.wait(30)
        return {"proof": 1}

    async with Bench(run, Lost()) as bench:
        bench.start()
        await asyncio.wait_for(bench.pump, 30)
        bench.wire = Wire()
        async with bench:  # the next connection hears at once how far it is
            assert (await bench.wire.until("running"))["percent"] == 30
        go.set()
        bench.wire = Lost()
        async with bench:
            await asyncio.wait_for(bench.pump, 30)
        assert [task["state"] for task in bench.runner.summary()] == ["complete"]
        first = bench.wire.said[-1]
        bench.wire = Wire()
        async with bench:
            assert await bench.wire.until("complete") == first
        assert bench.runner.summary() == []


# --- starting


async def test_params_are_compared_by_value() -> None:
    bench = Bench(lambda _: {})
    bench.start(a=1, b={"c": [1]})
    assert bench.start(b={"c": [1]}, a=1)["task_id"] == "t1"
    with pytest.raises(ProblemError, match="exists with other params"):
        bench.start(a=1, b={"c": [2]})


async def test_too_many_ends_that_nobody_takes() -> None:
    done = threading.Semaphore(0)

    def announce(line: str) -> None:
        if "complete" in line:
            done.release()

    bench = Bench(lambda _: {})
    bench.runner._announce = announce
    for number in range(64):
        bench.start(f"t{number}")
        assert await asyncio.to_thread(done.acquire, timeout=30)
    with pytest.raises(ProblemError, match="64 tasks wait"):
        bench.start("one-more")
    async with bench:
        async with asyncio.timeout(30), bench.wire.news:
            await bench.wire.news.wait_for(lambda: len(bench.wire.said) == 64)
        assert bench.start("one-more")["state"] == "running"


async def test_a_thread_that_cannot_be_started_leaves_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_threads(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    bench = Bench(lambda _: {})
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_threads)
        with pytest.raises(RuntimeError):
            bench.start()
    assert bench.start()["state"] == "running"


async def test_the_running_task_is_listed_first() -> None:
    go, entered, done = threading.Event(), threading.Event(), threading.Semaphore(0)
    bench = Bench(lambda _: {})
    bench.runner._announce = lambda line: done.release() if "complete" in line else None
    for number in range(3):
        bench.start(f"t{number}")
        assert await asyncio.to_thread(done.acquire, timeout=30)

    def blocked(reporter: Reporter) -> dict[str, Any]:
        entered.set()
        assert go.wait(30)
        return {}

    bench.run = blocked
    bench.start("t9")
    assert await asyncio.to_thread(entered.wait, 30)
    assert [task["task_id"] for task in bench.runner.summary()] == ["t9", "t0", "t1", "t2"]
    go.set()
