"""The endpoint's durable state, and stores on it: a transaction is kept whole or not at all.

What the rules are is the product's own: TaskStore, Registrar and their pure functions run on these rows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, ParamSpec, TypeVar

from sim.loop import Process, SimLoop
from teeth.endpoint.enrol import Claim, Registrar
from teeth.endpoint.machines import Machine, Owner
from teeth.endpoint.nodestore import Node, Opened
from teeth.endpoint.secrets import redact
from teeth.endpoint.taskrows import Landing, TaskRows
from teeth.endpoint.taskstate import Task
from teeth.endpoint.taskstore import TaskStore
from teeth_protocol.errors import ProblemError

P = ParamSpec("P")
T = TypeVar("T")
_GONE: Any = object()


@dataclass(frozen=True)
class OpenSession:
    node_id: str
    epoch: int
    closed: bool = False


@dataclass(frozen=True)
class Token:
    mac: str
    expires: float
    boot_id: str | None = None
    spki: str | None = None


@dataclass
class Disk:
    """Tables by key. ``watch`` is told of every task row that is about to be written: (old, new)."""

    tasks: dict[str, Task] = field(default_factory=dict)
    params: dict[str, dict[str, Any]] = field(default_factory=dict)
    landings: dict[str, Landing] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    sessions: dict[int, OpenSession] = field(default_factory=dict)
    owners: dict[str, Owner] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    logs: dict[str, int] = field(default_factory=dict)
    watch: Callable[[Task | None, Task], None] = lambda old, new: None

    @contextlib.contextmanager
    def begin(self) -> Iterator[Transaction]:
        transaction = Transaction(self)
        yield transaction
        transaction.commit()


class Transaction:
    """Also the TaskRows of the product's TaskStore."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self._writes: list[tuple[dict[Any, Any], Any, Any]] = []

    def put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._writes.append((table, key, value))

    def commit(self) -> None:
        for table, key, value in self._writes:
            if value is _GONE:
                table.pop(key, None)
                continue
            if table is self.disk.tasks:
                self.disk.watch(table.get(key), value)
            table[key] = value

    # --- TaskRows

    def load(self, task_id: str) -> Task | None:
        return self.disk.tasks.get(task_id)

    def listing(self, node_id: str | None, *, open_only: bool = False) -> list[Task]:
        found = [
            task
            for task in self.disk.tasks.values()
            if node_id in (None, task.node_id) and not (open_only and task.state.over)
        ]
        return sorted(found, key=lambda task: task.created)

    def add(self, task: Task, params: Mapping[str, Any], landing_hash: str | None) -> None:
        self.put(self.disk.tasks, task.task_id, task)
        self.put(self.disk.params, task.task_id, dict(params))
        if landing_hash is not None:
            self.put(self.disk.landings, landing_hash, Landing(task_id=task.task_id, body_digest=None))

    def save(self, task: Task) -> None:
        self.put(self.disk.tasks, task.task_id, task)

    def params(self, task_id: str) -> dict[str, Any] | None:
        return self.disk.params.get(task_id)

    def replace_params(self, task_id: str, params: Mapping[str, Any]) -> None:
        self.put(self.disk.params, task_id, dict(params))

    def wipe(self, task_id: str) -> None:
        self.put(self.disk.params, task_id, _GONE)

    def record(self, task: Task, body: Mapping[str, Any], *, progress: bool) -> None:
        """The history is written and never read by what is simulated."""

    def events(self, task_id: str) -> list[dict[str, Any]]:
        return []

    def epoch(self, node_id: str) -> int | None:
        node = self.disk.nodes.get(node_id)
        return None if node is None else node.epoch

    def landing(self, token_hash: str) -> Landing | None:
        return self.disk.landings.get(token_hash)

    def spend_landing(self, token_hash: str, body_digest: str, facts: Mapping[str, Any], now: float) -> None:
        spent = replace(self.disk.landings[token_hash], body_digest=body_digest)
        self.put(self.disk.landings, token_hash, spent)


class MemoryNodes:
    """NodeStore on a Disk."""

    def __init__(self, disk: Disk, clock: Callable[[], float]) -> None:
        self._disk = disk
        self._clock = clock

    def open_session(
        self,
        node_id: str,
        *,
        macs: tuple[str, ...],
        boot_id: str,
        agent: str,
        peer: str,
        ramdisk: str | None = None,
    ) -> Opened:
        now = self._clock()
        with self._disk.begin() as rows:
            known = self._disk.nodes.get(node_id)
            epoch = 1 if known is None else known.epoch + 1
            node = Node(
                node_id=node_id, macs=macs, first_seen=now if known is None else known.first_seen,
                last_seen=now, epoch=epoch, boot_id=boot_id, agent=agent,
                inventory=None if known is None else known.inventory,
            )  # fmt: skip
            number = len(self._disk.sessions) + 1
            rows.put(self._disk.nodes, node_id, node)
            rows.put(self._disk.sessions, number, OpenSession(node_id, epoch))
        return Opened(session_id=number, epoch=epoch)

    def close_session(self, session_id: int, reason: str) -> None:
        with self._disk.begin() as rows:
            session = self._disk.sessions[session_id]
            rows.put(self._disk.sessions, session_id, replace(session, closed=True))
            node = self._disk.nodes[session.node_id]
            rows.put(self._disk.nodes, node.node_id, replace(node, last_seen=self._clock()))

    def close_stale_sessions(self) -> None:
        with self._disk.begin() as rows:
            for number, session in self._disk.sessions.items():
                rows.put(self._disk.sessions, number, replace(session, closed=True))

    def set_inventory(self, node_id: str, epoch: int, inventory: Mapping[str, Any]) -> bool:
        with self._disk.begin() as rows:
            node = self._disk.nodes.get(node_id)
            if node is None or node.epoch != epoch:
                return False
            rows.put(self._disk.nodes, node_id, replace(node, inventory=redact(inventory)))
        return True

    def node(self, node_id: str) -> Node | None:
        return self._disk.nodes.get(node_id)

    def listing(self) -> list[Node]:
        return list(self._disk.nodes.values())

    def silent_since(self, moment: float) -> list[str]:
        busy = {session.node_id for session in self._disk.sessions.values() if not session.closed}
        return [
            node.node_id
            for node in self._disk.nodes.values()
            if node.last_seen < moment and node.node_id not in busy
        ]

    def add_log(self, node_id: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
        kept: dict[str, Any] = redact(record)
        with self._disk.begin() as rows:
            rows.put(self._disk.logs, node_id, self._disk.logs.get(node_id, 0) + 1)
        return kept

    def logs(self, node_id: str) -> list[dict[str, Any]]:
        return []


class MemoryMachines:
    """MachineStore on a Disk; its connections are Transactions."""

    def load(self, rows: Transaction, node_id: str) -> Owner | None:
        return rows.disk.owners.get(node_id)

    def claim(self, rows: Transaction, node_id: str, machine: Machine, boot_id: str) -> None:
        rows.put(rows.disk.owners, node_id, Owner(machine=machine, boot_id=boot_id))

    def record_certificate(
        self, rows: Transaction, node_id: str, boot_id: str, *, spki: str, not_after: float
    ) -> None:
        """Kept for people; nothing is decided by it."""


class MemoryTokens:
    """The grant book, as far as enrolment asks it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def burn(self, rows: Any, token: str, claim: Claim) -> bool:
        known: Token | None = rows.disk.tokens.get(token)
        if known is None:
            raise ProblemError("token_unknown", "this join token was never given out")
        if known.mac not in claim.macs:
            raise ProblemError("token_other_node", "this join token was given to another machine")
        if known.boot_id is not None:
            if (known.boot_id, known.spki) != (claim.boot_id, claim.spki):
                raise ProblemError("token_burnt", "this join token was already used")
            return False
        if known.expires <= self._clock():
            raise ProblemError("token_expired", "this join token has expired")
        rows.put(rows.disk.tokens, token, replace(known, boot_id=claim.boot_id, spki=claim.spki))
        return True


def registrar(disk: Disk, signer: Any, clock: Callable[[], float]) -> Registrar:
    """The product's Registrar on a Disk."""
    made = Registrar(disk, MemoryTokens(clock), signer, clock=clock)  # type: ignore[arg-type]
    made._machines = MemoryMachines()  # type: ignore[assignment]
    return made


@dataclass
class DiskFaults:
    """``full_until``: nothing can be written. ``slow_until``: every transaction takes a second.

    ``kill_at``: (countdown of calls, before or after the commit, the kill).
    """

    full_until: float = 0.0
    slow_until: float = 0.0
    kill_at: tuple[int, bool, Callable[[], None]] | None = None


class MemoryStores:
    """The Stores of one incarnation: one call after the other, each at one instant some time later."""

    def __init__(
        self, disk: Disk, loop: SimLoop, process: Process, rng: Random, faults: DiskFaults,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.nodes = MemoryNodes(disk, clock)
        self.tasks = TaskStore(_begin(disk), clock=clock)
        self._loop = loop
        self._process = process
        self._rng = rng
        self._faults = faults
        self._queue: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.append((future, lambda: function(*args, **kwargs)))
        if len(self._queue) == 1:
            self._loop.call_later(self._pace(), self._work)
        return await future

    def _work(self) -> None:
        future, work = self._queue[0]
        if not future.cancelled():  # as an executor does not begin what nobody waits for any more
            self._run(future, work)
        if self._process.dead:
            return
        self._queue.popleft()
        if self._queue:
            self._loop.call_later(self._pace(), self._work)

    def _run(self, future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        kill = self._due_kill()
        if kill is not None and kill[0]:
            kill[1]()
            return
        try:
            if self._loop.time() < self._faults.full_until:
                raise OSError("no space left on device")
            result = work()
        except Exception as error:
            self._later(future.set_exception, future, error)
        else:
            self._later(future.set_result, future, result)
        if kill is not None:
            kill[1]()

    def _due_kill(self) -> tuple[bool, Callable[[], None]] | None:
        if self._faults.kill_at is None:
            return None
        left, before, kill = self._faults.kill_at
        if left > 0:
            self._faults.kill_at = (left - 1, before, kill)
            return None
        self._faults.kill_at = None
        return before, kill

    def _later(self, settle: Callable[[Any], None], future: asyncio.Future[Any], value: Any) -> None:
        self._loop.call_later(0.0002, lambda: None if future.done() else settle(value))

    def _pace(self) -> float:
        slow = self._loop.time() < self._faults.slow_until
        return 0.0005 + self._rng.random() * (2.0 if slow else 0.004)


def _begin(disk: Disk) -> Callable[[], contextlib.AbstractContextManager[TaskRows]]:
    return disk.begin
