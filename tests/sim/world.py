"""One run: a machine, an endpoint, an operator, a network, and what its schedule does to them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from sim.checks import Checks
from sim.disk import Token
from sim.endpoint import EndpointDown, EndpointHost
from sim.loop import Process, SimLoop
from sim.machine import MAC, NODE, RUN, Machine
from sim.net import Network, Stream
from sim.plants import HONEST, Plants
from sim.schedule import Fault, Schedule, Wanted, draw
from sim.strangers import Stranger
from teeth.endpoint.identity import PeerIdentity
from teeth.endpoint.taskstate import Task, TaskState
from teeth.errors import TeethError
from teeth_agent.session.taskrunner import Job
from teeth_protocol.errors import ProblemError
from teeth_protocol.limits import Limits

_QUIET = 900.0  # seconds after the last fault in which everything must come to its end
_MOST_STEPS = 400_000
# Refusals: with these a task has ended before it did anything.
_UNTOUCHED = frozenset(
    {"busy", "device_busy", "journal_failed", "unknown_method", "unsendable", "bad_params", "task_conflict"}
)


@dataclass
class Outcome:
    """What one run showed. ``violations``: (invariant, one line)."""

    seed: int
    violations: list[tuple[str, str]]
    lost: int
    doubled: int
    happened: Counter[str]
    messages: int
    steps: int
    seconds: float
    trace: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


@cache
def requests() -> tuple[str, ...]:
    """Certificate requests, each of its own key: what machines enrol with."""
    text = (Path(__file__).parent / "requests.pem").read_text(encoding="ascii")
    end = "-----END CERTIFICATE REQUEST-----\n"
    return tuple(part + end for part in text.split(end) if part)


class _Ear(logging.Handler):
    def __init__(self, heard: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        told = f": {type(error).__name__}: {error}" if error is not None else ""
        self._heard(f"{record.name}: {record.getMessage()}{told}")


@contextlib.contextmanager
def overheard(heard: Callable[[str], None]) -> Iterator[None]:
    """Errors that the product logs go to ``heard`` and nowhere else; lesser words are not even made."""
    loggers = [logging.getLogger(name) for name in ("teeth", "teeth_agent", "teeth_stream", "asyncio")]
    before = [(one.handlers, one.propagate, one.level) for one in loggers]
    for one in loggers:
        one.handlers, one.propagate = [_Ear(heard)], False
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, (handlers, propagate, level) in zip(loggers, before, strict=True):
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)


class World:
    def __init__(self, seed: int, *, plants: Plants = HONEST, tracing: bool = False) -> None:
        self.seed = seed
        self.plants = plants
        self.tracing = tracing
        self.plan: Schedule = draw(self._rng("plan"))
        self.pace, self.lifetime = self.plan.pace, self.plan.lifetime
        self.limits = Limits(ping_interval=self.plan.ping_interval, write_backlog=self.plan.backlog)
        self.loop = SimLoop()
        self.network = Network(self.loop, self._rng("network"), self.plan.latency, self._aborted)
        self.hostile_rng = self._rng("strangers")
        self.processes: list[Process] = []
        self.strangers: list[Process] = []
        self.checks = Checks(self)
        self.endpoint = EndpointHost(self, self._rng("endpoint"))
        self.endpoint.disk.watch = self.checks.kept
        *mine, self.stolen_request = requests()
        self.machine = Machine(self, self._rng("machine"), tuple(mine))
        self.asked: dict[str, Wanted] = {}
        self.counts: Counter[str] = Counter()
        self.lines: list[str] = []
        self.forgers: set[str] = set()
        self.hostile_sessions: set[int] = set()
        self._settled: list[str] = []

    def _rng(self, purpose: str) -> Random:
        return Random(f"{self.seed}:{purpose}")

    def _aborted(self, unsent: int) -> None:
        if unsent > self.limits.write_backlog:
            self.happened("backlog")

    # --- what the parts ask of the world

    def trace(self, kind: str, line: str) -> None:
        if self.tracing:
            self.lines.append(f"{self.loop.time():10.4f} {kind:9} {line}")

    def happened(self, kind: str) -> None:
        self.counts[kind] += 1
        self.trace("fault", kind)

    def later(self, delay: float, action: Callable[[], None]) -> None:
        self.loop.call_later(delay, action, context=self.loop.world)

    def grant(self, boot_id: str) -> str:
        """An operator's boot grant for the machine, brought to it by its kernel command line."""
        token = f"token-of-{boot_id}"
        self.endpoint.disk.tokens[token] = Token(mac=MAC, expires=self.endpoint.clock() + 900.0)
        return token

    async def dial(self, process: Process, identity: PeerIdentity | None, *, hostile: bool = False) -> Stream:
        connection = await self.network.dial(process, self.endpoint.listening)
        if hostile:
            self.hostile_sessions.add(self.endpoint.next_session)
        self.trace("dial", f"connection {connection.number} of {process.name}")
        self.endpoint.accept(connection.far, identity)
        return connection.near

    def effect(self, job: Job, drives: list[str]) -> None:
        self.trace("effect", f"{job.task_id} at {' and '.join(drives)}")
        self.checks.effect(self.machine, job.task_id, drives)

    def landing(self, task_id: str) -> None:
        if not self.asked[task_id].params["lands"]:
            self.happened("no_landing")
            return
        self.loop.spawn(self._world_process, self._land(task_id))

    def agent_has(self, task_id: str) -> bool:
        runner, task = self.machine.runner, self.endpoint.disk.tasks[task_id]
        if not self.machine.up or runner is None or task.boot_id != self.machine.memory.boot_id:
            return False
        return any(one["task_id"] == task_id for one in runner.summary())

    def forged_is_legal(self, task: Task) -> bool:
        """An earlier boot may speak for its node until the handshake of a newer one was accepted."""
        node = self.endpoint.disk.nodes.get(NODE)
        return node is not None and node.boot_id in self.forgers

    def _error_logged(self, line: str) -> None:
        """What the product calls an error is one, unless its disk is full."""
        if self.endpoint.faults.full_until < self.loop.time() - 1.0 and "journal" not in line:
            self.loop.faults.append(line)
        self.trace("log", line)

    # --- the run

    def run(self) -> Outcome:
        self._world_process = Process("people")
        self.processes.append(self._world_process)
        with self.plants.patched(), overheard(self._error_logged):
            try:
                self.loop.run(self._main(), until=self.plan.heals_at + 3000.0, most=_MOST_STEPS)
            finally:
                for fault in self.loop.faults:
                    self.checks.broken("exception", fault)
                lost = self.checks.conclude()
                self._look_at_ends()
                for process in self.processes:
                    process.dead = True
        steps, seconds = self.loop.steps, self.loop.time()
        with overheard(lambda line: None):
            self.loop.dispose()
        doubled = sum(1 for count in self.machine.effects.values() if count > 1)
        return Outcome(
            seed=self.seed, violations=self.checks.violations, lost=lost, doubled=doubled,
            happened=self.counts, messages=self.checks.messages, steps=steps, seconds=seconds,
            trace=self.lines,
        )  # fmt: skip

    async def _main(self) -> None:
        self.endpoint.start()
        self.machine.boot()
        for wanted in self.plan.tasks:
            self.asked[wanted.task_id] = wanted
            self.loop.spawn(self._world_process, self._operate(wanted))
        if self.plan.hours:
            self.happened("hours")
            self.loop.spawn(self._world_process, self._probe())
        for fault in self.plan.faults:
            self.later(fault.at, lambda fault=fault: self._break(fault))  # type: ignore[misc]
        await asyncio.sleep(self.plan.heals_at)
        self._heal()
        deadline = self.loop.time() + _QUIET
        while self.loop.time() < deadline:
            await asyncio.sleep(5.0)
            if self._is_settled() and not await self._settle():
                break
            self._return_machine()
        await asyncio.sleep(1.0)  # what was kept in the last moment is still on its way to who watches
        self.trace("end", "quiet")

    # --- people

    async def _operate(self, wanted: Wanted) -> None:
        """An operator who asks until told that it was taken; what is wanted is wanted once, by its id."""
        await asyncio.sleep(wanted.at)
        landing = f"landing-{wanted.task_id}" if wanted.method == RUN else None
        try:
            await self._insist(
                lambda hub: hub.run_task(
                    NODE, wanted.method, wanted.params, task_id=wanted.task_id, landing_hash=landing,
                    hold=wanted.hold > 0,
                )
            )  # fmt: skip
        except TeethError as error:
            self.happened("held_node")
            self.trace("operator", f"{wanted.task_id} refused: {error}")
            return
        self.trace("operator", f"{wanted.task_id} taken")
        self.checks.accepted[wanted.task_id] = wanted.method
        self.checks.watched[wanted.task_id] = 0
        self.endpoint.watch(wanted.task_id)
        if wanted.hold:
            await asyncio.sleep(wanted.hold)
            await self._insist(lambda hub: hub.release(wanted.task_id))
        if wanted.cancel is not None:
            await asyncio.sleep(wanted.cancel)
            task = await self._insist(lambda hub: hub.cancel_task(wanted.task_id))
            self.happened("cancel")
            self.trace("operator", f"cancel {wanted.task_id}: {task.state}")

    async def _insist(self, question: Callable[[Any], Any]) -> Any:
        while True:
            try:
                return await self.endpoint.ask(question)
            except (EndpointDown, OSError):
                await asyncio.sleep(1.0)

    async def _land(self, task_id: str) -> None:
        await asyncio.sleep(5.0)
        with contextlib.suppress(ProblemError):
            await self._insist(lambda hub: hub.land(f"landing-{task_id}", "digest", {"hostname": "web"}))
            self.happened("landing")

    async def _settle(self) -> bool:
        """An operator looks at what nobody knows; True when there was such a thing."""
        if not self.plan.settles:
            return False
        unknown = [
            task.task_id for task in self.endpoint.disk.tasks.values() if task.state is TaskState.UNKNOWN
        ]
        for task_id in unknown:
            with contextlib.suppress(TeethError):
                await self._insist(
                    lambda hub, task_id=task_id: hub.settle_task(task_id, TaskState.ERROR, "looked at it")
                )
                self.happened("settle")
        return bool(unknown)

    async def _probe(self) -> None:
        """A ping takes no longer than its two ways, whatever the machine is busy with."""
        while True:
            await asyncio.sleep(97.0)
            began = self.loop.time()
            try:
                await self.endpoint.ask(lambda hub: hub.call(NODE, "ping", {"n": 1}))
            except (EndpointDown, TeethError):
                continue
            took = self.loop.time() - began
            if took > 0.1 + 10 * self.plan.latency:
                self.checks.broken("ping", f"a ping took {took:.3f} s")

    # --- faults

    def _break(self, fault: Fault) -> None:
        if getattr(self, f"_{fault.kind}")(fault.size) is not False:
            self.happened(fault.kind)

    def _live(self) -> Any:
        agent = self.machine.process
        open_ones = [one for one in self.network.connections if not one.over and one.near.process is agent]
        return open_ones[-1] if open_ones else None

    def _reset(self, size: float) -> object:
        connection = self._live()
        return False if connection is None else connection.cut()

    def _half_open(self, size: float) -> object:
        connection = self._live()
        return False if connection is None else connection.go_dark()

    def _stall(self, size: float) -> object:
        connection = self._live()
        if connection is None:
            return False
        connection.hold(True)
        self.later(2 + 25 * size, lambda: connection.hold(self.network.partitioned))
        return None

    def _late_bytes(self, size: float) -> object:
        """From now on what this connection's agent says is long on its way; the next one overtakes it."""
        connection = self._live()
        if connection is None:
            return False
        connection.near.out.latency = 0.5 + 5 * size
        self.later(1 + 5 * size, connection.near.linger)
        return None

    def _partition(self, size: float) -> object:
        self.network.partition(True)
        self.later(1 + 50 * size, lambda: self.network.partition(False))
        return None

    def _long_silence(self, size: float) -> object:
        self.plan.heals_at += 900
        self.network.partition(True)
        self.later(650 + 200 * size, lambda: self.network.partition(False))
        return None

    def _agent_kill(self, size: float) -> object:
        return self.machine.kill_agent("fault") if self.machine.up else False

    def _agent_kill_before_journal(self, size: float) -> object:
        self.machine.kill_at = (int(size * 3), "before")
        return False  # it happens when it happens

    def _agent_kill_after_journal(self, size: float) -> object:
        self.machine.kill_at = (int(size * 3), "after")
        return False

    def _reboot(self, size: float) -> object:
        return False if self.machine.away or self.machine.process is None else self.machine.reboot("fault")

    def _endpoint_kill(self, size: float) -> object:
        return self.endpoint.kill("fault") if self.endpoint.up else False

    def _endpoint_kill_before_commit(self, size: float) -> object:
        return self._kill_at_commit(size, "before")

    def _endpoint_kill_after_commit(self, size: float) -> object:
        return self._kill_at_commit(size, "after")

    def _kill_at_commit(self, size: float, when: str) -> object:
        def kill() -> None:
            self.happened(f"endpoint_kill_{when}_commit")
            self.endpoint.kill(f"{when} commit")

        self.endpoint.faults.kill_at = (int(size * 12), when == "before", kill)
        return False

    def _agent_clock(self, size: float) -> object:
        self.machine.clock_offset += (size - 0.5) * 4e6
        return None

    def _endpoint_clock(self, size: float) -> object:
        self.endpoint.clock_offset += (size - 0.5) * 7200
        return None

    def _disk_full(self, size: float) -> object:
        self.endpoint.faults.full_until = self.loop.time() + 1 + 10 * size
        return None

    def _disk_slow(self, size: float) -> object:
        self.endpoint.faults.slow_until = self.loop.time() + 5 + 20 * size
        return None

    def _journal_full(self, size: float) -> object:
        self.machine.journal_full_until = self.loop.time() + 2 + 20 * size
        return False

    def _stranger(self, size: float) -> object:
        return self._send_in("stranger", None)

    def _stolen_token(self, size: float) -> object:
        return self._send_in("stolen_token", None)

    def _stale_boot(self, size: float) -> object:
        old = self.machine.old_credentials
        return self._send_in("stale_boot", old[-1].handle) if old else False

    def _duplicate(self, size: float) -> object:
        mine = self.machine.memory.credential
        return self._send_in("duplicate", mine.handle) if mine is not None else False

    def _send_in(self, kind: str, identity: Any) -> object:
        stranger = Stranger(self, kind, identity)
        self.strangers.append(stranger.process)
        self.loop.spawn(stranger.process, stranger.run())
        return None

    # --- the end

    def _heal(self) -> None:
        self.trace("heal", "no more faults")
        for process in self.strangers:
            process.dead = True
            self.network.process_died(process)
        self.machine.kill_at = self.endpoint.faults.kill_at = None
        self.machine.journal_full_until = self.endpoint.faults.full_until = 0.0
        self.network.partition(False)

    def _is_settled(self) -> bool:
        if not self.endpoint.up:
            return False
        return all(
            task.state.over or self.waits_for_holder(task)
            or (task.state is TaskState.UNKNOWN and not self.agent_has(task.task_id))
            for task in self.endpoint.disk.tasks.values()
        )  # fmt: skip

    def waits_for_holder(self, task: Task) -> bool:
        others = self.endpoint.disk.tasks.values()
        return (
            task.state is TaskState.QUEUED and task.destructive
            and any(other.holds_node for other in others)
        )  # fmt: skip

    def _return_machine(self) -> None:
        """Somebody starts the machine again when something still waits for it."""
        waits = any(task.state is TaskState.QUEUED for task in self.endpoint.disk.tasks.values())
        if self.machine.away and waits:
            self.machine.boot()
        elif waits and self.machine.up and self.machine.memory.credential is None:
            token = self.endpoint.disk.tokens[self.machine.memory.token]
            if token.expires < self.endpoint.clock():  # a clock that was set: it needs another grant
                self.machine.reboot("its grant has expired")

    def _look_at_ends(self) -> None:
        """What a task's end says is what happened to the drives."""
        for task in self.endpoint.disk.tasks.values():
            effects = self.machine.effects.get(task.task_id, 0)
            if task.code in _UNTOUCHED:
                self.counts["task_refused"] += 1
            never = task.code in _UNTOUCHED or (
                task.code == "cancelled" and task.msg.startswith("cancelled before")
            )
            if never and effects:
                self.checks.broken(
                    "truth", f"{task.task_id} ended {task.code} ({task.msg}) and was carried out"
                )
            done = task.state is TaskState.COMPLETE and task.destructive
            if done and not effects:
                self.checks.broken("truth", f"{task.task_id} is complete and was never carried out")
