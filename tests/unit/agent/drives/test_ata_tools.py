"""The agent's ATA side against hdparm and smartctl on the same drive: what is read, and what is sent."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fakes.ata_port import RigPort
from fakes.drive_rig import Rig
from fakes.sgio_bridge import Bench, bench, build_shim
from teeth.lab.drives.answer import Answer, Command
from teeth.lab.drives.model import Medium, Method
from teeth.lab.drives.taskfile import Taskfile, from_cdb
from teeth_agent.drives import ata_commands as ours
from teeth_agent.drives.ata import AtaDrive
from teeth_agent.drives.ata_commands import AtaCommand, Who

Start = Callable[..., tuple[Rig, Bench, AtaDrive]]
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
DRIVES: dict[str, dict[str, Any]] = {
    "ssd": {},
    "frozen": {"frozen": True},
    "locked": {"password": "x"},
    "disk": {"medium": Medium.HDD, "sanitizes": frozenset({Method.SANITIZE_OVERWRITE}), "unmap": False,
             "hidden": 192, "sector": 4096},
    "old": {"sanitizes": frozenset[Method](), "unmap": False, "security": False, "physical": 4096},
    "ama": {"hidden": 100, "hidden_by": "ama"},
    "slow": {"erase_seconds": 600.0},
}  # fmt: skip
each_drive = pytest.mark.parametrize("kind", DRIVES)


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool, path=PATH) is None, reason=f"{tool} is not installed")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = build_shim(tmp_path_factory.mktemp("shim"))
    if library is None:
        pytest.skip("there is no C compiler")
    return library


@pytest.fixture
def start(shim: Path, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def make(**spec: Any) -> tuple[Rig, Bench, AtaDrive]:
            rig = Rig("sata", **{"descriptor_sense": True, "erase_seconds": 0.2} | spec)
            drive = AtaDrive(RigPort(rig), name="DEVICE", transport="sata")
            rig.drive = type(rig.drive)(rig.spec, rig.media, clock=time.monotonic)
            return rig, stack.enter_context(bench(rig.drive, shim, tmp_path)), drive

        yield make


@needs("hdparm")
@each_drive
def test_identity_is_what_hdparm_prints(start: Start, kind: str) -> None:
    _, tools, drive = start(**DRIVES[kind])
    said = tools.run("hdparm", "-I", "DEVICE")
    identity = drive.identify()
    security, sanitize = identity.security, identity.sanitize
    assert re.search(r"Model Number:\s+(.+?)\s*$", said, re.M)[1] == identity.model  # type: ignore[index]
    assert re.search(r"Serial Number:\s+(\S+)", said)[1] == identity.serial  # type: ignore[index]
    assert re.search(r"Firmware Revision:\s+(\S+)", said)[1] == identity.firmware  # type: ignore[index]
    assert re.search(r"LBA48  user addressable sectors:\s+(\d+)", said)[1] == f"{identity.sectors}"  # type: ignore[index]
    assert re.search(r"Logical +Sector size:\s+(\d+)|Logical/Physical Sector size:\s+(\d+)", said)
    assert f"{identity.logical_sector} bytes" in said
    assert (identity.wwn or "").removeprefix("0x") in said
    assert ("Solid State Device" in said) is identity.solid_state
    section = said.partition("Security: \n")[2]
    for word, state in (
        ("enabled", security.enabled), ("locked", security.locked), ("frozen", security.frozen),
    ):  # fmt: skip
        if security.supported:
            assert bool(re.search(rf"^\t\t?{word}$", section, re.M)) is state, word
    assert ("supported: enhanced erase" in section) is security.enhanced
    assert ("SANITIZE feature set" in said) is sanitize.supported
    assert ("CRYPTO_SCRAMBLE_EXT" in said) is sanitize.crypto
    assert ("BLOCK_ERASE_EXT" in said) is sanitize.block
    assert ("OVERWRITE_EXT" in said) is sanitize.overwrite
    assert ("SANITIZE_ANTIFREEZE_LOCK_EXT" in said) is sanitize.antifreeze
    assert ("Host Protected Area feature set" in said) is identity.hpa
    assert ("unknown 119[8]" in said) is identity.ama
    assert ("Device Configuration Overlay feature set" in said) is identity.dco
    assert ("Data Set Management TRIM supported" in said) is identity.trim.supported
    assert ("Deterministic read ZEROs after TRIM" in said) is identity.trim.zeroed
    assert ("Checksum: correct" in said) is identity.checked
    if security.erase_seconds is not None:
        assert f"{security.erase_seconds / 60:.0f}min for SECURITY ERASE UNIT" in said


@needs("smartctl")
@each_drive
def test_identity_is_what_smartctl_says(start: Start, kind: str) -> None:
    _, tools, drive = start(**DRIVES[kind])
    said = json.loads(tools.run("smartctl", "-j", "-i", "-g", "security", "-d", "sat", "DEVICE", status=None))
    identity = drive.identify()
    assert said["model_name"] == identity.model
    assert said["serial_number"] == identity.serial
    assert said["firmware_version"] == identity.firmware
    assert said["user_capacity"] == {"blocks": identity.sectors, "bytes": identity.size}
    assert said["logical_block_size"] == identity.logical_sector
    assert said["physical_block_size"] == identity.physical_sector
    assert said["rotation_rate"] == identity.rotation
    wwn = said["wwn"]
    assert f"0x{wwn['naa']:x}{wwn['oui']:06x}{wwn['id']:09x}" == identity.wwn
    assert said["trim"]["supported"] is identity.trim.supported
    if identity.security.supported:
        found = said["ata_security"]
        assert found["enabled"] is identity.security.enabled
        if "frozen" in found:
            assert found["frozen"] is identity.security.frozen
        if identity.security.enabled:
            assert found["pw_attempts_exceeded"] is identity.security.expired


class Listening:
    """Lets every command through and keeps the ATA ones."""

    def __init__(self, rig: Rig) -> None:
        self.tasks: list[tuple[Taskfile, bytes]] = []
        self._through = rig.drive.execute
        rig.drive.execute = self._execute  # type: ignore[method-assign]

    def _execute(self, command: Command) -> Answer:
        task = from_cdb(command.cdb)
        if task is not None:
            self.tasks.append((task, command.data))
        return self._through(command)


USER, MASTER = ("--user-master", "u"), ("--user-master", "m")
SURE = "--yes-i-know-what-i-am-doing"
# What hdparm is told, and the command of ours that must be among what it sends.
SENT: dict[str, tuple[list[str], tuple[AtaCommand, bytes]]] = {
    "set password": ([*USER, "--security-set-pass", "SECRET"], ours.security_set_password("SECRET")),
    "unlock": ([*MASTER, "--security-unlock", "SECRET"], ours.security_unlock(Who.MASTER, "SECRET")),
    "disable": ([*USER, "--security-disable", "NULL"], ours.security_disable(Who.USER, "")),
    "freeze": (["--security-freeze"], (ours.SECURITY_FREEZE, b"")),
    "crypto": ([SURE, "--sanitize-crypto-scramble"], (ours.sanitize_crypto(exit_allowed=False), b"")),
    "block": ([SURE, "--sanitize-block-erase"], (ours.sanitize_block(exit_allowed=False), b"")),
    "overwrite": ([SURE, "--sanitize-overwrite-passes", "1", "--sanitize-overwrite", "hex:00000000"],
                  (ours.sanitize_overwrite(exit_allowed=False), b"")),
    "antifreeze": (["--sanitize-antifreeze-lock"], (ours.sanitize_antifreeze(), b"")),
    "status": (["--sanitize-status"], (ours.sanitize_status(clear_failed=False), b"")),
    "native max": (["-N"], (ours.read_native_max(long=True), b"")),
    "set max": ([SURE, "-N", "p8192"], (ours.set_max(8191, long=True, keep=True), b"")),
    "overlay": (["--dco-identify"], (ours.DCO_IDENTIFY, b"")),
    "restore": ([SURE, "--dco-restore"], (ours.DCO_RESTORE, b"")),
}  # fmt: skip


@needs("hdparm")
@pytest.mark.parametrize("what", SENT)
def test_what_is_sent_is_what_hdparm_sends(start: Start, what: str) -> None:
    rig, tools, drive = start()
    argv, (command, data) = SENT[what]
    if what == "disable":
        drive.set_password("")
    heard = Listening(rig)
    tools.run("hdparm", *argv, "DEVICE", status=None)
    mine = registers(from_cdb(command.cdb()))
    same = [sent for task, sent in heard.tasks if registers(task) == mine]
    assert same, [registers(task) for task, _ in heard.tasks]
    if data:
        assert same[0][: len(data)] == data
    assert command.line == " ".join(argv)


def registers(task: Taskfile | None) -> tuple[int, int, int, int]:
    """What decides; the count of a command that moves data says only how much."""
    assert task is not None
    counted = task.command in (0xB4, 0x37)
    return task.command, task.features, task.count if counted else 0, task.lba


@needs("hdparm")
@pytest.mark.parametrize(
    ("argv", "enhanced"), [("--security-erase", False), ("--security-erase-enhanced", True)]
)
def test_a_security_erase_is_sent_as_hdparm_sends_it(start: Start, argv: str, enhanced: bool) -> None:
    rig, tools, drive = start()
    drive.set_password("SECRET")
    heard = Listening(rig)
    tools.run("hdparm", "--user-master", "u", argv, "SECRET", "DEVICE")
    command, data = ours.security_erase(Who.USER, "SECRET", enhanced=enhanced)
    erases = [sent for task, sent in heard.tasks if task.command == command.opcode]
    assert erases == [data]
    assert not drive.identify().security.enabled
