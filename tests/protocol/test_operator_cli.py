"""The operator's commands as a person types them: a real endpoint process, a machine on the wire, a shell."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from fakes.wire_agent import Dialled, WireAgent
from teeth.cli import main
from teeth.endpoint.httpserver import listening_socket

pytestmark = pytest.mark.slow

ERASE = "decom.disk_erase"
MAC = "52:54:00:00:00:01"
DISKS = [
    {"name": "sda", "serial": "SER-1", "size": 4_000_000_000_000, "transport": "sata", "model": "M\x1b[31m"},
    {
        "name": "loop0",
        "serial": None,
        "size": 0,
        "transport": "unknown",
        "out_of_scope": "a file, not a drive",
    },
]
SECRET = "correct-horse-battery"


@dataclass
class Site:
    """An endpoint process and the commands that ask it."""

    data: Path
    options: list[str] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None
    told: dict[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "TEETH_DATA": str(self.data),
            "COLUMNS": "160",
            "http_proxy": "http://192.0.2.1:9",
        }

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "teeth", "endpoint", "run", "--data", str(self.data), *self.options,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        words = (await self.process.stdout.readline()).decode().split()
        self.told = dict(word.split("=", 1) for word in words[1:])

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[bytes, bytes]:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.process.communicate()

    async def begin(self, *words: str, **environ: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "teeth", *words, env={**self.environ, **environ},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def run(self, *words: str, **environ: str) -> tuple[int, str, str]:
        """A command in this process, as the program's own main runs it; one at a time."""
        return await asyncio.to_thread(self._run, words, environ)

    def _run(self, words: tuple[str, ...], environ: dict[str, str]) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, {**self.environ, **environ}),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main(list(words))
        return int(ended.value.code or 0), out.getvalue(), err.getvalue()

    async def ask(self, *words: str) -> Any:
        """A command that must succeed, with --json."""
        code, out, err = await self.run(*words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    async def refused(self, *words: str, **environ: str) -> tuple[int, str]:
        """A command that must say one line, and nothing on standard output."""
        code, out, err = await self.run(*words, **environ)
        assert code != 0
        assert out == ""
        assert err.count("\n") == 1, err
        assert err.startswith("teeth: ")
        return code, err

    @contextlib.asynccontextmanager
    async def machine(self, **members: Any) -> AsyncIterator[Dialled]:
        grant = await self.ask("grant", "create", MAC, "--reveal")
        agent = Machine(token=grant["token"], macs=(MAC,), **members)
        agent.answers |= {
            "inventory": lambda _: {"disks": DISKS},
            "status": lambda _: {"uptime": 5},
            ERASE: lambda _: {"state": "running"},
            "cancel_task": lambda _: {"state": "cancelling"},
        }
        port = int(self.told["agents"].rpartition(":")[2])
        async with agent.session(port, self.data / "ca.crt") as dialled:
            await agent.command("inventory")
            yield dialled


class Machine(WireAgent):
    def hello(self) -> dict[str, Any]:
        return {**super().hello(), "methods": [ERASE], "ramdisk": "r-1"}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    running = Site(tmp_path / "data", ["--log", str(tmp_path / "endpoint.log")])
    async with asyncio.timeout(120):
        await running.start()
        try:
            yield running
        finally:
            await running.stop()


async def line_with(stream: asyncio.StreamReader | None, words: str) -> str:
    """The next line that holds ``words``."""
    assert stream is not None
    async with asyncio.timeout(30):
        while (line := (await stream.readline()).decode()) != "":
            if words in line:
                return line
    raise AssertionError(f"{words!r} was never said")


async def test_a_machine_from_grant_to_proof(site: Site) -> None:
    assert await site.ask("node", "list") == []
    assert (await site.run("task", "list"))[1] == "no tasks\n"
    async with site.machine() as dialled:
        (node,) = await site.ask("node", "list")
        assert (node["id"], node["connected"], node["ramdisk"], node["methods"]) == (
            "node-1",
            True,
            "r-1",
            [ERASE],
        )
        code, out, _ = await site.run("node", "list")
        assert code == 0
        assert out.splitlines()[2].split()[:4] == ["node-1", "connected", "test", "r-1"]
        assert await site.ask("node", "status", MAC) == {"uptime": 5}
        shown = (await site.run("node", "inventory", "node-1"))[1]
        assert "SER-1" in shown
        assert "\x1b" not in shown

        watching = await site.begin("task", "run", ERASE, "node", "--yes", "--task-id", "t-1", "--watch")
        task_id = (await dialled.agent.command(ERASE))["task_id"]
        await dialled.status(
            task_id, "running", seq=1, percent=25, eta=90, step="overwrite", fields={"bytes_per_second": 5e8}
        )
        assert "running: 25 % overwrite, 500 MB/s, eta 1m 30s" in await line_with(watching.stdout, "25 %")
        await dialled.status(task_id, "complete", seq=2, percent=100, result={"erased": ["SER-1"]})
        out, err = (text.decode() for text in await watching.communicate())
        assert (watching.returncode, err) == (0, "")
        assert out.splitlines()[-1] == "task t-1 on node-1: complete"

    found = await site.ask("task", "show", "t-1")
    assert sorted(found) == ["events", "next", "task"]
    assert (found["task"]["state"], found["task"]["result"]) == ("complete", {"erased": ["SER-1"]})
    assert [one["task_id"] for one in await site.ask("task", "list", "--state", "complete")] == ["t-1"]
    assert "SER-1" in (await site.run("task", "show", "t-1"))[1]


async def test_a_failed_task_is_exit_1_and_a_lost_one_is_exit_3(site: Site) -> None:
    async with site.machine() as dialled:
        order = ("task", "run", ERASE, "node-1", "--yes", "--task-id", "t-1", "--watch", "--json")
        watching = await site.begin(*order)
        await dialled.agent.command(ERASE)
        assert json.loads(await line_with(watching.stdout, "t-1"))["event"] == "task"
        await dialled.status("t-1", "error", seq=1, code="device_failed", msg="SER-1 does not answer")
        out, _ = await watching.communicate()
        lines = [json.loads(line) for line in out.decode().splitlines()]
        assert [line["event"] for line in lines[-2:]] == ["change", "task"]
        assert (watching.returncode, lines[-1]["data"]["code"]) == (1, "device_failed")
        made = await site.ask("task", "run", ERASE, "node-1", "--yes", "--task-id", "t-2")
        assert made["state"] in ("queued", "accepted")
        await dialled.agent.command(ERASE)
    async with site.machine(boot_id="boot-2", key=dialled.agent.key):
        code, out_text, _ = await site.run("task", "watch", "t-2")
        assert code == 3
        assert "look at the machine, then: teeth task settle t-2" in out_text
        assert (await site.ask("node", "show", "node-1"))["held"] is True
        code, why = await site.refused("task", "run", ERASE, "node-1", "--yes")
        assert (code, "t-2" in why) == (2, True)
        settled = await site.ask("task", "settle", "t-2", "--error", "--msg", "looked at it")
        assert (settled["state"], settled["msg"]) == ("error", "looked at it")
        assert (await site.ask("node", "show", "node-1"))["held"] is False


async def test_ctrl_c_stops_the_watching_only(site: Site) -> None:
    async with site.machine() as dialled:
        watching = await site.begin("task", "run", ERASE, "node-1", "--yes", "--task-id", "t-1", "-w")
        await dialled.agent.command(ERASE)
        await dialled.status("t-1", "running", seq=1, percent=5, step="overwrite")
        await line_with(watching.stdout, "5 %")
        watching.send_signal(signal.SIGINT)
        _, err = await watching.communicate()
        assert watching.returncode == 130
        assert err.decode() == "teeth: watching stopped; task t-1 goes on: teeth task watch t-1\n"
        assert (await site.ask("task", "show", "t-1"))["task"]["state"] == "running"
        cancelled = await site.run("task", "cancel", "t-1")
        assert "asked to stop at its next safe point" in cancelled[1]
        assert (await dialled.agent.command("cancel_task"))["task_id"] == "t-1"


async def test_a_watch_outlives_its_endpoint(site: Site) -> None:
    async with site.machine() as dialled:
        watching = await site.begin("task", "run", ERASE, "node-1", "--yes", "--task-id", "t-1", "-w")
        await dialled.agent.command(ERASE)
        await dialled.status("t-1", "running", seq=1, percent=5, step="overwrite")
        await line_with(watching.stdout, "5 %")
        await site.stop(signal.SIGKILL)
        await line_with(watching.stderr, "lost the endpoint")
    agent = dialled.agent
    agent.tasks = [{"task_id": "t-1", "method": ERASE, "state": "running"}]
    await site.start()
    port = int(site.told["agents"].rpartition(":")[2])
    async with agent.session(port, site.data / "ca.crt") as again:
        await again.status("t-1", "complete", seq=2, percent=100, result={})
        out, _ = await watching.communicate()
    assert watching.returncode == 0
    assert out.decode().splitlines()[-1] == "task t-1 on node-1: complete"


async def test_a_followed_log_is_a_json_line_each(site: Site) -> None:
    async with site.machine() as dialled:
        said = {"level": "warning", "time": 1.0, "logger": "t", "event": "bad \x1b[2J", "token": SECRET}
        await dialled.peer.call("log", said)
        code, out, _ = await site.run("node", "log", "node-1")
        assert (code, "warning t: bad \\x1b[2J" in out, SECRET in out) == (0, True, False)
        following = await site.begin("node", "log", "node-1", "--follow", "--json", "-n", "1")
        assert "bad" in await line_with(following.stdout, "bad")
        await dialled.peer.call("log", {**said, "event": "later"})
        line = json.loads(await line_with(following.stdout, "later"))
        assert (line["record"]["event"], line["record"]["token"]) == ("later", "[redacted]")
        following.send_signal(signal.SIGINT)
        await following.communicate()
        assert following.returncode == 130


async def test_wrong_input_is_one_line_that_says_what_to_do(site: Site, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{\n "a" 1}')
    async with site.machine():
        for words, code, said in (
            (("task", "run", ERASE, "node-1"), 2, "needs --yes"),
            (("task", "run", "decom.disk_ersae", "node-1", "--yes"), 2, f"it serves {ERASE}"),
            (("task", "run", ERASE, "nod-1", "--yes"), 2, "near to it: node-1"),
            (("task", "run", ERASE, "node-1", "--yes", "--params", str(bad)), 2, "line 2 column 6"),
            (("task", "run", ERASE, "node-1", "--yes", "--image", "i"), 2, "image is for"),
            (("task", "run", ERASE, "node-1", "--task-id", "a b"), 2, "is not a task id"),
            (("task", "show", "t-none"), 2, "there is no task"),
            (("task", "settle", "t-none", "--msg", "x"), 2, "--complete or --error"),
            (("node", "show", "a/b"), 2, "is no node's name"),
            (("node", "forget", "node-1"), 2, "needs --yes"),
            (("grant", "create"), 2, "--any"),
            (("grant", "create", "52:54"), 2, "not a MAC address"),
            (("grant", "withdraw", "zz"), 2, "is no grant"),
            (("--data", str(tmp_path / "none"), "node", "list"), 4, "teeth endpoint run --data"),
        ):
            assert (said in (answer := await site.refused(*words))[1], answer[0]) == (True, code), answer
    token = tmp_path / "token"
    token.write_text("x" * 43)
    assert (await site.refused("node", "list", TEETH_TOKEN_FILE=str(token)))[0] == 4
    with contextlib.closing(listening_socket("127.0.0.1", 0, "test")) as free:
        port = free.getsockname()[1]
    code, said = await site.refused("node", "list", TEETH_API=f"http://127.0.0.1:{port}")
    assert (code, f"no endpoint answers at http://127.0.0.1:{port}" in said) == (4, True)


async def test_a_person_is_asked_with_the_drives_by_name(site: Site) -> None:
    async with site.machine():
        for answer, asked in ((b"n\n", False), (b"y\n", True)):
            controller, terminal = pty.openpty()
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "teeth", "task", "run", ERASE, "node-1", env=site.environ,
                    stdin=terminal, stderr=terminal, stdout=asyncio.subprocess.PIPE,
                )  # fmt: skip
                os.close(terminal)
                shown = await asyncio.to_thread(read_until, controller, b"[y/N]")
                assert "SER-1  4.0 TB" in shown
                assert "loop0" not in shown
                assert f"({MAC})" in shown
                os.write(controller, answer)
                await process.communicate()
                assert process.returncode == (0 if asked else 2)
            finally:
                os.close(controller)
            assert len(await site.ask("task", "list")) == asked


def read_until(descriptor: int, words: bytes) -> str:
    shown = b""
    while words not in shown and (data := os.read(descriptor, 4096)):
        shown += data
    return shown.decode()


async def test_secrets_stay_where_they_belong(site: Site, tmp_path: Path) -> None:
    token = (site.data / "operator.token").read_text().strip()
    grant = await site.ask("grant", "create", "52:54:00:00:00:99", "--reveal")
    assert grant["token"] in grant["kernel_command_line"]
    shown = [(await site.run("grant", "list", *form))[1] for form in ((), ("--json",))]
    shown.append((await site.run("grant", "create", "52:54:00:00:00:98"))[1])
    async with site.machine():
        pass
    await site.stop()
    shown.append((tmp_path / "endpoint.log").read_text())
    for secret in (token, grant["token"]):
        assert [text for text in shown if secret in text] == []
    assert not (site.data / "operator.json").exists()
