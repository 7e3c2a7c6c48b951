"""What commands and keepers say to each other, and how a process is known when its number is not enough."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from teeth.errors import TeethError, UsageError
from teeth.lab.keep import processes
from teeth.lab.keep.control import GoneError, ask, served
from teeth.lab.keep.dial import read_leases
from teeth.lab.keep.handle import MachineHandle, StepError
from teeth.lab.keep.processes import ProcessId, identify, lives
from teeth.lab.keep.state import CONTROL, STATE, Kept, LabFolder, read, write

# --- processes


@pytest.fixture
def sleeper() -> Any:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_process_is_known_until_it_ends(sleeper: subprocess.Popen[bytes]) -> None:
    known = identify(sleeper.pid)
    assert known is not None
    assert processes.from_json(json.loads(json.dumps(known.to_json()))) == known
    assert lives(known)
    assert processes.end(known, within=30)
    assert not lives(known)
    assert not processes.end(known, within=30)


@pytest.mark.parametrize("change", [{"start": 1}, {"boot": "another"}])
def test_another_process_of_the_same_number_is_left_alone(
    sleeper: subprocess.Popen[bytes], change: dict[str, Any]
) -> None:
    known = identify(sleeper.pid)
    assert known is not None
    other = dataclasses.replace(known, **change)
    assert not lives(other)
    assert not processes.end(other, within=30)
    assert sleeper.poll() is None


@pytest.mark.parametrize("value", [None, 3, {}, {"pid": "1"}, {"pid": 1}])
def test_what_is_no_identity(value: object) -> None:
    assert processes.from_json(value) is None


# --- control


async def shout(request: Mapping[str, Any]) -> Mapping[str, Any]:
    match request:
        case {"do": "shout", "text": str(text)}:
            return {"text": text.upper()}
        case {"do": "refuse"}:
            raise TeethError("no", hint="ask later")
        case _:
            await asyncio.Event().wait()
            raise AssertionError


async def test_questions_are_answered_and_refusals_raised(tmp_path: Path) -> None:
    path = tmp_path / "control"
    async with served(path, shout):
        assert path.stat().st_mode & 0o777 == 0o600
        said = await asyncio.to_thread(ask, path, {"do": "shout", "text": "é"}, within=10)
        assert said == {"text": "É"}
        with pytest.raises(TeethError, match=r"^no \(ask later\)$"):
            await asyncio.to_thread(ask, path, {"do": "refuse"}, within=10)


async def test_who_asks_waits_no_longer_than_he_wants(tmp_path: Path) -> None:
    async with served(tmp_path / "control", shout):
        with pytest.raises(GoneError, match=r"did not answer within 0.2 s"):
            await asyncio.to_thread(ask, tmp_path / "control", {"do": "wait"}, within=0.2)


async def test_a_question_is_given_up_when_its_asker_has_gone(tmp_path: Path) -> None:
    cancelled = asyncio.Event()

    async def wait(request: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with served(tmp_path / "control", wait):
        with pytest.raises(GoneError):
            await asyncio.to_thread(ask, tmp_path / "control", {}, within=0.2)
        async with asyncio.timeout(10):
            await cancelled.wait()


def test_nobody_answers(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(GoneError, match="nobody answers at"):
            ask(folder / "control", {}, within=1)


async def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    async with served(folder / "control", shout):
        said = await asyncio.to_thread(ask, folder / "control", {"do": "shout", "text": "a"}, within=10)
        assert said == {"text": "A"}


@pytest.mark.parametrize("line", [b"", b"\n", b"[]\n", b"{\n", b"\xff\n", b"3\n"])
async def test_nonsense_harms_nobody(tmp_path: Path, line: bytes) -> None:
    async with served(tmp_path / "control", shout), asyncio.timeout(10):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control"))
        writer.write(line)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        assert answer == b"" or json.loads(answer)["ok"] is False
        said = await asyncio.to_thread(ask, tmp_path / "control", {"do": "shout", "text": "a"}, within=10)
        assert said == {"text": "A"}


# --- state


def kept(root: Path, kind: str, name: str, keeper: ProcessId | None = None) -> Kept:
    """A state file as a keeper writes it; of this process unless another is named."""
    folder = LabFolder(root=root).folder(kind, name)
    folder.mkdir(parents=True)
    me = keeper or identify(os.getpid())
    assert me is not None
    facts = {
        "kind": kind,
        "name": name,
        "keeper": me.to_json(),
        "ssh": None,
        "console": f"{folder}/console.log",
    }
    write(folder, STATE, {**facts, "networks": []})
    found = read(folder)
    assert found is not None
    return found


def test_what_is_up_is_found_by_name_and_the_rest_is_said(tmp_path: Path) -> None:
    lab = LabFolder(root=tmp_path)
    with pytest.raises(UsageError, match=r"^there is no machine web \(no machine is up\)$"):
        lab.find("machine", "web")
    for kind, name in (("network", "web"), ("machine", "b"), ("machine", "a")):
        kept(tmp_path, kind, name)
    assert [(one.kind, one.name) for one in lab.kept()] == [
        ("machine", "a"),
        ("machine", "b"),
        ("network", "web"),
    ]
    with pytest.raises(UsageError, match=r"^there is no machine web \(there are: a, b\)$"):
        lab.find("machine", "web")
    assert lab.find("network", "web").alive


@pytest.mark.parametrize("name", ["../a", "", ".", "a/b", "a" * 80])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    kept(tmp_path / "inner", "machine", "x")
    (tmp_path / STATE).write_text((tmp_path / "inner" / "x" / STATE).read_text())
    with pytest.raises(UsageError, match="there is no machine"):
        LabFolder(root=tmp_path / "inner").find("machine", name)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keeper": 3}', "\xff"])
def test_a_state_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE).write_text(text)
    assert read(tmp_path) is None


def test_a_state_is_for_its_owner_alone(tmp_path: Path) -> None:
    write(tmp_path, STATE, {"a": 1})
    assert (tmp_path / STATE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def test_a_dead_keeper_is_said_to_be_dead(tmp_path: Path) -> None:
    me = identify(os.getpid())
    assert me is not None
    one = kept(tmp_path, "machine", "a", dataclasses.replace(me, start=1))
    with pytest.raises(TeethError, match=r"machine a is dead: its keeper has been killed \(teeth lab down a"):
        one.ask({"do": "status"})


# --- the handle


class Script:
    """A keeper that answers by a script, in a thread with a loop of its own."""

    def __init__(self, path: Path, answers: list[dict[str, Any] | TeethError]) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self._answers = answers
        self._path = path
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    async def _answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, TeethError):
            raise answer
        return answer

    async def _serve(self) -> None:
        async with served(self._path, self._answer):
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Script:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()


def test_each_wait_goes_on_behind_the_last(tmp_path: Path) -> None:
    one = kept(tmp_path, "machine", "a")
    lines: list[dict[str, Any] | TeethError] = [
        {"number": 7, "at": 1.0, "text": "first", "life": 1},
        {"number": 3, "at": 1.0, "text": "second", "life": 2},
        TeethError("it did not come"),
    ]
    with Script(one.folder / CONTROL, lines) as script:
        handle = MachineHandle(kept=one)
        assert handle.wait_for("a") == "first"
        assert handle.wait_for("b", within=5) == "second"
        with pytest.raises(StepError, match=r"^a: it did not come \(its console: .*/a/console.log\)$"):
            handle.wait_for("c")
    assert [(request["since"], request["life"]) for request in script.asked] == [(0, 0), (8, 1), (4, 2)]


def test_a_function_is_waited_for(tmp_path: Path) -> None:
    handle = MachineHandle(kept=kept(tmp_path, "machine", "a"))
    found = iter([0, "", "there"])
    assert handle.wait_for(lambda: next(found), within=30) == "there"

    def it_rains() -> bool:
        return False

    with pytest.raises(StepError, match="a: it_rains did not become true within 0 s"):
        handle.wait_for(it_rains, within=0)


def test_a_machine_without_ssh_says_so(tmp_path: Path) -> None:
    with pytest.raises(TeethError, match="machine a has no ssh"):
        MachineHandle(kept=kept(tmp_path, "machine", "a")).succeed("true")


# --- leases


def test_the_newest_lease_of_each_card_counts(tmp_path: Path) -> None:
    path = tmp_path / "leases"
    assert read_leases(path) == {}
    path.write_text(
        "1700000000 52:54:00:AA:00:01 10.0.0.5 * 01:52\n"
        "1700000100 52:54:00:aa:00:01 10.0.0.6 host *\n"
        "duid 00:01:00\n"
        "1700000000 123456 fd00::5 * 00:01\n"
    )
    assert read_leases(path) == {"52:54:00:aa:00:01": "10.0.0.6"}
