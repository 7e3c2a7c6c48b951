"""A machine: memory that lasts as long as a boot, drives that outlast it, and the agent's process."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from sim.loop import Killed, Process
from sim.net import Stream
from teeth.endpoint.identity import PeerIdentity
from teeth_agent.config import Config
from teeth_agent.errors import AgentError, DeviceError
from teeth_agent.session.console import Console
from teeth_agent.session.dial import DialError
from teeth_agent.session.enrol import Credential
from teeth_agent.session.home import Home, Identity
from teeth_agent.session.journal import JournalError, Record
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import Job, TaskRunner
from teeth_agent.tasks.context import TaskContext
from teeth_protocol import methods

if TYPE_CHECKING:
    from sim.world import World

NODE = "node-1"
MAC = "52:54:00:00:00:01"
DRIVES = ("S1", "S2")
ERASE, PREPARE, RUN = methods.DISK_ERASE, methods.PREPARE_IMAGE, methods.RUN_IMAGE
METHODS = (ERASE, PREPARE, RUN)


@dataclass
class Memory:
    """What a boot knows and a restart of the agent's process leaves alone."""

    boot_id: str
    token: str
    request: str
    journal: list[str] = field(default_factory=list)
    credential: Credential | None = None
    stuck_until: float = 0.0  # a tool of a dead process waits for its drive


@dataclass
class Journal:
    """The product's journal, on the machine's memory: one line is kept at one instant."""

    machine: Machine
    process: Process

    def load(self) -> list[Record]:
        return [json.loads(line) for line in self.machine.memory.journal]

    def append(self, record: Record) -> None:
        machine = self.machine
        if self.process.dead:
            raise Killed
        kill = machine.due_kill()
        if kill == "before":
            machine.kill_agent("journal: before")
            raise Killed
        if machine.world.loop.time() < machine.journal_full_until:
            machine.world.happened("journal_full")
            raise JournalError("the task journal cannot be written: no space left on device")
        machine.memory.journal.append(json.dumps(record))
        machine.world.trace("journal", f"{record['kind']} {record['task_id']}")
        if kill == "after":
            machine.kill_agent("journal: after")
            raise Killed


@dataclass
class Keys:
    """The product's Keys, as plain values in the machine's memory."""

    machine: Machine

    def now(self) -> float:
        return self.machine.world.loop.time()

    async def load(self) -> Credential | None:
        return self.machine.memory.credential

    async def csr(self) -> str:
        await asyncio.sleep(0.01)
        return self.machine.memory.request

    async def keep(self, certificate: str, lasts: float) -> Credential:
        node_id, boot_id, spki, not_after = json.loads(certificate)
        handle = PeerIdentity(node_id=node_id, boot_id=boot_id, spki=spki, not_after=not_after)
        self.machine.memory.credential = Credential(handle=handle, issued=self.now(), lasts=lasts)
        return self.machine.memory.credential


@dataclass
class Dialer:
    machine: Machine
    process: Process

    async def dial(self, host: str, port: int, credential: Credential | None) -> tuple[Stream, Stream]:
        world = self.machine.world
        try:
            stream = await world.dial(self.process, None if credential is None else credential.handle)
        except OSError as error:
            raise DialError(f"{host}:{port}: {error}") from None
        return stream, stream


class Machine:
    """One machine of the world, with its drives."""

    def __init__(self, world: World, rng: Random, requests: tuple[str, ...]) -> None:
        self.world = world
        self.rng = rng
        self._requests = requests
        self.boots = 0
        self.memory: Memory
        self.process: Process | None = None
        self.runner: TaskRunner | None = None
        self.away = False  # another system runs on it
        self.clock_offset = 0.0
        self.journal_full_until = 0.0
        self.kill_at: tuple[int, str] | None = None
        self.effects: dict[str, int] = {}
        self.at_work: dict[str, str] = {}  # drive -> task whose tool is at it
        self.old_credentials: list[Credential] = []

    # --- power

    def boot(self) -> None:
        """Into the ramdisk, with a fresh grant."""
        self.boots += 1
        self.away = False
        boot_id = f"boot-{self.boots}"
        token = self.world.grant(boot_id)
        self.memory = Memory(boot_id, token, self._requests[self.boots % len(self._requests)])
        self.at_work.clear()
        self.world.trace("boot", boot_id)
        self.start_agent()

    def start_agent(self) -> None:
        process = self.process = Process(f"agent-{self.memory.boot_id}")
        self.world.processes.append(process)
        if self.memory.stuck_until <= self.world.loop.time():
            self.at_work.clear()  # the new process has ended the old one's tools before it does anything
        self.world.loop.spawn(process, self._agent(process))

    def kill_agent(self, why: str) -> None:
        """The process ends in this instant; its supervisor starts another."""
        if self.process is None or self.process.dead:
            return
        process = self.process
        self.world.trace("kill", f"agent ({why})")
        process.dead = True
        self.world.network.process_died(process)
        if self.at_work and self.rng.random() < 0.7:
            self.world.happened("stuck_tool")
            self.memory.stuck_until = self.world.loop.time() + self.rng.uniform(5, 40)
        boots = self.boots
        self.world.later(self.rng.uniform(0.5, 4.0), lambda: self._respawn(boots))

    def reboot(self, why: str) -> None:
        self.world.trace("reboot", why)
        self._stop()
        self.world.later(self.rng.uniform(10, 40), self.boot)

    def leave(self) -> None:
        """Another system takes over; it calls home by its landing."""
        self.world.trace("leave", self.memory.boot_id)
        self._stop()
        self.away = True

    def _stop(self) -> None:
        process, self.process = self.process, None
        if process is not None and not process.dead:
            process.dead = True
            self.world.network.machine_died(process)
        if self.memory.credential is not None:
            self.old_credentials.append(self.memory.credential)
        self.at_work.clear()

    def _respawn(self, boots: int) -> None:
        if self.process is not None and self.process.dead and boots == self.boots and not self.away:
            self.start_agent()

    def due_kill(self) -> str:
        if self.kill_at is None:
            return ""
        left, when = self.kill_at
        self.kill_at = None if left <= 0 else (left - 1, when)
        if left > 0:
            return ""
        self.world.happened(f"agent_kill_{when}_journal")
        return when

    @property
    def up(self) -> bool:
        return self.process is not None and not self.process.dead

    def clock(self) -> float:
        return self.world.loop.time() + 1.7e9 + self.clock_offset

    # --- the agent's process

    async def _agent(self, process: Process) -> None:
        world, loop = self.world, self.world.loop
        rng = Random(self.rng.random())
        spool = LogSpool(clock=self.clock, monotonic=loop.time)
        console = Console(io.StringIO(), clock=self.clock)
        runner = self.runner = world.plants.runner(
            TaskContext(boot_id=self.memory.boot_id), spool, _known, console.say,
            journal=world.plants.journal(Journal(self, process)), start=self._start_job,
            blocked=self._blocked, progress_interval=world.pace, retry_interval=world.pace,
        )  # fmt: skip
        config = Config(
            endpoints=(("endpoint", 1),), ca_digest=None, ca_file=None, token=lambda: self.memory.token,
            boot_mac="", ramdisk="r", built=0, version="1",
        )  # fmt: skip
        identity = Identity(node_id=NODE, boot_id=self.memory.boot_id, macs=(MAC,))
        home = Home(
            config, identity, runner, spool, console, dialer=Dialer(self, process), keys=Keys(self),
            inventory=_inventory, status=_status, served=METHODS, limits=world.limits, backoff=1.0,
            jitter=rng.random, clock=self.clock,
        )  # fmt: skip
        spool.add("info", "agent", "started")
        await home.run()

    def _blocked(self) -> str:
        stuck = self.world.loop.time() < self.memory.stuck_until
        if not stuck and self.memory.stuck_until:
            self.memory.stuck_until = 0.0
            self.at_work.clear()
        return "hdparm (pid 7) of an earlier agent process does not end" if stuck else ""

    # --- tasks: what would be threads

    def _start_job(self, job: Job) -> None:
        process = self.process
        assert process is not None
        if process.dead:
            raise Killed
        self.world.loop.spawn(process, self._carry_out(job))

    async def _carry_out(self, job: Job) -> None:
        try:
            result = await _WORK[job.method](self, job)
        except AgentError as error:
            job.fail(error)
        else:
            job.complete(result)

    async def erase(self, job: Job) -> dict[str, Any]:
        if job.params.get("plan") is True:
            await asyncio.sleep(0.5)
            return {"plan": {"units": []}}
        drives = job.params.get("allow") or list(DRIVES)
        await asyncio.sleep(self.rng.uniform(0.1, 1.0))
        await self._work(job, drives, job.params["seconds"])
        if job.params.get("fails"):
            raise DeviceError("the drive does not answer", detail={"units": [{"serial": drives[0]}]})
        return {"units": [{"serial": drive, "outcome": "cleared"} for drive in drives]}

    async def prepare(self, job: Job) -> dict[str, Any]:
        await asyncio.sleep(self.rng.uniform(0.1, 1.0))
        await self._work(job, [job.params["disk"]], job.params["seconds"])
        return {"image_id": "i"}

    async def run_image(self, job: Job) -> dict[str, Any]:
        await self._work(job, [DRIVES[0]], 1.0)
        reporter = job.reporter
        while (answer := await self._ask(job, "prepared")).get("go") is not True:
            wait = answer.get("retry_after")
            if not isinstance(wait, int | float):
                raise AgentError("the endpoint did not say go", code="not_released")
            reporter.check_cancelled()
            await asyncio.sleep(wait)
        reporter.check_cancelled()
        if "refused" in await self._ask(job, "leaving"):
            raise AgentError("the endpoint did not take the message that we leave", code="not_released")
        if job.params.get("stays"):
            self.world.happened("leave_failed")
            await asyncio.sleep(5.0)
            raise AgentError("the machine is still running after its restart", code="still_here")
        await asyncio.sleep(self.rng.uniform(0.0, 0.5))
        self.world.landing(job.task_id)
        self.leave()
        raise Killed  # the machine is gone

    async def _ask(self, job: Job, phase: str) -> Mapping[str, Any]:
        return await asyncio.wrap_future(job.reporter.ask(phase, boot="kexec"), loop=self.world.loop)

    async def _work(self, job: Job, drives: list[str], seconds: float) -> None:
        """The effect: drives are claimed, then changed for a while."""
        job.context.claim(drives)
        self.effects[job.task_id] = self.effects.get(job.task_id, 0) + 1
        self.world.effect(job, drives)
        for drive in drives:
            self.at_work[drive] = job.task_id
        try:
            steps = max(2, min(12, int(seconds / self.world.pace)))
            for step in range(steps):
                await asyncio.sleep(seconds / steps)
                job.reporter.check_cancelled()
                left = seconds * (steps - step - 1) / steps
                job.reporter.progress(100 * (step + 1) / (steps + 1), eta=left, step="overwrite", n=step)
            job.reporter.log("info", "work_done", drives=len(drives))
        finally:
            if not self.world.loop.is_closed() and self.up:
                for drive in drives:
                    if self.at_work.get(drive) == job.task_id:
                        del self.at_work[drive]


_WORK: Mapping[str, Callable[[Machine, Job], Any]] = {
    ERASE: Machine.erase,
    PREPARE: Machine.prepare,
    RUN: Machine.run_image,
}


def _never(*_: Any) -> dict[str, Any]:
    raise AssertionError("jobs are carried out by the machine")


def _known(method: str) -> Any:
    return _never if method in _WORK else None


async def _inventory() -> dict[str, Any]:
    await asyncio.sleep(0.2)
    return {"disks": [{"serial": drive} for drive in DRIVES]}


async def _status() -> dict[str, Any]:
    return {"uptime": 1.0}
