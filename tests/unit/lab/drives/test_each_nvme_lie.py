"""Every lie of NVMe drives: the completion and the log say success, and the medium is read behind them.

Which there are is taken from the registry: one that is not shown here fails.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fakes.nvme_rig import BLOCK, BLOCKS, THREE, TWO, UNIT, NvmeRig
from teeth.lab.drives.nvmelies import NVME_LIES

ALL = 0xFFFFFFFF
TOTAL = BLOCKS + 64
CLEAN = 0x101  # completed, and nothing was written since (base 2.0, 5.16.1.25)
SECOND = (2048, 4096)  # where namespace 2 lies
DETACHED = (4096, 5120)

Show = Callable[[], None]
SHOWN: dict[str, Show] = {}


@pytest.mark.parametrize("name", sorted(lie.name for lie in NVME_LIES))
def test_the_drive_says_success_and_the_medium_is_not_clean(name: str) -> None:
    assert name in SHOWN, f"no test shows the lie {name}: what the drive says, and what is left"
    SHOWN[name]()


def test_nothing_is_shown_that_there_is_not() -> None:
    assert SHOWN.keys() <= {lie.name for lie in NVME_LIES}


def shows(name: str) -> Callable[[Show], Show]:
    def add(show: Show) -> Show:
        SHOWN[name] = show
        return show

    return add


@shows("skips-one-namespace")
def skips_one_namespace() -> None:
    drive = NvmeRig(namespaces=TWO).lie("skips-one-namespace")
    drive.sanitize(BLOCK)
    assert drive.sanitize_log()[1] == CLEAN
    assert drive.marked() == list(range(*SECOND))


@shows("leaves-detached")
def leaves_detached() -> None:
    drive = NvmeRig(namespaces=THREE).lie("leaves-detached")
    drive.sanitize(BLOCK)
    assert drive.sanitize_log()[1] == CLEAN
    assert drive.marked() == list(range(*DETACHED))


@shows("hides-detached")
def hides_detached() -> None:
    drive = NvmeRig(namespaces=THREE).lie("hides-detached")
    assert drive.listed(0x10) == [1, 2]
    assert int.from_bytes(drive.identify(1)[280:296], "little") == (BLOCKS - 1024) * UNIT
    for nsid in drive.listed(0x10):
        assert drive.format(nsid, 1) == 0
    assert set(range(*DETACHED)) <= set(drive.marked())


@shows("sanitize-stale-log")
def sanitize_stale_log() -> None:
    drive = NvmeRig().lie("sanitize-stale-log")
    drive.sanitize(BLOCK)
    progress, status, command = drive.sanitize_log()
    assert (progress, status) == (0xFFFF, CLEAN)
    assert command != BLOCK
    assert len(drive.marked()) == TOTAL


@shows("sanitize-done-at-once")
def sanitize_done_at_once() -> None:
    drive = NvmeRig().lie("sanitize-done-at-once")
    drive.good(0x84, cdw10=BLOCK)
    assert drive.sanitize_log()[:2] == (0xFFFF, CLEAN)
    drive.now += 5.0
    drive.drive.power_cycle()
    drive.now += 100.0
    assert drive.sanitize_log()[1] & 7 == 1
    assert len(drive.marked()) == pytest.approx(TOTAL / 2, abs=2)


@shows("forgets-sanitize")
def forgets_sanitize() -> None:
    drive = NvmeRig().lie("forgets-sanitize")
    drive.good(0x84, cdw10=BLOCK)
    drive.now += 5.0
    drive.drive.power_cycle()
    drive.now += 100.0
    assert drive.sanitize_log() == (0xFFFF, 0, 0)
    assert len(drive.marked()) == pytest.approx(TOTAL / 2, abs=2)


@shows("sprog-full")
def sprog_full() -> None:
    drive = NvmeRig().lie("sprog-full")
    drive.good(0x84, cdw10=BLOCK)
    drive.now += 1.0
    progress, status, _ = drive.sanitize_log()
    assert (progress, status) == (0xFFFF, 2)
    assert drive.marked()


@shows("claims-global-erased")
def claims_global_erased() -> None:
    drive = NvmeRig().lie("claims-global-erased")
    assert drive.sanitize_log()[1] & 0x100
    assert len(drive.marked()) == TOTAL


@shows("format-ignores-ses")
def format_ignores_ses() -> None:
    drive = NvmeRig().lie("format-ignores-ses")
    assert drive.format(1, 1) == 0
    assert not any(drive.read(1, 0))
    assert len(drive.marked(0, BLOCKS)) == BLOCKS


@shows("formats-one-of-all")
def formats_one_of_all() -> None:
    drive = NvmeRig(namespaces=TWO, format_all=True, erase_all=True).lie("formats-one-of-all")
    assert drive.format(ALL, 1) == 0
    assert set(range(*SECOND)) <= set(drive.marked())
    honest = NvmeRig(namespaces=TWO, format_all=True, erase_all=True)
    assert honest.format(ALL, 1) == 0
    assert not honest.marked(0, SECOND[1])
