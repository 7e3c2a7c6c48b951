"""Every fault, as a tool meets it and as the medium shows it. Which there are is taken from the registry."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable

import pytest

from fakes.drive_rig import BLOCKS, MARK, NoAnswerError, Rig
from fakes.tool_bench import SURE, TOOLS, ToolBench
from teeth.lab.drives.answer import Wait
from teeth.lab.drives.faults import FAULTS

pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") for tool in TOOLS),
    reason=f"{', '.join(TOOLS)} are not all installed",
)
TOTAL = BLOCKS + 64
READ = "sg_raw -r 512 DEVICE 28 00 00 00 00 05 00 00 01 00"
OLD, NEW = MARK * 64, b"written." * 64
IN_TIME = {"erase_seconds": 10.0}
# Exit statuses of sg3_utils (sg3_utils(8)).
NOT_READY, MEDIUM, DATA_PROTECT = 2, 3, 7

Start = Callable[..., ToolBench]
Show = Callable[[Start], None]
SHOWN: dict[str, Show] = {}


@pytest.mark.parametrize("name", sorted(fault.name for fault in FAULTS))
def test_the_fault_is_met_and_seen(name: str, benches: Start) -> None:
    assert name in SHOWN, f"no test shows the fault {name}: what a tool meets, and what is on the medium"
    SHOWN[name](benches)


def test_nothing_is_shown_that_there_is_not() -> None:
    assert SHOWN.keys() <= {fault.name for fault in FAULTS}


def shows(name: str) -> Callable[[Show], Show]:
    def add(show: Show) -> Show:
        SHOWN[name] = show
        return show

    return add


def on_medium(rig: Rig, lba: int) -> bytes:
    return rig.media.read(lba * 512, 512)


# --- at blocks


@shows("media-error")
def media_error(start: Start) -> None:
    drive = start("scsi", "media-error:5")
    drive.run(READ, status=MEDIUM)
    assert on_medium(drive.rig, 5) == OLD
    drive.write(5, NEW)
    assert drive.read(5) == NEW
    assert drive.left == TOTAL - 1  # the old content has moved to a retired block
    assert on_medium(drive.rig, BLOCKS) == OLD


@shows("write-error")
def write_error(start: Start) -> None:
    drive = start("scsi", "write-error:5")
    drive.write(5, NEW, status=MEDIUM)
    assert on_medium(drive.rig, 5) == OLD


@shows("corrupt-reads")
def corrupt_reads(start: Start) -> None:
    drive = start("scsi", "corrupt-reads")
    assert drive.read(5) == bytes((OLD[0] ^ 1,)) + OLD[1:]
    assert on_medium(drive.rig, 5) == OLD


# --- in answers and in time


@shows("hang")
def hang(start: Start) -> None:
    # Not by a tool: each has a patience of its own, and would be waited for.
    drive = Rig().lie("hang")
    for _ in range(2):
        answer = drive.start("28000000000500000100")
        assert isinstance(answer, Wait)
        assert math.isinf(answer.until)
        drive.drive.reset()


@shows("hang-once")
def hang_once(start: Start) -> None:
    drive = start("scsi", "hang-once")
    answer = drive.rig.start("28000000000500000100")
    assert isinstance(answer, Wait)
    assert math.isinf(answer.until)
    assert drive.read(5) == OLD


@shows("slow")
def slow(start: Start) -> None:
    drive = Rig().lie("slow:2.5")
    answer = drive.start("28000000000500000100")
    assert isinstance(answer, Wait)
    assert answer.until == drive.now + 2.5


@shows("busy")
def busy(start: Start) -> None:
    said = start("scsi", "busy").run(READ, status=None)
    assert "SCSI Status: Busy" in said
    assert "no data received" in said


@shows("vanish")
def vanish(start: Start) -> None:
    drive = start("scsi", "vanish")
    drive.run(READ, status=NOT_READY)
    assert drive.rig.drive.disk.remove("vanish")
    assert drive.read(5) == OLD


@shows("hardware-error")
def hardware_error(start: Start) -> None:
    drive = start("scsi", "hardware-error")
    drive.run(READ, status=MEDIUM)
    assert "TEETH" in drive.run("sg_inq")


@shows("read-only")
def read_only(start: Start) -> None:
    drive = start("scsi", "read-only")
    drive.run("sg_sanitize --block --quick --wait", status=DATA_PROTECT)
    drive.write(5, NEW, status=DATA_PROTECT)
    assert drive.left == TOTAL


@shows("smart-failing")
def smart_failing(start: Start) -> None:
    failing = 1 << 3  # smartctl(8): SMART status check returned DISK FAILING
    assert "FAILED!" in start("sata", "smart-failing").run("smartctl -H -d sat", status=failing)
    assert "IMPENDING FAILURE" in start("scsi", "smart-failing").run("smartctl -H -d scsi", status=failing)


@shows("duplicate-serial")
def duplicate_serial(start: Start) -> None:
    assert "Serial Number:      OTHER" in start("sata", "duplicate-serial:OTHER").run("hdparm -I")
    assert "OTHER" in start("scsi", "duplicate-serial:OTHER").run("sg_vpd --page=sn")


# --- in erases


@shows("erase-fails")
def erase_fails(start: Start) -> None:
    drive = start("sata", "erase-fails:25")
    drive.run("hdparm --user-master u --security-set-pass p")
    drive.run("hdparm --user-master u --security-erase-enhanced p", status=5)
    assert drive.left == TOTAL - TOTAL // 4
    assert "not\tenabled" not in drive.run("hdparm -I")
    drive.run(f"hdparm {SURE} --sanitize-block-erase", status=None)
    assert "SD3 Sanitize Operation Failed" in drive.run("hdparm --sanitize-status", status=5)


@shows("sanitize-fails")
def sanitize_fails(start: Start) -> None:
    drive = start("scsi", "sanitize-fails:50", **IN_TIME)
    drive.run("sg_sanitize --block --quick --early")  # it has begun: that is all that this success says
    drive.rig.now += 10.0
    drive.run(READ, status=MEDIUM)
    assert drive.left == TOTAL // 2


@shows("security-erase-fails")
def security_erase_fails(start: Start) -> None:
    drive = start("sata", "security-erase-fails:50")
    drive.run(f"hdparm {SURE} --sanitize-block-erase")
    assert drive.left == 0
    other = start("sata", "security-erase-fails:50")
    other.run("hdparm --user-master u --security-set-pass p")
    other.run("hdparm --user-master u --security-erase-enhanced p", status=5)
    assert other.left == TOTAL // 2


# --- in power


@shows("power-cut-at-write")
def power_cut_at_write(start: Start) -> None:
    drive = start("scsi", "power-cut-at-write:2")
    drive.write(5, NEW)
    with pytest.raises(NoAnswerError):
        drive.rig.run("2a000000000600000100", NEW)
    assert on_medium(drive.rig, 5) == NEW
    assert on_medium(drive.rig, 6) == OLD
    drive.run("sg_turs", status=6)  # unit attention: power on
    assert drive.read(6) == OLD


@shows("power-cut-at-erase")
def power_cut_at_erase(start: Start) -> None:
    drive = start("scsi", "power-cut-at-erase:40", **IN_TIME)
    drive.run("sg_sanitize --block --quick --early")
    drive.rig.now += 9.0
    drive.rig.drive.settle()
    assert drive.left == TOTAL - int(TOTAL * 0.4)
    assert drive.rig.drive.disk.state.power_cycles == 1


@shows("cache-always-on")
def cache_always_on(start: Start) -> None:
    drive = start("scsi", "cache-always-on", write_cache=False)
    drive.rig.good("2a000000000500000100", NEW)
    drive.power_cycle()
    assert drive.read(5) == OLD
