"""The endpoint's SQLite database: opened once, one transaction at a time, durable when it says so."""

from __future__ import annotations

import asyncio
import concurrent.futures
import fcntl
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa

from teeth.endpoint import migrate
from teeth.errors import TeethError

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """An engine and the one thread that uses it for the endpoint.

    One thread, so that the loop never waits for a disk and transactions keep the order in which they were
    asked for. A second endpoint on the same folder is refused.
    """

    def __init__(self, folder: Path) -> None:
        """Opens ``folder/endpoint.sqlite`` (0600). Raises TeethError when it is in use or unreadable."""
        self._lock = _lock(folder)
        path = folder / "endpoint.sqlite"
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            _prepare(path)
            self.engine = _engine(path)
        except BaseException:
            os.close(self._lock)
            raise
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="teeth-store")

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` in the database's thread."""
        job = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)

    def close(self) -> None:
        """Finish what was asked for, fold the log into the file, let go of the folder."""
        self._thread.shutdown()
        with self.engine.connect() as connection:
            # Wiped secrets must not live on in the write-ahead log.
            connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.engine.dispose()
        os.close(self._lock)


def _lock(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise TeethError(f"the data folder {folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise TeethError(f"the data folder {folder} is in use by another endpoint") from error
    return descriptor


def _engine(path: Path, *, references: bool = True) -> sa.Engine:
    # The path goes in as it is: in a URL, "?" and "%" in a folder's name would mean something.
    # Parameters are hidden: a failing statement is logged, and what it was given may be a secret.
    engine = sa.create_engine(sa.URL.create("sqlite+pysqlite", database=str(path)), hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # what was acknowledged survives a power cut
            f"foreign_keys={'ON' if references else 'OFF'}",
            "secure_delete=ON",  # secrets are wiped, not just unlinked
            "busy_timeout=10000",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # Immediate: a read that later writes would otherwise fail when another thread wrote in between.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _prepare(path: Path) -> None:
    """Make or upgrade the tables. On any failure the file holds what it held before."""
    # A table that others refer to can only be copied and replaced while references are not enforced, and
    # that cannot be switched inside a transaction: hence an engine of its own.
    engine = _engine(path, references=False)
    try:
        with engine.begin() as connection:
            migrate.upgrade(connection, str(path))
    except sa.exc.DBAPIError as error:
        raise TeethError(f"the store {path} cannot be opened: {error.orig}") from error
    finally:
        engine.dispose()
