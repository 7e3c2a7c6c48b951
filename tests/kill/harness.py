"""A real endpoint process and a real agent process, killed with SIGKILL at random moments while tasks run."""

from __future__ import annotations

import collections
import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

from kill.agent_process import MAC, NODE, STEP

_AGENT = Path(__file__).with_name("agent_process.py")
_UP = 60.0  # seconds a process may take to be of use again, on a busy machine
_OVER = {"complete", "error", "unknown"}


class Broken(AssertionError):
    """Something was lost, doubled, or hangs."""


@dataclass(slots=True)
class Outcome:
    """What became of it all.

    ``at_work``: kills that fell while a task was being worked on; ``lost``: task ids without an end;
    ``doubled``: begun or ended twice; ``lies``: called complete and not done.
    """

    at_work: int = 0
    unknown: int = 0
    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    lies: list[str] = field(default_factory=list)


class Site:
    """Both processes, what they keep, and the operator's door."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.effects = folder / "effects"
        self.data = folder / "data"
        self._ports = free_ports(4)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, IO[bytes]] = {
            name: (folder / f"{name}.log").open("ab") for name in ("agent", "endpoint")
        }
        self._api = httpx.Client(timeout=30)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        try:
            self.start("endpoint")
            self._wait(self._answers, "the endpoint")
            grant = self.ask("POST", "/v1/grants?reveal=true", {"mac": MAC})
            (self.folder / "token").write_text(grant["token"], encoding="ascii")
            self.start("agent")
            self._wait(self.connected, "the agent's session")
            yield
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()
            for log in self._logs.values():
                log.close()
            self._api.close()

    def start(self, name: str) -> None:
        listen, boot, landing, api = (f"127.0.0.1:{port}" for port in self._ports)
        if name == "endpoint":
            command = [
                *(sys.executable, "-m", "teeth", "endpoint", "run", "--data", str(self.data)),
                *("--listen", listen, "--boot", boot, "--landing", landing, "--api", api),
                *("--log", str(self.folder / "endpoint.jsonl")),
            ]
        else:
            command = [
                *(sys.executable, str(_AGENT), "--endpoint", listen, "--ca", str(self.data / "ca.crt")),
                *("--token", str(self.folder / "token"), "--run", str(self.folder / "run")),
                *("--effects", str(self.effects), "--boot", "boot-1"),
            ]
        self._processes[name] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._logs[name], stderr=self._logs[name]
        )

    def kill(self, name: str) -> None:
        """SIGKILL, and a new process at once: what a supervisor does."""
        process = self._processes[name]
        if process.poll() is not None:
            raise Broken(f"the {name} ended by itself with {process.returncode}: see {name}.log")
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.start(name)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request, repeated while the endpoint is not there: every one of them may be said twice."""
        deadline = time.monotonic() + _UP
        while True:
            try:
                return self._request(method, path, body)
            except (httpx.TransportError, OSError) as error:
                if time.monotonic() > deadline:
                    raise Broken(f"the endpoint does not come back: {error}") from error
                time.sleep(0.02)

    def task(self, task_id: str) -> dict[str, Any]:
        return dict(self.ask("GET", f"/v1/tasks/{task_id}")["task"])

    def connected(self) -> bool:
        nodes = self.ask("GET", "/v1/nodes")["nodes"]
        return any(node["id"] == NODE and node["connected"] for node in nodes)

    def wait_end(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def over() -> bool:
            found.update(self.task(task_id))
            return found["state"] in _OVER

        self._wait(over, f"the end of {task_id}")
        return found

    def wait_begun(self, task_id: str) -> None:
        """Until its work has begun, or it is over without that."""
        self._wait(
            lambda: self.begun_and_done()[0][task_id] > 0 or self.task(task_id)["state"] in _OVER,
            f"the beginning of {task_id}",
        )

    def at_work(self, task_id: str) -> bool:
        begun, done = self.begun_and_done()
        return begun[task_id] > 0 and not done[task_id]

    def begun_and_done(self) -> tuple[collections.Counter[str], collections.Counter[str]]:
        """How often each task began and was done, as its own work noted it."""
        text = self.effects.read_text(encoding="ascii") if self.effects.exists() else ""
        words = [line.split() for line in text.splitlines()]
        return (
            collections.Counter(name for word, name in words if word == "begun"),
            collections.Counter(name for word, name in words if word == "done"),
        )

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        token = (self.data / "operator.token").read_text(encoding="ascii").strip()
        url = f"http://127.0.0.1:{self._ports[3]}{path}"
        answer = self._api.request(method, url, json=body, headers={"authorization": f"Bearer {token}"})
        if answer.status_code >= 400:
            raise Broken(f"{method} {path}: {answer.status_code} {answer.text[:400]}")
        return dict(answer.json())

    def _answers(self) -> bool:
        self.ask("GET", "/v1/nodes")
        return True

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _UP
        while not done():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise Broken(f"the {name} ended by itself with {process.returncode}: see {name}.log")
            if time.monotonic() > deadline:
                raise Broken(f"{what} does not come within {_UP:g} s")
            time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; they must outlive the endpoint's process."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def play(site: Site, *, kills: int, seed: int) -> Outcome:
    """Tasks one after the other, and at least ``kills`` kills while one of them is at work. Some more fall
    between acceptance and beginning or while an end is being told. Reproducible but for timing."""
    chance = random.Random(seed)
    outcome = Outcome()
    ends: dict[str, str] = {}
    while outcome.at_work < kills:
        task_id = f"t-{len(ends) + 1}"
        steps = chance.randrange(5, 60)
        order = {
            "node": NODE, "method": "decom.disk_erase", "task_id": task_id, "params": {"steps": steps},
        }  # fmt: skip
        site.ask("POST", "/v1/tasks", order)
        interrupted = False
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            if chance.random() < 0.85:
                site.wait_begun(task_id)
            time.sleep(chance.uniform(0, steps * STEP))
            victim = chance.choice(("agent", "endpoint"))
            at_work = not interrupted and site.at_work(task_id)
            interrupted = interrupted or (at_work and victim == "agent")
            outcome.at_work += at_work
            site.kill(victim)
            outcome.kills[victim] += 1
        if chance.random() < 0.3:
            site.ask("POST", "/v1/tasks", order)  # an operator's program that did not hear the answer
        try:
            task = site.wait_end(task_id)
        except Broken:
            outcome.lost.append(task_id)
            raise
        if task["state"] == "unknown":
            outcome.unknown += 1
            task = site.ask("POST", f"/v1/tasks/{task_id}/settle", {"state": "error", "msg": "looked at"})
        ends[task_id] = _end(task)
    _judge(site, ends, outcome)
    return outcome


def _end(task: dict[str, Any]) -> str:
    return json.dumps([task["state"], task["code"], task["msg"], task["result"]], sort_keys=True)


def _judge(site: Site, ends: dict[str, str], outcome: Outcome) -> None:
    begun, done = site.begun_and_done()
    for task_id, end in ends.items():
        task = site.task(task_id)
        outcome.ends[f"{task['state']} {task['code']}".strip()] += 1
        if _end(task) != end or begun[task_id] > 1 or done[task_id] > 1:
            outcome.doubled.append(task_id)
        if task["state"] == "complete" and done[task_id] != 1:
            outcome.lies.append(task_id)
