"""``teeth protocol check`` as a user runs it: tables, JSON, exit codes, and one line for what cannot be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.plain_agent import PlanningDisk, real_agent
from fakes.plain_endpoint import plain_endpoint
from fakes.tls_endpoint import listening, make_authority
from fakes.wrong_wire import Fault, relay, when
from teeth.cli import main

pytestmark = pytest.mark.slow


class Ran:
    """One run of the command: its exit status and what it printed."""

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code, self.output, self.errors = code, output, errors

    def rows(self) -> dict[str, str]:
        """The table: transcript -> outcome."""
        words = [line.split() for line in self.output.splitlines()]
        return {row[1]: row[0] for row in words if row and row[0] in ("pass", "fail", "skip")}


async def teeth(*arguments: str) -> Ran:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "teeth", "protocol", "check", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(120):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, output.decode(), errors.decode())


def here(*arguments: str, capsys: pytest.CaptureFixture[str]) -> Ran:
    with pytest.raises(SystemExit) as ended:
        main(["protocol", "check", *arguments])
    output, errors = capsys.readouterr()
    return Ran(int(ended.value.code or 0), output, errors)


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port at which nobody listens: it is bound, and stays so."""
    with contextlib.closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


async def test_an_endpoint_that_conforms(tmp_path: Path) -> None:
    async with plain_endpoint(tmp_path / "data") as (port, _):
        ran = await teeth("--endpoint", f"127.0.0.1:{port}", "--only", "seed-*")
    assert (ran.code, ran.errors) == (0, "")
    assert ran.rows()["seed-ping-echo"] == "pass"
    assert ran.rows()["seed-task-life"] == "skip"
    row = next(line for line in ran.output.splitlines() if " seed-log " in line)
    assert (
        row.split("required")[1].strip() == '"log: (Agent->Server) Log a structured message from the Agent."'
    )
    assert "skipped: nobody can make the endpoint ask (--ask)" in ran.output
    assert ran.output.splitlines()[-1].endswith("0 failed, 4 skipped: conforms")


async def test_an_endpoint_that_does_not_is_shown_with_line_and_difference(tmp_path: Path) -> None:
    fault = Fault(said=when(lambda m: m.get("id") == "p1", lambda m: {**m, "result": {"x": [1]}}))
    async with plain_endpoint(tmp_path / "data") as (port, _), relay(port, fault) as wrong:
        arguments = ("--endpoint", f"127.0.0.1:{wrong}", "--only", "seed-ping-echo", "--only", "seed-log")
        ran, told = await asyncio.gather(teeth(*arguments), teeth(*arguments, "--json"))
    assert (ran.code, ran.errors) == (1, "")
    assert ran.rows() == {"seed-log": "pass", "seed-ping-echo": "fail"}
    assert "FAIL seed-ping-echo: A ping comes back as it went" in ran.output
    assert 'seed-ping-echo.txt:8: < {"id": "p1", "result": EXACT {"x": [1, null, "é"]' in ran.output
    assert ".result.x: expected 3 items, came [1]" in ran.output
    assert ".result.y: expected an object, came nothing" in ran.output
    assert '> {"version": "v1", "id": "p1", "method": "ping"' in ran.output
    assert ran.output.splitlines()[-1] == "1 passed, 1 failed, 0 skipped: does not conform"
    report: dict[str, Any] = json.loads(told.output)
    assert told.code == 1
    assert (report["conforms"], report["passed"], report["failed"], report["skipped"]) == (False, 1, 1, 0)
    failed = next(one for one in report["transcripts"] if one["status"] == "fail")
    assert (failed["name"], failed["level"], failed["line"]) == ("seed-ping-echo", "required", 8)
    assert failed["seed"] == "ping: (All) Params are echo'ed back as results."
    assert failed["message"] == "the answer is another one"


async def test_what_is_optional_may_fail(tmp_path: Path) -> None:
    fault = Fault(said=when(lambda m: m.get("id") == "e1", lambda m: {**m, "result": {}}))
    async with plain_endpoint(tmp_path / "data") as (port, _), relay(port, fault) as wrong:
        ran = await teeth("--endpoint", f"127.0.0.1:{wrong}", "--only", "enroll-time")
    assert ran.code == 0
    assert ran.output.splitlines()[-1] == "0 passed, 1 failed (1 of them optional), 0 skipped: conforms"


async def test_an_endpoint_is_made_to_ask_by_a_command(tmp_path: Path) -> None:
    """--ask runs it with node, method, task and params; here it tells them to the test, which obeys."""
    script = tmp_path / "order.py"
    script.write_text(
        "import json, socket, sys\n"
        "port, node, method, task, file = sys.argv[1:]\n"
        "with socket.create_connection(('127.0.0.1', int(port))) as sock, open(file) as params:\n"
        "    sock.sendall(json.dumps([node, method, task, json.load(params)]).encode())\n"
    )
    async with plain_endpoint(tmp_path / "data") as (port, ask):
        orders: list[list[Any]] = []

        async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            orders.append(json.loads(await reader.read()))
            await asyncio.to_thread(ask, *orders[-1])

        async with listening(obey, None) as door:
            ran = await teeth(
                "--endpoint", f"127.0.0.1:{port}", "--only", "seed-task-error",
                "--ask", f"{sys.executable} {script} {door} {{node}} {{method}} {{task_id}} {{file}}",
            )  # fmt: skip
    assert (ran.code, ran.rows()) == (0, {"seed-task-error": "pass"})
    ((node, method, task_id, params),) = orders
    assert node.startswith("kit-")
    assert (method, params) == ("decom.disk_erase", {"plan": True})
    assert task_id.endswith("seed-task-error")


async def test_a_command_that_fails_to_ask_is_told(tmp_path: Path) -> None:
    async with plain_endpoint(tmp_path / "data") as (port, _):
        ran = await teeth(
            "--endpoint",
            f"127.0.0.1:{port}",
            "--only",
            "seed-task-error",
            "--ask",
            "false",
        )
    assert ran.code == 1
    assert "the endpoint could not be asked: false ended with 1" in ran.output


async def test_an_agent_that_dials() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "teeth", "protocol", "check", "--agent", "--listen", "127.0.0.1:0", "--tls",
        "--only", "seed-*", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(120):
        said = (await process.stderr.readline()).decode().split()
        told = dict(word.split("=", 1) for word in said[1:])
        assert said[0] == "listening"
        port = int(told["agent"].rpartition(":")[2])
        async with real_agent(port, digest=told["ca"], disk=PlanningDisk()):
            output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert output.decode().splitlines()[-1].endswith("0 failed, 1 skipped: conforms")


def test_list_needs_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, side in ((("--list",), "endpoint"), (("--list", "--agent"), "agent")):
        ran = here(*arguments, capsys=capsys)
        assert ran.code == 0
        assert ran.output.splitlines()[-1].endswith(f"transcripts for an {side}")
        assert int(ran.output.splitlines()[-1].split()[0]) >= 60
        assert "seed-ping-echo" in ran.output
    told = json.loads(here("--list", "--json", "--seed-only", capsys=capsys).output)["transcripts"]
    assert all(one["seed"] and one["why"] for one in told)


REFUSED = {
    "nobody to test": ([], "say whom to test"),
    "both": (["--agent", "--endpoint", "127.0.0.1:1"], "say whom to test"),
    "no port": (["--endpoint", "127.0.0.1"], "--endpoint: '127.0.0.1' is not HOST:PORT"),
    "port 0": (["--endpoint", "127.0.0.1:0"], "is not HOST:PORT"),
    "a port too high": (["--endpoint", "127.0.0.1:70000"], "is not HOST:PORT"),
    "no listen": (["--agent"], "--agent needs --listen"),
    "listen without agent": (["--endpoint", "127.0.0.1:1", "--listen", "127.0.0.1:0"], "goes with --agent"),
    "a listener elsewhere": (["--agent", "--listen", "192.0.2.1:0"], "cannot listen on 192.0.2.1:0"),
    "TLS without an authority": (["--endpoint", "127.0.0.1:1", "--tls"], "--tls needs one of --ca"),
    "an authority without TLS": (["--endpoint", "127.0.0.1:1", "--ca", "x"], "--ca goes with --tls"),
    "a certificate without a key": (["--endpoint", "127.0.0.1:1", "--tls", "--cert", "x"], "go together"),
    "a token for an agent": (
        ["--agent", "--listen", "127.0.0.1:0", "--tls", "--token", "t"],
        "testing endpoints",
    ),
    "no authority there": (["--endpoint", "127.0.0.1:1", "--tls", "--ca", "/nonexistent"], "No such file"),
    "no such transcript": (["--endpoint", "127.0.0.1:1", "--only", "x*"], "no transcript for an endpoint is"),
    "no such folder": (["--endpoint", "127.0.0.1:1", "--transcripts", "/nonexistent"], "no transcripts in"),
    "a broken command": (["--endpoint", "127.0.0.1:1", "--ask", "'x"], "--ask: No closing quotation"),
    "an unknown host": (["--endpoint", "no-such-host.invalid:1"], "nobody listens at no-such-host.invalid:1"),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_tested_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = here(*arguments, capsys=capsys)
    assert ran.code == 2
    assert ran.errors.startswith("teeth: ")
    assert words in ran.errors
    assert ran.errors.count("\n") == 1


def test_nobody_listens(unused_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    ran = here("--endpoint", f"127.0.0.1:{unused_port}", capsys=capsys)
    assert ran.code == 2
    assert ran.errors == f"teeth: nobody listens at 127.0.0.1:{unused_port}: Connection refused\n"


def test_no_agent_comes(capsys: pytest.CaptureFixture[str]) -> None:
    ran = here("--agent", "--listen", "127.0.0.1:0", "--patience", "1", capsys=capsys)
    assert ran.code == 2
    assert "no agent said a handshake" in ran.errors.splitlines()[-1]


def test_a_broken_transcript_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "endpoint").mkdir()
    (tmp_path / "endpoint/mine.txt").write_text("! dance\n")
    ran = here("--endpoint", "127.0.0.1:1", "--transcripts", str(tmp_path), capsys=capsys)
    assert ran.code == 2
    assert "mine.txt:1: there is no action 'dance'" in ran.errors


async def test_tls_where_there_is_none_and_another_authority(tmp_path: Path) -> None:
    one, other = make_authority(tmp_path / "one"), make_authority(tmp_path / "other")

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with plain_endpoint(tmp_path / "data") as (port, _):
        plain = await teeth("--endpoint", f"127.0.0.1:{port}", "--tls", "--ca", str(one.ca_file))
    async with listening(hang_up, one.context()) as port:
        address = f"127.0.0.1:{port}"
        wrong = await teeth("--endpoint", address, "--tls", "--ca", str(other.ca_file))
        digest = await teeth("--endpoint", address, "--tls", "--ca-digest", other.digest)
    for ran, words in (
        (plain, "no TLS with 127.0.0.1"),
        (wrong, "certificate signature failure"),
        (digest, "shows no certificate with the digest sha256:"),
    ):
        assert ran.code == 2
        assert words in ran.errors
        assert ran.errors.startswith("teeth: ")
        assert ran.errors.count("\n") == 1


async def test_a_token_that_opens_nothing_is_one_line(tmp_path: Path) -> None:
    from teeth.service import Endpoint, EndpointConfig

    async with Endpoint(EndpointConfig(data=tmp_path / "data")) as endpoint:
        ran = await teeth(
            "--endpoint", f"127.0.0.1:{endpoint.agent_port}", "--tls", "--ca", str(endpoint.ca_file),
            "--token", "no-such-token",
        )  # fmt: skip
    assert ran.code == 2
    assert ran.errors.startswith("teeth: the endpoint did not enrol us: ")
    assert "no-such-token" not in ran.errors
    assert ran.errors.count("\n") == 1
