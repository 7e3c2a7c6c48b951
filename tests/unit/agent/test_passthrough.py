"""SG_IO as the C library sees it: the port in its own process, its ioctl caught and answered by a drive."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.drive_rig import Rig
from fakes.sgio_bridge import Bench, bench, build_shim
from teeth_agent.drives.sense import parse_sense
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough.scsi import open_scsi

_PROGRAM = """
import json, sys
from teeth_agent.passthrough.scsi import open_scsi
device, *commands = sys.argv[1:]
replies = []
with open_scsi(device) as port:
    for command in commands:
        cdb, send, receive = command.split(":")
        reply = port.command(bytes.fromhex(cdb), send=bytes.fromhex(send), receive=int(receive))
        replies.append([reply.status, reply.sense.hex(), reply.data.hex(), reply.transport])
print(json.dumps(replies))
"""


@pytest.fixture
def rig() -> Rig:
    return Rig("scsi", descriptor_sense=True)


@pytest.fixture
def tools(rig: Rig, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    library = build_shim(tmp_path_factory.mktemp("shim"))
    if library is None:
        pytest.skip("there is no C compiler")
    with bench(rig.drive, library, tmp_path) as made:
        yield made


def ask(tools: Bench, *commands: str) -> list[tuple[int, bytes, bytes, int]]:
    argv = [sys.executable, "-W", "error", "-c", _PROGRAM, str(tools.device), *commands]
    done = subprocess.run(
        argv, env=tools.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return [
        (status, bytes.fromhex(sense), bytes.fromhex(data), transport)
        for status, sense, data, transport in json.loads(done.stdout)
    ]


def test_commands_go_out_and_replies_come_back_whole(rig: Rig, tools: Bench) -> None:
    block = bytes(range(256)) * 2
    write = f"2a000000000500000100:{block.hex()}:0"
    inquiry, _, written, read, beyond = ask(
        tools, "120000002400::36", "000000000000::0", write, "28000000000500000100::512",
        "28007fffffff00000100::512",
    )  # fmt: skip
    assert inquiry[0] == 0
    assert inquiry[2][8:13] == b"TEETH"
    assert len(inquiry[2]) == 36
    assert written[0] == 0
    assert rig.media.read(5 * 512, 512) == block
    assert read[2] == block
    assert beyond[0] == 2
    assert beyond[2] == b""
    assert parse_sense(beyond[1]).codes == (5, 0x21, 0)
    assert {reply[3] for reply in (inquiry, written, read, beyond)} == {0}


def test_less_than_was_asked_for_is_not_filled_up(tools: Bench) -> None:
    ((status, _, data, _),) = ask(tools, "12000000ff00::255")
    assert status == 0
    assert 36 <= len(data) < 255


def test_a_node_that_is_not_there() -> None:
    with (
        pytest.raises(DeviceError, match="/dev/teeth-none is not there") as caught,
        open_scsi("/dev/teeth-none"),
    ):
        pass
    assert caught.value.code == "device_missing"


def test_a_node_that_takes_no_commands(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.touch()
    with (
        open_scsi(str(path)) as port,
        pytest.raises(DeviceError, match="does not take SCSI commands") as caught,
    ):
        port.command(bytes(6))
    assert caught.value.code == "passthrough_failed"
    assert "\n" not in str(caught.value)


def test_what_no_device_takes_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.touch()
    with open_scsi(str(path)) as port:
        for parts in (
            {"cdb": bytes(5)},
            {"cdb": bytes(33)},
            {"cdb": bytes(6), "receive": (1 << 20) + 1},
            {"cdb": bytes(6), "send": b"x", "receive": 1},
        ):
            with pytest.raises(AssertionError):
                port.command(**parts)  # type: ignore[arg-type]
