"""The simulated disk keeps to the same rules as the real one: one script, both stores, equal answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.disk import Disk, MemoryNodes, MemoryTokens, Token
from teeth.boot.grants import Claim as GrantClaim
from teeth.boot.grants import GrantBook, GrantRefused
from teeth.endpoint import taskstate
from teeth.endpoint.database import Database
from teeth.endpoint.enrol import Claim
from teeth.endpoint.nodestore import NodeStore
from teeth.endpoint.taskrows import sql_rows
from teeth.endpoint.taskstate import parse_status
from teeth.endpoint.taskstore import TaskStore
from teeth.errors import TeethError
from teeth_protocol.errors import ProblemError

MAC = "52:54:00:00:00:01"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def real(tmp_path: Path) -> Iterator[tuple[TaskStore, Any]]:
    db = Database(tmp_path / "data")
    clock = Clock()
    yield TaskStore(sql_rows(db.engine), clock=clock), NodeStore(db.engine, clock=clock)
    db.close()


@pytest.fixture
def simulated() -> tuple[TaskStore, Any]:
    disk, clock = Disk(), Clock()
    return TaskStore(disk.begin, clock=clock), MemoryNodes(disk, clock)


def plain(value: Any) -> Any:
    """A stored thing as values that can be compared."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(item) for name, item in dataclasses.asdict(value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def told(do: Callable[[], Any]) -> Any:
    try:
        return plain(do())
    except (TeethError, ProblemError) as error:
        return f"{type(error).__name__}: {error}"


def script(tasks: TaskStore, nodes: Any) -> Iterator[Any]:
    """A node's story, step by step, with what is answered."""

    def create(task_id: str, method: str = "decom.disk_erase", **more: Any) -> Any:
        params = {"allow": ["S1"], "config_drive": {"user_data": "secret"}}
        return told(lambda: tasks.create(task_id, "n1", method, asked=params, sent=params, **more))

    def say(epoch: int, **status: Any) -> Any:
        return told(lambda: tasks.report("n1", epoch, parse_status(status)))

    yield told(lambda: nodes.open_session("n1", macs=(MAC,), boot_id="b1", agent="1", peer="p"))
    yield create("t1")
    yield create("t1")
    yield told(lambda: tasks.create("t1", "n1", "decom.qc", asked={}, sent={}))
    yield told(lambda: tasks.waiting("n1"))
    yield told(lambda: tasks.sending("t1", "b1", 0))
    yield told(lambda: tasks.sending("t1", "b1", 1))
    yield told(lambda: tasks.get("t1"))
    yield told(lambda: tasks.change("t1", taskstate.accepted, epoch=0))
    yield told(lambda: tasks.change("t1", taskstate.accepted, epoch=1))
    yield say(1, task_id="t1", seq=1, state="running", percent=10, step="overwrite", fields={"n": 1})
    yield say(0, task_id="t1", seq=2, state="running", percent=20)
    yield say(1, task_id="other", seq=2, state="running", percent=20)
    yield told(lambda: nodes.close_session(1, "gone"))
    yield told(lambda: nodes.silent_since(5.0))
    yield told(lambda: nodes.silent_since(1e9))
    yield told(lambda: tasks.change_open("n1", taskstate.silent))
    yield create("t2")  # the node is held
    yield told(lambda: nodes.open_session("n1", macs=(MAC,), boot_id="b1", agent="1", peer="p"))
    yield told(lambda: nodes.silent_since(1e9))
    yield told(lambda: tasks.resume("n1", boot_id="b1", listed=frozenset({"t1"})))
    yield say(2, task_id="t1", seq=3, state="complete", percent=100, result={"units": []})
    yield say(2, task_id="t1", seq=3, state="complete", percent=100, result={"units": []})
    yield say(2, task_id="t1", seq=4, state="error", msg="no")
    yield told(lambda: tasks.sending("t1", "b1", 2))
    yield create("t3", "standbye.run_image", landing_hash="h", held=True)
    yield told(lambda: tasks.change("t3", taskstate.released))
    yield told(lambda: tasks.change("nothing", taskstate.released))
    yield say(2, task_id="t3", seq=1, state="running", phase="leaving", fields={"boot": "kexec"})
    yield told(lambda: tasks.land("other", "d", {}))
    yield told(lambda: tasks.land("h", "d", {"hostname": "web"}))
    yield told(lambda: tasks.land("h", "d", {"hostname": "web"}))
    yield told(lambda: tasks.land("h", "e", {"hostname": "web"}))
    yield told(lambda: nodes.set_inventory("n1", 1, {"disks": [], "token": "secret"}))
    yield told(lambda: nodes.set_inventory("n1", 2, {"disks": [], "token": "secret"}))
    yield told(lambda: nodes.node("n1"))
    yield told(lambda: nodes.close_stale_sessions())
    yield told(lambda: nodes.silent_since(1e9))
    yield told(lambda: tasks.listing("n1"))
    yield told(lambda: tasks.listing("n2"))


def test_both_stores_tell_the_same_story(
    real: tuple[TaskStore, Any], simulated: tuple[TaskStore, Any]
) -> None:
    for number, (ours, theirs) in enumerate(zip(script(*simulated), script(*real), strict=True)):
        assert ours == theirs, f"step {number}"


def test_a_transaction_that_fails_keeps_nothing() -> None:
    disk = Disk()

    def fail() -> None:
        with disk.begin() as rows:
            rows.put(disk.tokens, "t", Token(mac=MAC, expires=1.0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert disk.tokens == {}


@pytest.mark.parametrize(
    ("changes", "age"),
    [
        ({}, 0.0),
        ({"spki": "another key"}, 0.0),
        ({"boot_id": "another boot"}, 0.0),
        ({"macs": ("52:54:00:00:00:66",)}, 0.0),
        ({"token": "never given out"}, 0.0),
        ({}, 2000.0),
    ],
)
@pytest.mark.parametrize("spent", [False, True])
def test_both_grant_books_spend_a_token_alike(
    tmp_path: Path, changes: dict[str, Any], age: float, spent: bool
) -> None:
    now = [1000.0]
    db, disk = Database(tmp_path), Disk()
    try:
        book, tokens = GrantBook(db.engine, clock=lambda: now[0]), MemoryTokens(lambda: now[0])
        grant = book.create(MAC)
        disk.tokens[grant.token] = Token(mac=MAC, expires=grant.expires)
        first = Claim(
            node_id="n1", boot_id="b1", macs=(MAC,), uuid=None, token=grant.token, csr="", spki="key"
        )

        def burn(claim: Claim) -> list[Any]:
            shown = GrantClaim(
                node_id=claim.node_id, boot_id=claim.boot_id, spki=claim.spki,
                macs=frozenset(claim.macs), uuid=claim.uuid,
            )  # fmt: skip
            answers: list[Any] = []
            try:
                with db.engine.begin() as connection:
                    answers.append(book.burn(connection, claim.token, shown))
            except GrantRefused as error:
                answers.append(error.code)
            try:
                with disk.begin() as rows:
                    answers.append(tokens.burn(rows, claim.token, claim))
            except ProblemError as error:
                answers.append(error.problem.code)
            return answers

        if spent:
            assert burn(first) == [True, True]
        now[0] += age
        theirs, ours = burn(dataclasses.replace(first, **changes))
        assert ours == theirs
    finally:
        db.close()
