"""Each lie of an NVMe drive: it says that all went well, and the medium shows what is true."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fakes.nvme_rig import BLOCK, BLOCKS, CRYPTO, OVERWRITE, THREE, NvmeRig
from teeth.lab.drives.behaviours import BEHAVIOURS
from teeth.lab.drives.faults import FAULTS
from teeth.lab.drives.lies import LIES
from teeth.lab.drives.nvme import NoCompletionError
from teeth.lab.drives.submission import Code, NvmeCommand

SPARES = 64
TOTAL = BLOCKS + SPARES
IN_NAMESPACES = 2048 + 2048 + 1024
ATTACHED = 4096
FREE = BLOCKS - IN_NAMESPACES
MEGABYTE = 2048
ALL = 0xFFFFFFFF


def sanitize(action: int) -> Callable[[NvmeRig], None]:
    def act(rig: NvmeRig) -> None:
        """The drive says that it has succeeded, and takes I/O again."""
        rig.sanitize(action)
        progress, status, _ = rig.sanitize_log()
        assert (progress, status & 7) == (0xFFFF, 1)
        assert rig.drive.flush(1) == 0

    return act


block, crypto, overwrite = sanitize(BLOCK), sanitize(CRYPTO), sanitize(OVERWRITE)


def erase_format(rig: NvmeRig) -> None:
    assert rig.format(ALL, 1) == 0
    assert rig.drive.flush(1) == 0


def crypto_format(rig: NvmeRig) -> None:
    assert rig.format(ALL, 2) == 0


def deallocate(rig: NvmeRig) -> None:
    ranges = bytes(4) + (2048).to_bytes(4, "little") + bytes(8)
    reply = rig.drive.complete(NvmeCommand(opcode=0x09, nsid=1, cdw11=4, data=ranges, io=True))
    assert reply.good


def zero_writes(rig: NvmeRig) -> None:
    for lba in range(0, 2048, 512):
        assert rig.drive.write(1, lba, bytes(512 * 512), through=True) == 0


# lie, what is done, how many blocks are left that should not be
TABLE: list[tuple[str, Callable[[NvmeRig], None], int]] = [
    ("accepts-and-keeps", block, TOTAL),
    ("accepts-and-keeps", erase_format, TOTAL),
    ("sanitize-keeps", overwrite, TOTAL),
    ("crypto-keeps-key", crypto, TOTAL),
    ("crypto-keeps-key", crypto_format, TOTAL),
    ("format-keeps", erase_format, TOTAL),
    ("format-keeps", crypto_format, TOTAL),
    ("erases-half", block, ATTACHED // 2 + 1024 + FREE + SPARES),
    ("erases-half", erase_format, ATTACHED // 2 + 1024 + FREE + SPARES),
    ("skips-last-block", block, 2),
    ("skips-first-megabyte", overwrite, 4096),
    ("skips-middle", block, 2 * 128),
    ("leaves-remapped", block, SPARES),
    ("leaves-hidden", block, 1024 + FREE),
    ("zeroes-from-cache", block, TOTAL),
    ("clears-after-power-cycle", block, TOTAL),
    ("success-while-failing", block, TOTAL // 2),
    ("capacity-half", block, ATTACHED // 2 + 1024 + FREE + SPARES),
    ("shrinks-when-erased", block, 4096 + 1024 + FREE + SPARES - 2),
    ("drops-writes", zero_writes, TOTAL),
    ("drops-zero-writes", zero_writes, TOTAL),
    ("trim-keeps", deallocate, TOTAL),
    ("reads-zero", block, TOTAL),
    ("skips-one-namespace", block, 1024),
    ("skips-one-namespace", erase_format, 2048 + 1024 + FREE + SPARES),
    ("leaves-detached", block, 1024),
    ("sanitize-stale-log", block, TOTAL),
    ("format-ignores-ses", erase_format, TOTAL),
    ("format-ignores-ses", crypto_format, TOTAL),
    ("formats-one-of-all", erase_format, 2048 + 1024 + FREE + SPARES),
]


@pytest.mark.parametrize(("lie", "act", "left"), TABLE, ids=[f"{row[0]}-{n}" for n, row in enumerate(TABLE)])
def test_success_is_said_and_bytes_are_left(lie: str, act: Callable[[NvmeRig], None], left: int) -> None:
    rig = NvmeRig(namespaces=THREE).lie(lie)
    act(rig)
    assert len(rig.marked()) == left
    honest = NvmeRig(namespaces=THREE)
    act(honest)
    assert len(honest.marked()) < left


SPECIAL = {
    "never-ends", "progress-stuck", "progress-backwards", "claims-sanitize", "hides-sanitize",
    "capacity-double", "flush-is-nothing", "hides-detached", "sanitize-done-at-once",
    "forgets-sanitize", "sprog-full",
    "claims-global-erased",
}  # fmt: skip


def test_every_lie_that_an_nvme_drive_can_tell_is_shown_here() -> None:
    can = {lie.name for lie in LIES if "nvme" in lie.kinds}
    assert can == {row[0] for row in TABLE} | SPECIAL


@pytest.mark.parametrize(
    ("lie", "shown"),
    [
        ("never-ends", 655),
        ("progress-stuck", 655),
        ("progress-backwards", int(0.5 * 65536)),
        ("sprog-full", 0xFFFF),
    ],
)
def test_progress_is_what_it_is_not(lie: str, shown: int) -> None:
    rig = NvmeRig().lie(lie)
    rig.good(0x84, cdw10=BLOCK)
    rig.now += 5.0
    progress, status, _ = rig.sanitize_log()
    assert progress == pytest.approx(shown, abs=1)
    assert status & 7 == 2
    rig.now += 1e6
    rig.drive.settle()
    assert (rig.sanitize_log()[1] & 7 == 2) is (lie == "never-ends")


def test_a_drive_claims_a_sanitize_that_it_aborts() -> None:
    rig = NvmeRig().lie("claims-sanitize")
    assert rig.identify(1)[328] == 0b111
    assert rig.status(0x84, cdw10=BLOCK) == Code.INTERNAL_ERROR
    assert len(rig.marked()) == TOTAL


def test_a_drive_hides_a_sanitize_that_it_has() -> None:
    rig = NvmeRig().lie("hides-sanitize")
    assert rig.identify(1)[328:332] == bytes(4)
    assert not rig.log(0x05, 4096)[4 * 0x84]
    assert not rig.log(0x05, 256, offset=0x200)[4 * 0x84 - 0x200]
    rig.sanitize(BLOCK)
    assert rig.marked() == []


def test_a_drive_says_twice_the_blocks_it_has() -> None:
    rig = NvmeRig(namespaces=THREE).lie("capacity-double")
    assert int.from_bytes(rig.identify(0, 1)[:8], "little") == 4096
    assert rig.drive.write(1, 2048 + 5, b"w" * 512) == 0
    assert rig.read(1, 5) == b"w" * 512


def test_a_flush_that_is_nothing_loses_what_was_flushed() -> None:
    rig = NvmeRig().lie("flush-is-nothing")
    rig.drive.write(1, 0, b"f" * 512)
    assert rig.drive.flush(1) == 0
    rig.drive.power_cycle()
    assert rig.read(1, 0)[:8] == b"REMAINS "


def test_a_detached_namespace_is_in_no_list_and_no_figure() -> None:
    rig = NvmeRig(namespaces=THREE).lie("hides-detached")
    assert rig.listed(0x10) == [1, 2]
    assert not any(rig.identify(0x11, 3))
    controller = rig.identify(1)
    told = int.from_bytes(controller[280:296], "little") - int.from_bytes(controller[296:312], "little")
    assert told == ATTACHED * 512
    erase_format(rig)
    assert len(rig.marked(ATTACHED, ATTACHED + 1024)) == 1024


def test_a_success_that_is_said_at_once_is_none_when_the_power_goes() -> None:
    rig = NvmeRig().lie("sanitize-done-at-once")
    rig.good(0x84, cdw10=BLOCK)
    rig.now += 1.0
    assert rig.sanitize_log()[:2] == (0xFFFF, 0x101)
    assert rig.drive.flush(1) == 0
    rig.drive.power_cycle()
    rig.now += 100.0
    assert rig.sanitize_log()[:2] == (0xFFFF, 0x101)
    assert len(rig.marked()) == pytest.approx(0.9 * TOTAL, abs=2)


def test_a_sanitize_is_forgotten_when_the_power_goes() -> None:
    rig = NvmeRig().lie("forgets-sanitize")
    rig.good(0x84, cdw10=BLOCK)
    rig.now += 5.0
    rig.drive.power_cycle()
    rig.now += 100.0
    assert rig.sanitize_log() == (0xFFFF, 0, 0)
    assert rig.read(1, BLOCKS - 1)[:8] == b"REMAINS "


def test_all_is_said_to_be_erased_though_it_was_written() -> None:
    rig = NvmeRig().lie("claims-global-erased")
    rig.drive.write(1, 0, b"w" * 512)
    assert rig.sanitize_log()[1] & 0x100
    assert len(rig.marked()) == TOTAL - 1


def test_a_format_that_ignores_ses_shows_zeros_and_new_data() -> None:
    rig = NvmeRig().lie("format-ignores-ses")
    assert rig.format(1, 1) == 0
    assert not any(rig.read(1, 0, 4))
    rig.drive.write(1, 1, b"n" * 512)
    assert rig.read(1, 0, 3) == bytes(512) + b"n" * 512 + bytes(512)
    assert len(rig.marked()) == TOTAL - 1


# --- faults


@pytest.mark.parametrize(("fault", "status"), [
    ("busy", Code.INTERRUPTED), ("hardware-error", Code.INTERNAL_ERROR),
    ("media-error:0", Code.UNRECOVERED_READ),
])  # fmt: skip
def test_a_fault_fails_reads_and_the_drive_still_tells_of_itself(fault: str, status: int) -> None:
    rig = NvmeRig().lie(fault)
    assert rig.drive.read(1, 0, 1)[0] == status
    assert rig.identify(1)
    assert rig.log(0x02)


@pytest.mark.parametrize("fault", ["hang", "hang-once", "vanish"])
def test_a_drive_that_does_not_answer_does_so_again_when_the_fault_is_over(fault: str) -> None:
    rig = NvmeRig().lie(fault)
    with pytest.raises(NoCompletionError):
        rig.drive.read(1, 0, 1)
    rig.drive.disk.remove(fault)
    assert rig.read(1, 0)


def test_other_faults() -> None:
    rig = NvmeRig().lie("slow:3")
    before = rig.now
    rig.read(1, 0)
    assert rig.now == before + 3.0
    rig = NvmeRig().lie("read-only", "smart-failing", "duplicate-serial:TWIN", "corrupt-reads")
    assert rig.drive.write(1, 0, bytes(512)) == Code.WRITE_PROTECTED
    assert rig.status(0x84, cdw10=BLOCK) == Code.WRITE_PROTECTED
    assert rig.log(0x02)[0] == 0x04 | 0x08
    assert rig.identify(1)[4:24].rstrip() == b"TWIN"
    assert rig.read(1, 0)[:8] == bytes((b"R"[0] ^ 1,)) + b"EMAINS "
    rig = NvmeRig().lie("cache-always-on")
    rig.status(0x09, cdw10=0x06, cdw11=0)
    rig.drive.write(1, 0, b"w" * 512)
    rig.drive.power_cycle()
    assert rig.read(1, 0)[:8] == b"REMAINS "
    rig = NvmeRig().lie("power-cut-at-write:2")
    assert rig.drive.write(1, 0, b"w" * 512, through=True) == 0
    with pytest.raises(NoCompletionError):
        rig.drive.write(1, 1, b"w" * 512)
    assert rig.read(1, 1)[:8] == b"REMAINS "


def test_a_power_cut_in_the_midst_of_a_sanitize_does_not_end_it() -> None:
    rig = NvmeRig().lie("power-cut-at-erase:40")
    rig.good(0x84, cdw10=BLOCK)
    rig.now += 5.0
    rig.drive.settle()
    assert rig.drive.disk.state.power_cycles == 1
    assert rig.sanitize_log()[:2] == (int(0.4 * 65536), 2)
    rig.now += 10.0
    assert rig.sanitize_log()[1] == 0x101
    assert rig.marked() == []


def test_every_fault_that_an_nvme_drive_can_have_is_tried() -> None:
    tried = {
        "busy", "hardware-error", "media-error", "hang", "hang-once", "vanish", "slow", "read-only",
        "smart-failing", "duplicate-serial", "corrupt-reads", "cache-always-on", "power-cut-at-write",
        "power-cut-at-erase",
    }  # fmt: skip
    elsewhere = {"write-error", "erase-fails", "sanitize-fails"}  # test_nvme_tcp, test_nvme
    assert {fault.name for fault in FAULTS if "nvme" in fault.kinds} == tried | elsewhere
    assert all(BEHAVIOURS[name].kinds for name in tried)
