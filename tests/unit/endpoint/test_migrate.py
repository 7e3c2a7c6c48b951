"""A store of an earlier version is brought up to date in place, or left as it was."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import dialects

import teeth.endpoint.migrations
from teeth.boot import grants
from teeth.endpoint import migrate
from teeth.endpoint.database import Database
from teeth.endpoint.machines import MachineStore
from teeth.endpoint.nodestore import NodeStore
from teeth.endpoint.schema import metadata
from teeth.endpoint.stores import SqlStores
from teeth.endpoint.taskstate import TaskState
from teeth.errors import TeethError

FIRST = (Path(__file__).parents[2] / "fixtures" / "store" / "v1.sql").read_text(encoding="utf-8")
SCRIPTS = Path(teeth.endpoint.migrations.__path__[0])


def make_first(folder: Path) -> Path:
    """A store of schema version 1, with data."""
    folder.mkdir()
    path = folder / "endpoint.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(FIRST)
    connection.close()
    return path


def dump(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        told = [*connection.iterdump(), str(connection.execute("PRAGMA user_version").fetchone())]
    connection.close()
    return told


def differences(engine: sa.Engine) -> list[Any]:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, [metadata, grants.metadata])  # type: ignore[arg-type]


def test_a_new_store_is_what_the_code_expects(tmp_path: Path) -> None:
    db = Database(tmp_path)
    assert differences(db.engine) == []
    db.close()


def test_a_first_store_is_upgraded_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = make_first(tmp_path / "data")
    db = Database(tmp_path / "data")
    assert differences(db.engine) == []
    stores = SqlStores(db)
    node = stores.nodes.node("n1")
    assert node is not None
    assert (node.epoch, node.boot_id, node.inventory) == (7, "b1", {"disks": [{"serial": "S1"}]})
    open_task, over = stores.tasks.get("t-open"), stores.tasks.get("t-over")
    assert open_task is not None
    assert over is not None
    assert (open_task.state, open_task.percent, open_task.awaits_landing) == (TaskState.RUNNING, 40.0, True)
    assert (over.state, over.result) == (TaskState.COMPLETE, {"erased": ["S1"]})
    assert stores.nodes.logs("n1") == [{"event": "hello"}]
    book = grants.GrantBook(db.engine, clock=lambda: 1500.0)
    found = book.lookup("52:54:00:00:00:01")
    assert found is not None
    assert found.token == "a-token-still-open"
    assert [record.state for record in book.listing()] == ["open", "burnt"]
    with db.engine.begin() as connection:
        owner = MachineStore().load(connection, "n1")
        assert owner is not None
        assert (owner.boot_id, owner.machine.macs) == ("b1", frozenset({"52:54:00:00:00:01"}))
        assert MachineStore().load(connection, "n2") is None  # it never showed an interface
    db.close()
    assert dump(path)[-1] == "(2,)"
    again = Database(tmp_path / "data")  # nothing left to do
    assert NodeStore(again.engine).node("n1") is not None
    again.close()


def test_a_first_store_without_grants_is_upgraded_too(tmp_path: Path) -> None:
    """The grants' table was made by the boot server, not with the others."""
    path = make_first(tmp_path / "data")
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE boot_grants")
    connection.close()
    db = Database(tmp_path / "data")
    assert differences(db.engine) == []
    db.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE alembic_version SET version_num = '9999'", "revision 9999"),
        ("PRAGMA user_version = 3", "revision"),
        ("DROP TABLE alembic_version", "schema 2"),
    ],
)
def test_a_newer_store_is_refused_in_one_line_and_not_touched(tmp_path: Path, change: str, said: str) -> None:
    Database(tmp_path).close()
    path = tmp_path / "endpoint.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()
    before = dump(path)
    with pytest.raises(TeethError, match="was written by another version of teeth") as caught:
        Database(tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert dump(path) == before


@pytest.mark.parametrize(
    "broken",
    [
        'op.create_table("half", sa.Column("id", sa.Integer()))\n    raise sa.exc.InvalidRequestError("no")',
        'op.execute("INSERT INTO nowhere VALUES (1)")',
        'op.execute("DELETE FROM nodes")',  # sessions refer to them
        "raise RuntimeError('a slip of the script')",
    ],
)
def test_a_failed_upgrade_leaves_the_store_as_it_was(tmp_path: Path, broken: str) -> None:
    scripts = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, scripts)
    head = _head(scripts)
    (scripts / "versions" / "r9000_broken.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f'revision = "9000"\ndown_revision = "{head}"\n\ndef upgrade():\n    {broken}\n'
    )
    path = make_first(tmp_path / "data")
    before = dump(path)
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))

    @sa.event.listens_for(engine, "connect")
    def explicit(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with pytest.raises(TeethError, match="left as it was") as caught, engine.begin() as connection:
        migrate.upgrade(connection, str(path), scripts=str(scripts))
    engine.dispose()
    assert "\n" not in str(caught.value)
    assert dump(path) == before
    Database(tmp_path / "data").close()  # and the real upgrade still goes through
    assert dump(path) != before


def test_the_scripts_know_no_database_by_name() -> None:
    names = [name for name in dialects.__all__ if name != "mypy"]
    for script in (SCRIPTS / "versions").glob("r*.py"):
        text = script.read_text(encoding="utf-8").lower()
        assert not [word for word in (*names, "pragma", "sqlite_") if word in text], script.name


def _head(scripts: Path) -> str:
    return sorted(path.name[1:5] for path in (scripts / "versions").glob("r[0-9]*.py"))[-1]
