"""Dial the endpoints, one session after the other, for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from teeth_agent.config import Config
from teeth_agent.session.console import Console
from teeth_agent.session.dial import Dialer, DialError
from teeth_agent.session.enrol import Keys
from teeth_agent.session.spool import LogSpool
from teeth_agent.session.taskrunner import TaskRunner
from teeth_protocol import methods
from teeth_protocol.connection import Closed, Role
from teeth_protocol.errors import ProblemError
from teeth_protocol.fields import Fields
from teeth_protocol.limits import Limits
from teeth_protocol.strictjson import dumps
from teeth_stream import Peer, RemoteError

_log = logging.getLogger(__name__)

_BACKOFF_FIRST = 1.0
_BACKOFF_MOST = 30.0
_MAX_MACS = 16
_ENVELOPE = 256  # bytes around the handshake's params

Facts = Callable[[], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this machine is on this boot. ``timings``: seconds since the kernel started, by milestone."""

    node_id: str
    boot_id: str
    macs: tuple[str, ...]
    timings: dict[str, float] = field(default_factory=dict)


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
        self._keys = keys
        self._inventory = inventory
        self._status = status
        self._limits = limits or Limits()
        self._backoff = backoff
        self._jitter = jitter
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._logs = asyncio.Event()
        spool.notify = self._log_waits

    def _log_waits(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(self._logs.set)

    async def run(self) -> None:
        """Never returns: a machine that waits for orders has nothing better to do than to dial."""
        attempt = 0
        while True:
            for host, port in self._config.endpoints:
                if await self._try(host, port):
                    attempt = 0
                    break
            # Full jitter: a hall that lost its endpoint must not come back in step.
            most = min(_BACKOFF_MOST, self._backoff * 2**attempt)
            attempt = min(attempt + 1, 16)
            await asyncio.sleep(most * self._jitter())

    async def _try(self, host: str, port: int) -> bool:
        """One dial. True when a handshake was accepted and the endpoint did not throw us out."""
        where = f"{host}:{port}"
        try:
            reader, writer = await self._dialer.dial(host, port, None)
        except DialError as error:
            self._console.problem(error.code, str(error))
            return False
        return await self._session(where, reader, writer)

    async def _session(self, where: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self._identity.timings.setdefault("tls", self._loop.time())
        peer = Peer(Role.AGENT, reader, writer, self._answer, limits=self._limits)
        accepted = asyncio.Event()
        talking = asyncio.create_task(self._talk(where, peer, accepted))
        try:
            closed = await peer.run()
        except Exception:  # a fault of ours ends this session, never the agent and the tasks it runs
            _log.exception("the session with %s failed", where)
            closed = Closed(reason="it failed inside the agent", fatal=False)
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)
        if closed.fatal:
            self._console.problem("refused", f"{where}: {closed.reason}")
            return False
        self._console.say(f"connection to {where} ended: {closed.reason}")
        return accepted.is_set()

    async def _talk(self, where: str, peer: Peer, accepted: asyncio.Event) -> None:
        """Our part of the conversation. Its end, of whatever kind, is the end of the connection."""
        try:
            answer = await peer.call(methods.HANDSHAKE, self._hello())
            accepted.set()
            self._console.say(f"connected to {where} as {answer.get('id', self._identity.node_id)}")
            await _until_first_ends(self._tasks.pump(peer), self._send_logs(peer))
        except RemoteError as error:
            _log.info("no session with %s: %s", where, error)
        except Exception:
            _log.exception("the conversation with %s failed", where)
        finally:
            peer.hang_up()

    def _hello(self) -> dict[str, Any]:
        """Who we are and what we do, in one line that an endpoint reads from a stranger."""
        tasks = self._tasks.summary()
        hello = {
            "id": self._identity.node_id,
            "version": self._config.version,
            "boot_id": self._identity.boot_id,
            "ramdisk": self._config.ramdisk,
            "token": self._config.token,
            "macs": list(self._identity.macs[:_MAX_MACS]),
            "tasks": tasks,
            "timings": {name: round(value, 3) for name, value in self._identity.timings.items()},
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
            return {**await self._status(), "tasks": self._tasks.summary()}
        if method == methods.INVENTORY:
            return await self._inventory()
        if method == "cancel_task":
            return self._tasks.cancel(Fields(params).text("task_id"))
        if method.startswith(("decom.", "standbye.")):
            return self._tasks.start(method, params)
        raise ProblemError("unknown_method", f"this agent has no {method}")


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
