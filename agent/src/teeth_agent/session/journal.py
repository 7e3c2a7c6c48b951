"""What the agent has promised, kept over a restart of its process: tasks accepted, ended, acknowledged.

It lives as long as the boot (a file in memory): another boot's tasks are nobody's to answer for.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from teeth_agent.errors import AgentError

Record = Mapping[str, Any]

# An end is at most 256 KiB and 64 tasks are remembered; far below that the file is not worth rewriting.
_COMPACT_AT = 1 << 20


class JournalError(AgentError):
    """What was to be kept is not kept, or what was kept cannot be read."""

    code = "journal_failed"


class Journal(Protocol):
    """``append`` may be called from any thread."""

    def load(self) -> list[Record]:
        """Everything that was appended in this boot, in order. Raises JournalError."""
        ...

    def append(self, record: Record) -> None:
        """Keep a record: when this returns it survives the process. Raises JournalError: nothing is kept."""
        ...


class MemoryJournal:
    """Keeps nothing beyond the process: for a machine without a place to keep it, and for tests."""

    def __init__(self) -> None:
        self._records: list[Record] = []

    def load(self) -> list[Record]:
        return list(self._records)

    def append(self, record: Record) -> None:
        self._records.append(record)


@dataclass(slots=True, kw_only=True)
class Remembered:
    """One task as the journal tells it. ``end`` is its last status as it is said, kept until acknowledged.

    ``below``: every status said so far has a smaller number.
    """

    task_id: str
    method: str
    params_digest: str
    below: int
    end: dict[str, Any] | None = None
    state: str = "running"
    percent: float = 0.0
    acknowledged: bool = False

    def records(self) -> Iterable[Record]:
        """The shortest journal that tells the same."""
        yield accepted(self.task_id, self.method, self.params_digest, below=self.below)
        if self.state != "running":
            yield ended(self.task_id, self.end, state=self.state, percent=self.percent)
        if self.acknowledged:
            yield acknowledged(self.task_id)


def accepted(task_id: str, method: str, params_digest: str, *, below: int) -> Record:
    """A task was taken; the command is about to be answered so."""
    return {"kind": "accepted", "task_id": task_id, "method": method, "digest": params_digest, "below": below}


def numbered(task_id: str, below: int) -> Record:
    """Statuses up to this number are about to be said."""
    return {"kind": "numbered", "task_id": task_id, "below": below}


def ended(task_id: str, status: Mapping[str, Any] | None, *, state: str, percent: float) -> Record:
    """A task is over; ``status`` is about to be said."""
    kept = None if status is None else dict(status)
    return {"kind": "ended", "task_id": task_id, "state": state, "percent": percent, "status": kept}


def acknowledged(task_id: str) -> Record:
    """The endpoint has a task's end."""
    return {"kind": "acknowledged", "task_id": task_id}


def forgotten(task_id: str) -> Record:
    """A task is not remembered any more."""
    return {"kind": "forgotten", "task_id": task_id}


def replay(records: Iterable[Record]) -> dict[str, Remembered]:
    """Every task that is remembered, in the order of acceptance. Raises JournalError for nonsense."""
    tasks: dict[str, Remembered] = {}
    try:
        for record in records:
            _apply(tasks, record)
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(f"the task journal makes no sense: {type(error).__name__}: {error}") from None
    return tasks


def _apply(tasks: dict[str, Remembered], record: Record) -> None:
    task_id = record["task_id"]
    match record["kind"]:
        case "accepted":
            tasks[task_id] = Remembered(
                task_id=task_id, method=record["method"], params_digest=record["digest"],
                below=int(record["below"]),
            )  # fmt: skip
        case "numbered":
            tasks[task_id].below = int(record["below"])
        case "ended":
            task, status = tasks[task_id], record["status"]
            task.state, task.percent = record["state"], float(record["percent"])
            task.end = None if status is None else dict(status)
        case "acknowledged":
            tasks[task_id].acknowledged, tasks[task_id].end = True, None
        case "forgotten":
            tasks.pop(task_id, None)
        case other:
            raise ValueError(f"a record of the kind {other!r}")


@dataclass(slots=True)
class FileJournal:
    """JSON lines in one file, 0600, each flushed to the file system before it counts.

    A last line without its end was never answered for and is dropped. When the file has doubled it is
    written anew with what still matters, and takes the old one's place whole.
    """

    path: Path
    compact_at: int = _COMPACT_AT
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _next_compaction: int = 0

    def load(self) -> list[Record]:
        with self._guard:
            try:
                data = self.path.read_bytes()
            except FileNotFoundError:
                return []
            except OSError as error:
                raise JournalError(f"the task journal cannot be read: {error.strerror}") from error
            records, whole = _parse(data)
            if whole < len(data):
                self._cut(whole)
            return records

    def append(self, record: Record) -> None:
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._guard:
            try:
                size = _write(self.path, line, os.O_APPEND)
            except OSError as error:
                raise JournalError(f"the task journal cannot be written: {error.strerror}") from error
            if size > max(self.compact_at, self._next_compaction):
                with contextlib.suppress(OSError, JournalError):  # the long one tells the same
                    self._compact()

    def _compact(self) -> None:
        records, _ = _parse(self.path.read_bytes())
        kept = [record for task in replay(records).values() for record in task.records()]
        lines = b"".join(
            json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for one in kept
        )
        fresh = self.path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        self._next_compaction = 2 * _write(fresh, lines, os.O_EXCL)
        fresh.replace(self.path)
        _sync(self.path.parent)

    def _cut(self, size: int) -> None:
        try:
            os.truncate(self.path, size)
        except OSError as error:
            raise JournalError(f"the task journal cannot be mended: {error.strerror}") from error


def _write(path: Path, data: bytes, flags: int) -> int:
    """Write all of ``data`` or, as far as that can be helped, nothing; returns the file's size."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
        return before + len(data)
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(data: bytes) -> tuple[list[Record], int]:
    """Records, and the length of the lines that are whole. Raises JournalError."""
    whole = data.rfind(b"\n") + 1
    try:
        records = [json.loads(line) for line in data[:whole].splitlines()]
    except ValueError:
        raise JournalError("the task journal is damaged: a line of it is not JSON") from None
    if not all(isinstance(record, dict) for record in records):
        raise JournalError("the task journal is damaged: a line of it is no record")
    return records, whole
