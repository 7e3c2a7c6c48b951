"""Every lie of SCSI and SATA drives, told to a real tool: it is content, and the medium is read behind it.

Which lies there are is taken from the registry: one that is not shown here fails.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from fakes.drive_rig import BLOCKS, MARK
from fakes.tool_bench import SURE, TOOLS, ToolBench
from teeth.lab.drives.lies import LIES

pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") for tool in TOOLS),
    reason=f"{', '.join(TOOLS)} are not all installed",
)
SPARES = 64
TOTAL = BLOCKS + SPARES
MEGABYTE = 2048
IN_TIME = {"erase_seconds": 10.0}

Start = Callable[..., ToolBench]
Show = Callable[[Start], None]
SHOWN: dict[str, Show] = {}


@pytest.mark.parametrize("name", sorted(lie.name for lie in LIES if lie.kinds != {"nvme"}))
def test_the_tool_is_content_and_the_medium_is_not_clean(name: str, benches: Start) -> None:
    assert name in SHOWN, f"no test shows the lie {name}: what a tool says, and what is left"
    SHOWN[name](benches)


def test_nothing_is_shown_that_there_is_not() -> None:
    assert SHOWN.keys() <= {lie.name for lie in LIES}


# --- what a user does; each ends with the tool's success, or fails here


def sanitize(drive: ToolBench) -> None:
    drive.run("sg_sanitize --block --quick --wait")


def crypto(drive: ToolBench) -> None:
    drive.run("sg_sanitize --crypto --quick --wait")


def format_unit(drive: ToolBench) -> None:
    drive.run("sg_format --format --quick --wait")


def security_erase(drive: ToolBench, how: str = "--security-erase-enhanced") -> None:
    drive.run("hdparm --user-master u --security-set-pass p")
    drive.run(f"hdparm --user-master u {how} p")


def normal_erase(drive: ToolBench) -> None:
    security_erase(drive, "--security-erase")


def ata_sanitize(drive: ToolBench) -> None:
    drive.run(f"hdparm {SURE} --sanitize-block-erase")
    assert "Completed Without Error" in drive.run("hdparm --sanitize-status")


def unmap(drive: ToolBench) -> None:
    drive.run(f"sg_unmap --lba=0 --num={BLOCKS} --force")


def overwrite(drive: ToolBench) -> None:
    for lba in range(0, BLOCKS, MEGABYTE):
        drive.write(lba, bytes(MEGABYTE * 512))


# lie: kind, what is done, how many blocks are left, how many an honest drive leaves, the drive
KEEPING: dict[str, tuple[str, Callable[[ToolBench], None], int, int, dict[str, Any]]] = {
    "accepts-and-keeps": ("sata", ata_sanitize, TOTAL, 0, {}),
    "sanitize-keeps": ("scsi", sanitize, TOTAL, 0, {}),
    "crypto-keeps-key": ("scsi", crypto, TOTAL, 0, {}),
    "security-erase-keeps": ("sata", security_erase, TOTAL, 0, {}),
    "format-keeps": ("scsi", format_unit, TOTAL, SPARES, {}),
    "enhanced-is-normal": ("sata", security_erase, 500 + SPARES, 0, {"hidden": 500}),
    "erases-half": ("scsi", sanitize, BLOCKS // 2 + SPARES, 0, {}),
    "skips-last-block": ("sata", security_erase, 1, 0, {}),
    "skips-first-megabyte": ("scsi", sanitize, MEGABYTE, 0, {}),
    "skips-middle": ("scsi", sanitize, 128, 0, {}),
    "leaves-remapped": ("sata", ata_sanitize, SPARES, 0, {}),
    "leaves-hidden": ("sata", ata_sanitize, 500, 0, {"hidden": 500}),
    "zeroes-from-cache": ("scsi", sanitize, TOTAL, 0, {}),
    "clears-after-power-cycle": ("scsi", sanitize, TOTAL, 0, {}),
    "success-while-failing": ("sata", security_erase, TOTAL // 2, 0, {}),
    "capacity-half": ("scsi", format_unit, BLOCKS // 2 + SPARES, SPARES, {}),
    "shrinks-when-erased": ("scsi", format_unit, MEGABYTE + SPARES, SPARES, {}),
    "drops-writes": ("scsi", overwrite, TOTAL, SPARES, {}),
    "drops-zero-writes": ("scsi", overwrite, TOTAL, SPARES, {}),
    "trim-keeps": ("scsi", unmap, TOTAL, SPARES, {}),
    "reads-zero": ("scsi", sanitize, TOTAL, 0, {}),
}


def keeps(name: str) -> Show:
    def show(start: Start) -> None:
        kind, act, left, honest, spec = KEEPING[name]
        liar = start(kind, name, **spec)
        act(liar)
        assert liar.left == left
        twin = start(kind, **spec)
        act(twin)
        assert twin.left == honest

    return show


SHOWN |= {name: keeps(name) for name in KEEPING}


def shows(name: str) -> Callable[[Show], Show]:
    def add(show: Show) -> Show:
        SHOWN[name] = show
        return show

    return add


# --- lies about time, state and size


@shows("never-ends")
def never_ends(start: Start) -> None:
    drive = start("scsi", "never-ends", **IN_TIME)
    drive.run("sg_sanitize --block --quick --early")
    drive.rig.now += 604800.0
    assert " 0.99% done" in drive.run("sg_requests --progress")
    assert drive.left > 0


@shows("progress-stuck")
def progress_stuck(start: Start) -> None:
    drive = start("scsi", "progress-stuck", **IN_TIME)
    drive.run("sg_sanitize --block --quick --early")
    drive.rig.now += 9.9
    assert " 0.99% done" in drive.run("sg_requests --progress")
    assert drive.left < TOTAL // 50
    drive.rig.now += 0.2
    drive.run("sg_turs")
    assert drive.left == 0


@shows("progress-backwards")
def progress_backwards(start: Start) -> None:
    drive = start("scsi", "progress-backwards", **IN_TIME)
    drive.run("sg_sanitize --block --quick --early")
    told, left = [], []
    for _ in range(3):
        drive.rig.now += 3.0
        line = drive.run("sg_requests --progress")
        told.append(float(line.partition("indication:")[2].partition("%")[0]))
        left.append(drive.left)
    assert told == sorted(told, reverse=True)
    assert len(set(told)) == 3
    assert left == sorted(left, reverse=True)


@shows("claims-sanitize")
def claims_sanitize(start: Start) -> None:
    drive = start("scsi", "claims-sanitize")
    assert "Sanitize, block erase" in drive.run("sg_opcodes")
    drive.run("sg_sanitize --block --quick --wait", status=9)  # invalid opcode
    assert drive.left == TOTAL


@shows("hides-sanitize")
def hides_sanitize(start: Start) -> None:
    drive = start("scsi", "hides-sanitize")
    assert "Sanitize" not in drive.run("sg_opcodes")
    sanitize(drive)
    assert drive.left == 0


@shows("loses-password-state")
def loses_password_state(start: Start) -> None:
    drive = start("sata", "loses-password-state")
    drive.run("hdparm --user-master u --security-set-pass p")
    drive.power_cycle()
    said = drive.run("hdparm -I")
    assert "not\tenabled" in said
    assert "not\tlocked" in said
    drive.run("sg_raw -r 512 DEVICE 28 00 00 00 00 00 00 00 01 00", status=7)  # data protect: it is locked


@shows("keeps-password")
def keeps_password(start: Start) -> None:
    drive = start("sata", "keeps-password")
    security_erase(drive)
    assert drive.left == 0
    assert "not\tenabled" not in drive.run("hdparm -I")
    drive.power_cycle()
    assert "not\tlocked" not in drive.run("hdparm -I")


@shows("hides-freeze")
def hides_freeze(start: Start) -> None:
    drive = start("sata", "hides-freeze")
    drive.run("hdparm --security-freeze")
    assert "not\tfrozen" in drive.run("hdparm -I")
    drive.run("hdparm --user-master u --security-set-pass p", status=5)
    assert drive.left == TOTAL


@shows("capacity-double")
def capacity_double(start: Start) -> None:
    drive = start("scsi", "capacity-double")
    assert f"Number of logical blocks={2 * BLOCKS}" in drive.run("sg_readcap")
    new = b"wrapped." * 64
    drive.write(BLOCKS + 5, new)
    assert drive.rig.media.read(5 * 512, 512) == new


@shows("flush-is-nothing")
def flush_is_nothing(start: Start) -> None:
    drive = start("scsi", "flush-is-nothing")
    drive.write(0, b"written." * 64)
    assert drive.read(0) == b"written." * 64
    drive.power_cycle()
    assert drive.read(0) == MARK * 64
