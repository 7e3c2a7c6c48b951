"""What the agent sends is what the equivalent command line makes sg3-utils send, and both read the same."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from fakes.ata_port import RigPort
from fakes.drive_rig import Rig
from fakes.sgio_bridge import bench, build_shim
from teeth.lab.drives.answer import Answer, Command
from teeth_agent.drives.scsi import Action, ScsiCommand, ScsiDrive, format_command, sanitize_command

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool, path="/usr/sbin:/usr/bin") is None for tool in ("sg_sanitize", "cc")),
    reason="needs sg3-utils and a C compiler",
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = build_shim(tmp_path_factory.mktemp("shim"))
    assert found is not None
    return found


def listen(rig: Rig) -> list[tuple[bytes, bytes]]:
    """From now on: every command that arrives at the drive, with its data."""
    seen: list[tuple[bytes, bytes]] = []
    carry_out = rig.drive.execute

    def execute(command: Command) -> Answer:
        seen.append((command.cdb, command.data))
        return carry_out(command)

    rig.drive.execute = execute  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize(
    "command",
    [
        sanitize_command(Action.BLOCK, device="DEVICE"),
        sanitize_command(Action.BLOCK, exit_allowed=True, device="DEVICE"),
        sanitize_command(Action.CRYPTO, device="DEVICE"),
        sanitize_command(Action.OVERWRITE, exit_allowed=True, device="DEVICE"),
        format_command(0, device="DEVICE"),
    ],
    ids=str,
)
def test_the_equivalent_line_sends_the_same(library: Path, tmp_path: Path, command: ScsiCommand) -> None:
    rig = Rig("scsi", erase_seconds=0)
    seen = listen(rig)
    with bench(rig.drive, library, tmp_path) as tools:
        tools.run(*shlex.split(command.equivalent))
    sent = [(cdb[: len(command.cdb)], data) for cdb, data in seen if cdb[0] == command.cdb[0]]
    assert sent == [(command.cdb, command.send)]


def test_leaving_the_failure_mode_is_the_same(library: Path, tmp_path: Path) -> None:
    rig = Rig("scsi", erase_seconds=0)
    rig.lie("sanitize-fails:50")
    ScsiDrive(RigPort(rig)).sanitize(Action.BLOCK, exit_allowed=True)
    seen = listen(rig)
    command = sanitize_command(Action.EXIT_FAILURE, device="DEVICE")
    with bench(rig.drive, library, tmp_path) as tools:
        tools.run(*shlex.split(command.equivalent))
    assert (command.cdb, command.send) in [(cdb[:10], data) for cdb, data in seen]


def test_both_read_the_same(library: Path, tmp_path: Path) -> None:
    rig = Rig("scsi", vendor="HGST", product="HUH721212AL4200", revision="A384", sector=4096)
    drive = ScsiDrive(RigPort(rig))
    with bench(rig.drive, library, tmp_path) as tools:
        said = tools.run("sg_inq", "DEVICE")
        inquiry = drive.inquiry()
        for word in (inquiry.vendor, inquiry.product, inquiry.revision, drive.serial()):
            assert word
            assert word in said
        said = tools.run("sg_readcap", "--16", "DEVICE")
        assert f"Number of logical blocks={drive.capacity().blocks}" in said
        assert f"Logical block length={drive.capacity().block_size} bytes" in said
        said = tools.run("sg_vpd", "--page=di", "DEVICE")
        assert drive.designators()[0].name in said
        said = tools.run("sg_opcodes", "--opcode=0x48,2", "DEVICE")
        assert "supported" in said
        assert drive.supports(0x48, 2)
        listed = set(re.findall(r"^\s+0x([0-9a-f]{2}) ", tools.run("sg_vpd", "DEVICE"), re.MULTILINE))
        assert listed <= {f"{page:02x}" for page in drive.pages()}
