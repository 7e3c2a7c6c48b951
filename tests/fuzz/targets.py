"""What is fuzzed: each target takes any bytes and raises only when something is wrong.

``make fuzz`` drives them with atheris; ``test_found.py`` gives them their seeds and what was found before.
"""

from __future__ import annotations

import contextlib
import http.client
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fuzz.reference_json import Refused, read
from protocol.corpus.case import Case, Stage
from protocol.corpus.play import play
from protocol.corpus.table import cases, found_inputs
from teeth_agent import config
from teeth_agent.drives import nvmedata, scsidata
from teeth_agent.drives.ata_identity import parse_identity
from teeth_agent.drives.sense import parse_sense
from teeth_agent.errors import DeviceError
from teeth_agent.image import http as agent_http
from teeth_agent.image.connect import Broken, Line, UrlFailed
from teeth_protocol.connection import Role
from teeth_protocol.strictjson import JsonError, dumps, loads


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """``seeds`` are what the fuzzer begins with; ``most`` is the longest input worth its time, in bytes."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    most: int


# --- JSON


def json_agrees(data: bytes) -> None:
    """The strict reader takes what the slow one takes, and reads it alike."""
    try:
        wanted: Any = read(data)
    except Refused:
        wanted = None
    try:
        value = loads(data)
    except JsonError:
        value = None
    assert repr(value) == repr(wanted), (value, wanted)
    if value is not None:
        assert repr(loads(dumps(value))) == repr(value)


def _json_seeds() -> Iterator[bytes]:
    for case in cases(Role.ENDPOINT):
        if len(case.data) < 1000:
            yield case.data.rstrip(b"\n")


# --- a connection


def connection_of(role: Role) -> Callable[[bytes], None]:
    """The first byte chooses the stage, the second where the rest is cut; all else is said by the peer."""

    def run(data: bytes) -> None:
        if len(data) < 3:
            return
        stage = Stage.AFTER if data[0] & 1 else Stage.BEFORE
        said, step = data[2:], data[1] + 1
        case = Case(name="fuzz", reason="fuzz", reader=role, stage=stage, data=said)
        whole = play(case, [said])
        assert play(case, [said[at : at + step] for at in range(0, len(said), step)]) == whole
        if whole.closed:
            return
        # Nothing that was asked stays without its one answer; pings alone may use an id again.
        answered = [identity for identity, _ in whole.answers]
        assert all(answered.count(identity) >= 1 for identity, _, _ in whole.delivered)

    return run


def _wire_seeds(role: Role) -> Callable[[], Iterator[bytes]]:
    def seeds() -> Iterator[bytes]:
        for case in cases(role):
            if len(case.data) < 1000:
                yield bytes([case.stage is Stage.AFTER, 255]) + case.data

    return seeds


# --- the answers of image servers


class _Said:
    """A socket on which everything was said already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object, **__: object) -> io.BytesIO:
        return io.BytesIO(self._data)

    def sendall(self, *_: object) -> None: ...

    def close(self) -> None: ...


class _Server(http.client.HTTPConnection):
    def __init__(self, data: bytes) -> None:
        super().__init__("h")
        self._said = data

    def connect(self) -> None:
        self.sock = _Said(self._said)  # type: ignore[assignment]


def http_head(data: bytes) -> None:
    """The first byte chooses what was asked for, the rest is the server's answer."""
    if not data:
        return
    offset, size = (0, 100) if data[0] & 1 else (10, 100)
    buffer = memoryview(bytearray(64))
    ask = agent_http.Ask(url="http://h/x?y", offset=offset, size=size)
    with contextlib.suppress(Broken, UrlFailed):
        response = agent_http._request(Line(connection=_Server(data[1:]), target="/x?y", headers={}), ask)
        if response.status in (301, 302, 303, 307, 308):
            url = agent_http._redirected("http://h/x", response.getheader("Location"))
            agent_http.redact(url)
            return
        body = agent_http._judge(response, ask)
        assert body.start in (0, offset)
        total = 0
        while count := body.read_into(buffer):
            assert 0 < count <= len(buffer)
            total += count
            assert total <= len(data)


def _http_seeds() -> Iterator[bytes]:
    for head in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100,
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 10-99/100\r\nContent-Length: 90\r\n\r\n"
        + b"x" * 90,
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes */100\r\n\r\n",
        b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */50\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1]:8080/y\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nLocation: //[\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nRetry-After: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
        b"HTTP/1.0 200\r\n\r\n",
        b"HTTP/0.9\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"SSH-2.0-x\r\n",
    ):
        yield b"\x00" + head
        yield b"\x01" + head


# --- the kernel command line


def cmdline(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    words = config.parse_cmdline(text)
    assert all("=" not in name and '"' not in name for name in words)
    for value in words.values():
        for part in value.split(","):
            with contextlib.suppress(config.ConfigError):
                host, port = config.parse_endpoint(part)
                assert host
                assert 0 < port < 65536
        mac = config._boot_mac(value)
        assert mac == "" or len(mac) == 17


def _cmdline_seeds() -> Iterator[bytes]:
    yield b"console=tty0 teeth.endpoint=192.0.2.1:8443,[2001:db8::1]:8443 teeth.ca=sha256:" + b"0" * 64
    yield b'BOOTIF=01-52-54-00-aa-bb-cc teeth.token=abc quiet "a b=c d" x="y z" =v novalue'
    yield b'teeth.endpoint=a..b:1 "unended'
    yield b"teeth.endpoint=[::1%eth0]:70000,h:0,:1"
    yield b"\xff\x00 a=\xc3\xa9"


# --- what drives answer

_ANSWERS: tuple[Callable[[bytes], object], ...] = (
    parse_identity,
    nvmedata.parse_controller,
    lambda data: nvmedata.parse_namespace(1, data),
    nvmedata.parse_list,
    nvmedata.parse_sanitize_log,
    nvmedata.parse_firmware_log,
    scsidata.parse_inquiry,
    lambda data: scsidata.parse_designators(scsidata.page_body(0x83, data)),
    scsidata.parse_block_limits,
    scsidata.parse_characteristics,
    scsidata.parse_provisioning,
    scsidata.parse_capacity,
    scsidata.parse_support,
    scsidata.parse_keys,
    lambda data: scsidata.parse_defects(data, long=True),
    lambda data: scsidata.parse_defects(data, long=False),
    lambda data: scsidata.parse_write_protected(data, long=False),
)


def drives(data: bytes) -> None:
    """Every reader of a drive's answer reads any bytes, or says in its own words that it cannot."""
    for reader in _ANSWERS:
        with contextlib.suppress(DeviceError):
            reader(data)
    assert isinstance(parse_sense(data).readable, bool)


def _drives_seeds() -> Iterator[bytes]:
    yield bytes(512)
    words = bytearray(512)
    words[0:2], words[164:168] = b"\x40\x00", b"\x02\x04\x00\x4c"
    words[510] = 0xA5
    words[511] = -sum(words) & 0xFF
    yield bytes(words)
    yield b"\x00\x83\x00\x0c\x01\x03\x00\x08\x50\x00\xc5\x00\xa1\xb2\xc3\xd4"
    yield bytes.fromhex("70000200000000180000000004 1b00808000".replace(" ", "")) + bytes(14)
    yield bytes.fromhex("720200000000000e090c00000000000000000000004050")
    yield bytes(8) + (4096).to_bytes(4, "big") + bytes(20)
    yield bytes(4096)
    yield b"\xff" * 4096


TARGETS = {
    target.name: target
    for target in (
        Target(name="json", run=json_agrees, seeds=_json_seeds, most=512),
        Target(
            name="endpoint", run=connection_of(Role.ENDPOINT), seeds=_wire_seeds(Role.ENDPOINT), most=1024
        ),
        Target(name="agent", run=connection_of(Role.AGENT), seeds=_wire_seeds(Role.AGENT), most=1024),
        Target(name="http", run=http_head, seeds=_http_seeds, most=1024),
        Target(name="cmdline", run=cmdline, seeds=_cmdline_seeds, most=2048),
        Target(name="drives", run=drives, seeds=_drives_seeds, most=8192),
    )
}


def inputs(target: Target) -> Iterator[bytes]:
    """The target's seeds and everything that was found with it."""
    yield from target.seeds()
    yield from found_inputs(target.name).values()
