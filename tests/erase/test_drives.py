"""decom.disk_erase on simulated SATA and SAS drives: every rung, locks, lies, and power cuts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from erase.site import BLOCK, MIB, fill, remains, site
from teeth.lab.pytest_plugin import Lab

pytestmark = [pytest.mark.boot, pytest.mark.image, pytest.mark.usefixtures("ramdisk")]

SIZE = 16 * MIB
OURS = "TEETHERASE"


def drive(name: str, kind: str = "sata", **settings: Any) -> str:
    """The description of a drive of the name's serial number, full of old data."""
    lines = {"kind": kind, "name": name, "serial": name.upper(), "size": "16 MiB", "file": f"{name}.img"}
    text = "\n".join(
        f"{key} = {json.dumps(value)}" for key, value in {**lines, "erase_seconds": 2, **settings}.items()
    )
    return f"[[machines.one.drive]]\n{text}\n"


def filled(folder: Path, drives: Mapping[str, str]) -> dict[str, Path]:
    return {name: fill(folder / f"{name}.img", SIZE) for name in drives}


LADDER = {
    "ssd": drive("ssd"),
    "hdd": drive("hdd", medium="hdd"),
    "enhanced": drive("enhanced", sanitize=[]),
    "plain": drive("plain", sanitize=[], enhanced=False),
    "frozen": drive("frozen", sanitize=[], frozen=True),
    "ours": drive("ours", password=OURS),
    "stranger": drive("stranger", password="somebody's", master_password="its maker's"),
    "sas": drive("sas", "scsi"),
    "sashdd": drive("sashdd", "scsi", medium="hdd"),
    "sasold": drive("sasold", "scsi", sanitize=[]),
    "keeps": drive("keeps", lies=["accepts-and-keeps"]),
    "drops": drive("drops", "scsi", lies=["drops-writes"]),
}


PROVEN = {
    "SSD": ("purged", "ata_sanitize_crypto+ata_sanitize_block", ""),
    "HDD": ("purged", "ata_sanitize_overwrite", ""),
    "ENHANCED": ("purged", "ata_security_erase_enhanced", ""),
    "PLAIN": ("cleared", "ata_security_erase", ""),
    # Frozen, it takes no password; the overwrite is what is left, and only ever called clear.
    "FROZEN": ("cleared", "overwrite", ""),
    # The password that an interrupted erase of ours leaves is known, and taken away.
    "OURS": ("purged", "ata_sanitize_crypto+ata_sanitize_block", ""),
    "SAS": ("purged", "scsi_sanitize_crypto+scsi_sanitize_block", ""),
    "SASHDD": ("purged", "scsi_sanitize_crypto", ""),
    "SASOLD": ("cleared", "scsi_format", ""),
    # It takes every erase and keeps all: found out, and overwritten.
    "KEEPS": ("cleared", "overwrite", ""),
}
NOT_PROVEN = {
    "STRANGER": ("locked", None, "locked"),
    "DROPS": ("failed", "overwrite", "canary_not_landed"),
}


def test_every_rung_of_the_ladder(lab: Lab, tmp_path: Path) -> None:
    files = filled(tmp_path, LADDER)
    with site(lab, tmp_path, "".join(LADDER.values())) as here:
        done = here.erase()
        assert done.outcomes() == dict(sorted({**PROVEN, **NOT_PROVEN}.items()))
        assert (done.state, done.code) == ("error", "erase_incomplete")
        left = {name.upper(): remains(path) for name, path in files.items()}
        assert left == {**dict.fromkeys(PROVEN, 0), **dict.fromkeys(NOT_PROVEN, SIZE // BLOCK)}
        assert [len(unit["attempts"]) > 1 for unit in (done.units["KEEPS"], done.units["SSD"])] == [
            True,
            False,
        ]
        assert {one["record"]["serial"]: one["outcome"] for one in here.certificates()} == {
            name: outcome for name, (outcome, *_) in done.outcomes().items()
        }


CUT = {
    "crypto": drive("crypto", sanitize=["crypto"], erase_seconds=60),
    "block": drive("block", sanitize=["block"], erase_seconds=60),
    "over": drive("over", sanitize=["overwrite"], medium="hdd", erase_seconds=60),
    "secure": drive("secure", sanitize=[], enhanced=False, erase_seconds=60),
    "better": drive("better", sanitize=[], erase_seconds=60),
}


def state(folder: Path, name: str) -> dict[str, Any]:
    """What the drive keeps beside its blocks; nothing as long as nothing has changed."""
    file = folder / f"{name}.img.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def begun(folder: Path) -> bool:
    """Every drive is in the midst of its erase."""
    found = [state(folder, name) for name in CUT]
    return all(one and (one["sanitize"]["state"] == "running" or one["security"]["user"]) for one in found)


def unlocked(folder: Path) -> bool:
    return not any(state(folder, name)["security"]["user"] for name in CUT)


def test_a_power_cut_leaves_no_drive_locked_and_none_is_called_erased(lab: Lab, tmp_path: Path) -> None:
    """Two cuts, each in the midst of five erases; then all are erased."""
    files = filled(tmp_path, CUT)
    with site(lab, tmp_path, "".join(CUT.values())) as here:
        for _ in range(2):
            task = here.begin()
            here.machine.wait_for(lambda: begun(tmp_path), within=120)
            here.power_cut()
            cut = here.look(task)
            assert (cut.state, cut.units) == ("unknown", {})
            # The next boot takes the passwords away by itself, nobody having asked it for anything.
            here.machine.wait_for(lambda: unlocked(tmp_path), within=120)
            settled = here.teeth("task", "settle", task, "--error", "--msg", "the power was cut")
            assert settled.returncode == 0, settled.stderr
        done = here.erase()
        assert (done.state, {unit["outcome"] for unit in done.units.values()} <= {"purged", "cleared"}) == (
            "complete", True,
        )  # fmt: skip
        assert {name: remains(path) for name, path in files.items()} == dict.fromkeys(CUT, 0)
