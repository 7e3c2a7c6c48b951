"""docs/lab-drives.md against the tables of commands: neither moves alone."""

from __future__ import annotations

import re

from teeth.lab.drives.ata import COMMANDS
from teeth.lab.drives.media import MemoryMedia
from teeth.lab.drives.model import DriveSpec
from teeth.lab.drives.nvme.controller import ADMIN_COMMANDS, IO_COMMANDS
from teeth.lab.drives.nvme.features import FEATURES
from teeth.lab.drives.nvme.logs import PAGES
from teeth.lab.drives.sata import SataDrive
from teeth.lab.drives.scsi import ScsiDrive
from teeth.paths import find_checkout

SPEC = DriveSpec(name="x", blocks=8192, serial="S", wwn="5000c500a1b2c3d4")


def part(title: str) -> str:
    page = (find_checkout().root / "docs" / "lab-drives.md").read_text(encoding="utf-8")
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_scsi_commands() -> None:
    media = MemoryMedia(SPEC.media_size)
    units = [kind(SPEC, media, clock=lambda: 0.0) for kind in (ScsiDrive, SataDrive)]
    found: dict[tuple[int, str], set[int]] = {}
    for unit in units:
        for row in unit.operations.values():
            actions = found.setdefault((row.opcode, row.name), set())
            actions |= set() if row.service is None else {row.service}
    listed = {
        (int(opcode, 16), name): {int(action, 16) for action in re.findall(r"([0-9A-F]{2})h", actions)}
        for opcode, actions, name in re.findall(
            r"^\| `(..)h`([^|]*) \| ([^|]+) \|", part("SCSI"), re.MULTILINE
        )
    }
    assert listed == found


def test_ata_commands() -> None:
    listed = re.findall(r"^\| `(..)h` \| ([^|]+) \|", part("ATA"), re.MULTILINE)
    assert {int(opcode, 16): name for opcode, name in listed} == {
        op: row.name for op, row in COMMANDS.items()
    }


def test_nvme_commands_with_their_sections() -> None:
    rows = re.findall(r"^\| (admin|I/O) `(..)h` \| ([^|]+) \| ([^|]+) \|", part("NVMe"), re.MULTILINE)
    listed = {(kind, int(opcode, 16)): (name, section) for kind, opcode, name, section in rows}
    found = {("admin", op): (row.name, f"base {row.section}") for op, row in ADMIN_COMMANDS.items()}
    for op, row in IO_COMMANDS.items():
        section = row.section if row.section.startswith("base ") else f"NVM {row.section}"
        found["I/O", op] = row.name, section
    assert listed == found


def test_nvme_log_pages_and_features() -> None:
    logs = re.findall(r"^\| log `(..)h` \| ([^|]+) \|", part("NVMe"), re.MULTILINE)
    assert {int(page, 16): name for page, name in logs} == {page: row[0] for page, row in PAGES.items()}
    features = re.findall(r"^\| feature `(..)h` \| ([^|]+) \|", part("NVMe"), re.MULTILINE)
    assert {int(number, 16): name for number, name in features} == FEATURES
