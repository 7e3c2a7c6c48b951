"""The agent's own ATA commands through a true kernel: sent by SG_IO in a guest, judged by what comes back."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from boot.conftest import Boot
from boot.test_lab_hardware import Shell
from lab.test_drives import machine_with, marks

pytestmark = [pytest.mark.boot, pytest.mark.image]

# In the guest: words behind the device say what to do, each answers a line of JSON.
_PROGRAM = """
import json, sys, time
from teeth_agent.drives.ata import AtaDrive
from teeth_agent.drives.ata_areas import look_areas, restore_native_max
from teeth_agent.erase.methods import State
from teeth_agent.erase.methods.ata import ata_erase
from teeth_agent.erase.methods.ata_leftovers import recover
from teeth_agent.erase.model import Method
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough.scsi import open_scsi

def answer(drive, word):
    if word == "identify":
        identity = drive.identify()
        return [identity.serial, identity.sectors, identity.security.frozen, identity.security.locked]
    if word == "areas":
        return look_areas(drive).to_json()
    if word == "restore":
        return restore_native_max(drive).after.to_json()
    if word == "recover":
        return recover(drive).to_json()
    erase = ata_erase(Method(word), drive)
    erase.start()
    states = []
    while (poll := erase.poll()).state is State.RUNNING:
        states.append(poll.fraction)
        time.sleep(0.1)
    return [poll.state.value, len(states), dict(erase.complete())]

with open_scsi(sys.argv[1]) as port:
    drive = AtaDrive(port, name=sys.argv[1], transport="scsi")
    for word in sys.argv[2:]:
        try:
            print("said", json.dumps(answer(drive, word)))
        except DeviceError as error:
            print("said", json.dumps({"code": error.code, "message": str(error)}))
"""


async def ask(shell: Shell, device: str, *words: str) -> list[Any]:
    text = base64.b64encode(_PROGRAM.encode()).decode()
    await shell.run("rm -f /tmp/ask.b64")
    for at in range(0, len(text), 600):  # the line of a shell is bounded
        await shell.run(f"echo {text[at : at + 600]} >> /tmp/ask.b64")
    await shell.run("base64 -d /tmp/ask.b64 > /tmp/ask.py")
    said = await shell.run(f"python3 /tmp/ask.py {device} {' '.join(words)}")
    found = [json.loads(line.removeprefix("said ")) for line in said if line.startswith("said ")]
    assert len(found) == len(words), said
    return found


async def test_the_agent_erases_ata_drives_by_its_own_commands(
    boot: Boot, ramdisk: Path, tmp_path: Path
) -> None:
    drives: tuple[dict[str, Any], ...] = (
        {"kind": "sata", "hidden": 192},
        {"kind": "sata", "frozen": True, "password": ""},
        {"kind": "sata", "password": "TEETHERASE"},
        {"kind": "sata", "descriptor_sense": True},
    )
    async with machine_with(boot, ramdisk, tmp_path, *drives) as (serving, shell):
        whole = 32768
        identity, areas, restored, sanitized = await ask(
            shell, "$d0", "identify", "areas", "restore", "ata_sanitize_block"
        )
        assert identity[1:] == [whole - 192, False, False]
        assert (areas["accessible"], areas["native"], areas["overlay"]) == (whole - 192, whole, whole)
        assert restored["accessible"] == whole
        assert sanitized[0] == "done"
        assert sanitized[1] > 0
        assert sanitized[2]["registers"]["count"] == "8000"
        assert marks(tmp_path, 0) == 0

        frozen, over = await ask(shell, "$d1", "ata_security_erase", "ata_sanitize_overwrite")
        assert frozen["code"] == "frozen"
        assert over[0] == "done"
        assert marks(tmp_path, 1) == 0

        locked, left, erased = await ask(shell, "$d2", "identify", "recover", "ata_security_erase_enhanced")
        assert locked[3] is True
        assert left["found"] == "recovered"
        assert erased[0] == "done"
        assert serving.drives[2].unit.disk.state.security.user == ""
        assert marks(tmp_path, 2) == 0

        # QEMU turns descriptors into fixed sense data and loses the registers: then no sanitize is begun,
        # and a security erase proves itself by IDENTIFY.
        lost, erased = await ask(shell, "$d3", "ata_sanitize_crypto", "ata_security_erase")
        assert lost["code"] == "sanitize_status_lost"
        assert erased[0] == "done"
        assert marks(tmp_path, 3) == 0
