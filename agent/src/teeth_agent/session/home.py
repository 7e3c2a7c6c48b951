"""Dial the endpoints, one session after the other, for ever."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from teeth_agent.config import Config
from teeth_agent.errors import AgentError
from teeth_agent.session.bell import Bell
from teeth_agent.session.console import Console
from teeth_agent.session.dial import Dialer
from teeth_agent.session.enrol import Keys
from teeth_agent.session.membership import ADVICE, EnrolError, Membership, last_words
from teeth_agent.session.places import Place, Places
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import TaskRunner
from teeth_protocol import capabilities, methods
from teeth_protocol.connection import Closed, Role
from teeth_protocol.errors import ProblemError
from teeth_protocol.limits import Limits
from teeth_protocol.strictjson import dumps
from teeth_stream import Peer, Reader, RemoteError, Writer

_log = logging.getLogger(__name__)

_BACKOFF_FIRST = 1.0
_MAX_MACS = 16
_ENVELOPE = 256  # bytes around the handshake's params

# Refusals that are about the moment, not about us.
_PASSING = frozenset({"timeout", "busy", "unsendable", "internal", "draining"})

_Outcome = Callable[[Place, float], None]
Facts = Callable[[], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this machine is on this boot. ``timings``: seconds since the kernel started, by milestone."""

    node_id: str
    boot_id: str
    macs: tuple[str, ...]
    uuid: str | None = None
    timings: dict[str, float] = field(default_factory=dict)

    def claim(self) -> dict[str, Any]:
        """How this machine names itself to an endpoint that does not know it yet."""
        return {
            "id": self.node_id,
            "boot_id": self.boot_id,
            "macs": list(self.macs[:_MAX_MACS]),
            "uuid": self.uuid,
        }


class Home:
    """The agent's side of the session. Whatever is outside, random or a clock is given to it."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        tasks: TaskRunner,
        spool: LogSpool,
        console: Console,
        *,
        dialer: Dialer,
        keys: Keys,
        inventory: Facts,
        status: Facts,
        served: Sequence[str] = (),
        limits: Limits | None = None,
        backoff: float = _BACKOFF_FIRST,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._identity = identity
        self._tasks = tasks
        self._spool = spool
        self._console = console
        self._dialer = dialer
        self._places = Places(config.endpoints, backoff=backoff, jitter=jitter)
        self._membership = Membership(keys, config.token, identity.claim(), jitter=jitter, clock=clock)
        self._served = list(served)
        self._sessions = 0
        self._inventory = inventory
        self._status = status
        self._limits = limits or Limits()
        self._jitter = jitter
        self._loop = asyncio.get_running_loop()
        self._logs = Bell()
        spool.notify = self._logs.ring

    async def run(self) -> None:
        """Never returns: a machine that waits for orders has nothing better to do than to dial."""
        while True:
            place, wait = self._places.next(self._loop.time())
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            outcome = await self._visit(place)
            outcome(place, self._loop.time())

    async def _visit(self, place: Place) -> _Outcome:
        """One dial and what comes of it: which of the Places' words it earns."""
        try:
            credential = await self._membership.credential()
            if credential is None:
                return await self._enrol(place)
            return await self._session(place, *await self._dialer.dial(place.host, place.port, credential))
        except AgentError as error:  # DialError among them
            self._complain(place, error.code, str(error))
            return self._places.failed

    async def _enrol(self, place: Place) -> _Outcome:
        """A connection that shows no certificate, to get one; the next one shows it."""
        refused: list[tuple[str, str]] = []

        async def talk(peer: Peer) -> None:
            try:
                await self._membership.enrol(peer, params)
            except RemoteError as error:
                if error.problem.code != "connection_lost":  # that is told by how it ended
                    refused.append((error.problem.code, error.problem.msg))
            except AgentError as error:
                refused.append((error.code, str(error)))
            else:
                enrolled.set()

        enrolled = asyncio.Event()
        try:
            params = await self._membership.request()
        except EnrolError as error:
            self._complain(place, error.code, str(error))
            return self._places.refused
        closed = await self._converse(place, *await self._dialer.dial(place.host, place.port, None), talk)
        if enrolled.is_set():
            self._console.say(f"enrolled with {place}")
            return self._places.welcome
        for code, msg in refused:
            self._complain(place, code, f"{place}: {msg}")
            return self._places.failed if code in _PASSING else self._places.refused
        self._ended(place, closed)
        return self._places.refused if closed.fatal else self._places.failed

    async def _session(self, place: Place, reader: Reader, writer: Writer) -> _Outcome:
        self._identity.timings.setdefault("tls", self._loop.time())
        accepted = asyncio.Event()

        async def talk(peer: Peer) -> None:
            try:
                answer = await peer.call(methods.HANDSHAKE, self._hello())
                accepted.set()
                self._accepted(place, answer)
                work = [self._tasks.pump(peer), self._send_logs(peer)]
                if capabilities.RENEW in _names(answer.get("capabilities")):
                    work.append(self._membership.stay(peer))
                await _until_first_ends(*work)
            except RemoteError as error:
                _log.info("no session with %s: %s", place, error)

        closed = await self._converse(place, reader, writer, talk)
        self._ended(place, closed)
        if accepted.is_set():
            return self._places.met
        self._membership.doubted(last_words(closed.reason)[0])
        return self._places.refused if closed.fatal else self._places.failed

    async def _converse(
        self, place: Place, reader: Reader, writer: Writer, talk: Callable[[Peer], Awaitable[None]]
    ) -> Closed:
        """Have a conversation. The end of our part, of whatever kind, is the end of the connection."""

        async def speak() -> None:
            try:
                await talk(peer)
            except Exception:
                _log.exception("the conversation with %s failed", place)
            finally:
                peer.hang_up()

        peer = Peer(Role.AGENT, reader, writer, self._answer, limits=self._limits, jitter=self._jitter)
        speaking = asyncio.create_task(speak())
        try:
            return await peer.run()
        except Exception:  # a fault of ours ends this connection, never the agent and the tasks it runs
            _log.exception("the connection with %s failed", place)
            return Closed(reason="it failed inside the agent", fatal=False)
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)

    def _accepted(self, place: Place, answer: Mapping[str, Any]) -> None:
        self._membership.trusted()
        self._membership.heard_time(answer)
        self._sessions += 1
        place.told = ""
        self._console.say(f"connected to {place} as {answer.get('id', self._identity.node_id)}")

    def _ended(self, place: Place, closed: Closed) -> None:
        if closed.fatal:
            code, words = last_words(closed.reason)
            self._complain(place, code, f"{place}: {words}")
        elif place.news(closed.reason):
            self._console.say(f"connection to {place} ended: {closed.reason}")

    def _complain(self, place: Place, code: str, msg: str) -> None:
        advice = ADVICE.get(code)
        text = msg if advice is None else f"{msg}: {advice}"
        if place.news(text):
            self._console.problem(code, text)

    def _hello(self) -> dict[str, Any]:
        """Who we are and what we do, in one line that an endpoint reads from a stranger."""
        tasks = self._tasks.summary()
        hello = {
            "id": self._identity.node_id,
            "version": self._config.version,
            "boot_id": self._identity.boot_id,
            "ramdisk": self._config.ramdisk,
            "macs": list(self._identity.macs[:_MAX_MACS]),
            "tasks": tasks,
            "timings": {name: round(value, 3) for name, value in self._identity.timings.items()},
            **capabilities.offer(self._served),
        }
        # Ids may be long. A finished task that is not listed still gets its last status sent.
        while tasks and len(dumps(hello)) > self._limits.line_unauthenticated - _ENVELOPE:
            tasks.pop()
        return hello

    async def _send_logs(self, peer: Peer) -> None:
        self._logs.set()
        while True:
            await self._logs.wait()
            self._logs.clear()
            while (record := self._spool.take()) is not None:
                try:
                    await peer.call(methods.LOG, record)
                except RemoteError as error:
                    if error.problem.code in ("connection_lost", "timeout"):
                        self._spool.put_back(record)
                        return
                    self._spool.give_up(record)
                except asyncio.CancelledError:
                    self._spool.put_back(record)
                    raise

    async def _answer(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == methods.STATUS:
            return await self._say_status()
        if method == methods.INVENTORY:
            return await self._inventory()
        if method == methods.CANCEL_TASK:
            return self._cancel(params)
        if method.startswith(("decom.", "standbye.")):
            return self._tasks.start(method, params)
        raise ProblemError("unknown_method", f"this agent has no {method}")

    def _cancel(self, params: Mapping[str, Any]) -> dict[str, Any]:
        # Imported only when asked for: types and their readers must not delay the dialling.
        from teeth_protocol.shape import read
        from teeth_protocol.wire.tasks import CancelTask

        return self._tasks.cancel(read(CancelTask, params).task_id)

    async def _say_status(self) -> dict[str, Any]:
        facts = await self._status()
        return {
            **facts,
            "clock": {**facts.get("clock", {"stepped": False}), "offset": self._membership.clock_offset},
            "problems": self._console.problems(),
            "sessions": self._sessions,
            "tasks": self._tasks.summary(),
        }


def _names(value: object) -> list[object]:
    return value if isinstance(value, list) else []


async def _until_first_ends(*work: Coroutine[Any, Any, None]) -> None:
    """Run side by side until one ends, then end the others. Raises what the first raised."""
    jobs = [asyncio.create_task(job) for job in work]
    try:
        done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
    for job in done:
        job.result()
