"""The pieces of the operator's commands that decide something by themselves."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from teeth.api.client import Event, find_door, read_events
from teeth.api.credentials import DOOR_FILE, TOKEN_FILE, listeners
from teeth.cli.follow import LiveView, PlainView, details, outcome, verdict
from teeth.cli.params import read_params
from teeth.cli.show import clean, size, span
from teeth.cli.task import turns
from teeth.endpoint.httpserver import listening_socket
from teeth.errors import TeethError, UsageError

TOKEN = "x" * 43
EVENT: dict[str, Any] = {
    "id": 1, "task_id": "t-1", "at": 1.0, "state": "running", "percent": 40.0, "eta": None,
    "step": "over_write", "phase": "", "code": "", "msg": "", "fields": {},
}  # fmt: skip
TASK: dict[str, Any] = {
    "task_id": "t-1", "node": "node-1", "method": "decom.disk_erase", "state": "running", "held": False,
    "percent": 0.0, "code": "", "msg": "",
}  # fmt: skip


# --- params


def test_params_from_a_file_and_from_the_line(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{\n  "a": 1,\n  "b": {"c": [1, "x"]}\n}\n')
    assert read_params(str(file), ["a=2", 'd="text"', 'e={"f":null}', "g==".replace("==", "=true")]) == {
        "a": 2, "b": {"c": [1, "x"]}, "d": "text", "e": {"f": None}, "g": True,
    }  # fmt: skip
    assert read_params(None, []) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n "a": 1,\n "b" 2}', "line 3 column 6"),
        ("[1]", "not a JSON object"),
        ('{"a":1,"a":2}', "twice"),
        ("", "not a JSON object"),
        ('{"a":' + "[" * 50 + "]" * 50 + "}", "nested deeper"),
        ("x" * (2 << 20), "longer than"),
    ],
)
def test_a_wrong_file_says_where(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "p.json"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_params(str(file), [])
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("a", "is not NAME=JSON"), ("=1", "is not NAME=JSON"), ("a=text", """--param a='"text"'"""),
        ("a=", "is not JSON"), ('a=1,"b":2', "is not JSON"), ('a=1}{"x":2', "is not JSON"),
        ("a=NaN", "is not JSON"),
    ],
)  # fmt: skip
def test_a_wrong_param_says_how_it_is_written(pair: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_params(None, [pair])
    assert words in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_params(str(tmp_path / "none"), [])


# --- finding the door


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / TOKEN_FILE).write_text(f"{TOKEN}\n")
    (tmp_path / DOOR_FILE).write_text(json.dumps({"url": "http://127.0.0.1:5"}))
    return tmp_path


def test_the_door_of_a_data_folder(data: Path) -> None:
    door = find_door(data, {})
    assert (door.url, door.token) == ("http://127.0.0.1:5", TOKEN)
    assert TOKEN not in repr(door)


def test_the_environment_counts_more(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("y" * 43)
    environ = {"TEETH_API": "http://localhost:6/", "TEETH_TOKEN_FILE": str(other)}
    assert find_door(data, environ) == find_door(None, environ)
    assert find_door(data, environ).url == "http://localhost:6"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"TEETH_API": "http://192.0.2.1:8"}, "in clear"),
        ({"TEETH_API": "http://evil.example"}, "in clear"),
        ({"TEETH_API": "ftp://127.0.0.1"}, "no address"),
        ({"TEETH_API": "127.0.0.1:80"}, "no address"),
        ({"TEETH_TOKEN_FILE": "/nonexistent"}, "no token in"),
    ],
)
def test_an_address_that_cannot_be_is_refused(data: Path, environ: dict[str, str], words: str) -> None:
    with pytest.raises(TeethError, match=words):
        find_door(data, environ)


PROC = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   1: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   2: 0100007F:1F92 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 1 1 0 100 0 0 10 0
   3: 020200C0:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1002        0 1 1 0 100 0 0 10 0
"""


def test_the_listeners_of_a_port(tmp_path: Path) -> None:
    (tmp_path / "tcp").write_text(PROC)
    assert [listeners(port, tmp_path) for port in (8080, 8081, 8082, 8083)] == [{1000}, {0}, set(), set()]
    six = PROC.replace(" 0100007F:1F90", " 00000000000000000000000001000000:1F90").replace("1000  ", "1003  ")
    (tmp_path / "tcp6").write_text(six)
    assert listeners(8080, tmp_path) == {1000, 1003}


def test_this_process_is_among_the_listeners_of_its_port() -> None:
    with contextlib.closing(listening_socket("127.0.0.1", 0, "test")) as sock:
        assert listeners(sock.getsockname()[1]) == {os.getuid()}


def test_the_token_is_not_sent_to_another_users_program(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teeth.api.client.listeners", lambda port: {os.getuid() + 1} if port == 5 else set())
    with pytest.raises(TeethError, match="another user's program"):
        find_door(data, {})
    assert find_door(data, {"TEETH_API": "http://127.0.0.1:5"}).url == "http://127.0.0.1:5"


def test_without_a_folder_it_says_how_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="TEETH_DATA"):
        find_door(None, {})
    with pytest.raises(TeethError, match="no endpoint is running") as caught:
        find_door(tmp_path, {})
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("text", ["", "{}", "[]", "{"])
def test_a_broken_address_file_is_one_line(data: Path, text: str) -> None:
    (data / DOOR_FILE).write_text(text)
    with pytest.raises(TeethError, match="does not say where"):
        find_door(data, {})


# --- the stream


def test_events_are_read_and_comments_passed_over() -> None:
    def lines() -> Iterator[str]:
        yield from (
            ": heartbeat",
            "",
            "id: 7",
            "event: change",
            'data: {"a":1}',
            "",
            "retry: 3",
            "data: {}",
            "",
        )
        yield from ("event: cut", "data: {}")  # the connection broke before its blank line

    assert list(read_events(lines())) == [
        Event(name="change", data={"a": 1}, id="7"),
        Event(name="message", data={}, id=""),
    ]


# --- how a watch ends and looks


@pytest.mark.parametrize(
    ("state", "code", "status"),
    [
        ("complete", "", 0), ("error", "device_failed", 1), ("unknown", "agent_restarted", 3),
        ("unknown", "silence", 3), ("unknown", "waiting", None), ("running", "", None), ("queued", "", None),
        ("leaving", "", None),
    ],
)  # fmt: skip
def test_the_exit_status_is_the_tasks(state: str, code: str, status: int | None) -> None:
    assert verdict({**TASK, "state": state, "code": code}) == status


def test_the_last_line_says_what_to_do_about_an_unknown_task() -> None:
    said = outcome({**TASK, "state": "unknown", "code": "silence", "msg": "not heard of"}).plain
    assert said == (
        "task t-1 on node-1: unknown silence: not heard of; look at the machine, then: teeth task settle t-1"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "over write, eta -"),
        ({"eta": 125.0}, "over write, eta 2m 05s"),
        (
            {"fields": {"bytes_per_second": 87.2e6, "bytes_done": 1e9, "bytes_total": 2e12}, "eta": 3600},
            "over write, 87.2 MB/s, 1.0 GB of 2.0 TB, eta 1h 00m",
        ),
        ({"fields": {"bytes_per_second": "fast", "bytes_done": None}}, "over write, eta -"),
        ({"state": "error", "code": "x_y", "msg": "bad"}, "over write, x_y: bad"),
        ({"step": "\x1b[2J"}, "\\x1b[2J, eta -"),
    ],
)
def test_what_is_being_done(changes: dict[str, Any], words: str) -> None:
    assert details({**EVENT, **changes}) == words


def test_a_pipe_gets_a_line_for_what_is_new() -> None:
    out = io.StringIO()
    view = PlainView(Console(file=out, width=100))
    for percent in range(0, 30):
        view.moved({**EVENT, "percent": float(percent)})
    view.moved({**EVENT, "percent": 29.0, "step": "verify"})
    view.moved({**EVENT, "percent": 29.0, "step": "verify", "state": "error"})
    assert [line.split(",")[0] for line in out.getvalue().splitlines()] == [
        "running: 0 % over write", "running: 10 % over write", "running: 20 % over write",
        "running: 29 % verify", "error: 29 % verify",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_gets_a_bar_for_the_task_and_for_each_drive(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, record=True)
    view = LiveView(console)
    view.whole(TASK)
    for number in range(20):
        view.moved({**EVENT, "fields": {"unit": f"S{number}[red]\x1b", "unit_percent": 5.0 * number}})
    console.print(view.screen())
    lines = console.export_text().splitlines()
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert "40.0 %" in text
    assert "\x1b" not in text
    if width >= 80:
        assert "decom.disk_erase on node-1  t-1" in text
        assert "S19[red]\\x1b" in text
        assert "S0[red]" not in text  # only so many bars, the newest


def test_a_history_shows_its_turns() -> None:
    events = [{**EVENT, "id": n, "percent": float(n)} for n in range(50)]
    events.insert(25, {**EVENT, "id": 99, "step": "verify"})
    assert [event["id"] for event in turns(events)] == [0, 99, 25, 49]
    assert turns([]) == []


# --- words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (60, "1m 00s"),
        (3599, "59m 59s"),
        (7620, "2h 07m"),
        (442800, "5d 03h"),
        (-5, "0s"),
    ],
)  # fmt: skip
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1.92e12, "1.9 TB"), (5e15, "5000 TB")]
)
def test_sizes(count: float, words: str) -> None:
    assert size(count) == words


def test_a_machines_text_does_not_command_the_terminal() -> None:
    assert clean("a\x1b]0;x\x07\nb\u202ec\x9b") == "a\\x1b]0;x\\x07\\x0ab\\x202ec\\x9b"
    assert clean("Größe 容量") == "Größe 容量"
