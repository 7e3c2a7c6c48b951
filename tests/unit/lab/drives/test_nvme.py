"""The NVMe drive model: what it says of itself, its erases, its namespaces, its firmware."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.nvme_rig import BLOCK, BLOCKS, CRYPTO, EXIT, OVERWRITE, THREE, TWO, UNIT, NvmeRig
from teeth.errors import UsageError
from teeth.lab.drives.firmware import make_image
from teeth.lab.drives.nvme import NamespaceSpec, NoCompletionError
from teeth.lab.drives.submission import Code

ALL = 0xFFFFFFFF
SPARES = 64
TOTAL = BLOCKS + SPARES


def number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


# --- identify


def test_identify_tells_who_it_is_and_what_it_can() -> None:
    data = NvmeRig(namespaces=THREE, format_all=True).identify(1)
    assert data[4:24].rstrip() == b"RIG0001"
    assert data[24:64].rstrip() == b"TEETH LAB DRIVE"
    assert number(data, 256, 2) & 0b1110 == 0b1110
    assert number(data, 280, 16) == BLOCKS * UNIT
    assert number(data, 296, 16) == (BLOCKS - 2048 - 2048 - 1024) * UNIT
    assert number(data, 328, 4) == 0b111 | 1 << 30
    assert data[524] == 0b101
    assert data[768:].split(b"\0")[0] == b"nqn.2015-01.lab.teeth:rig"


def test_namespaces_are_listed_as_active_and_as_allocated() -> None:
    rig = NvmeRig(namespaces=THREE)
    assert rig.listed(0x02) == [1, 2]
    assert rig.listed(0x10) == [1, 2, 3]
    second = rig.identify(0x00, 2)
    assert (number(second, 0, 8), second[26], second[128 + 4 + 2]) == (2048 // 8, 1, 12)
    assert rig.identify(0x00, 3) == bytes(4096)
    assert number(rig.identify(0x11, 3), 0, 8) == 1024
    assert rig.status(0x06, nsid=33, cdw10=0) == Code.INVALID_NAMESPACE
    assert rig.identify(0x03, 1)[4:20] != rig.identify(0x03, 2)[4:20]
    assert rig.status(0x06, nsid=3, cdw10=3) == Code.INVALID_NAMESPACE


def test_a_command_that_it_has_not_is_refused_and_noted_in_the_error_log() -> None:
    rig = NvmeRig()
    assert rig.status(0xC0) == Code.INVALID_OPCODE
    assert rig.drive.io(0x42, 1)[0] == Code.INVALID_OPCODE
    log = rig.log(0x01)
    assert [number(log, at, 8) for at in (0, 64, 128)] == [2, 1, 0]
    assert number(log, 12, 2) == Code.INVALID_OPCODE << 1


def test_log_pages_are_read_in_parts() -> None:
    rig = NvmeRig()
    whole = rig.log(0x05, 4096)
    assert rig.log(0x05, 512, offset=512) == whole[512:1024]
    assert whole[4 * 0x84] & 1
    assert not whole[4 * 0x83] & 1
    assert rig.status(0x02, cdw10=0x05 | 127 << 16, cdw12=2) == Code.INVALID_FIELD
    assert rig.status(0x02, cdw10=0x05 | 127 << 16, cdw12=8192) == Code.INVALID_FIELD
    assert rig.status(0x02, cdw10=0xC0 | 127 << 16) == Code.INVALID_LOG_PAGE
    assert [page for page in range(256) if rig.log(0x00, 1024)[4 * page]] == [0, 1, 2, 3, 4, 5, 0x81]


# --- blocks


def test_what_is_written_to_a_namespace_lies_in_its_part_of_the_medium() -> None:
    rig = NvmeRig(namespaces=TWO, dirty=False)
    assert rig.drive.write(1, 3, b"a" * 1024) == 0
    assert rig.drive.write(2, 1, b"b" * 4096) == 0
    assert rig.read(1, 3, 2) == b"a" * 1024
    assert rig.media.read(3 * UNIT, 1024) == b"a" * 1024
    assert rig.media.read((2048 + 8) * UNIT, 4096) == b"b" * 4096
    assert rig.drive.read(1, 2048, 1)[0] == Code.LBA_OUT_OF_RANGE
    assert rig.drive.read(2, 255, 2)[0] == Code.LBA_OUT_OF_RANGE
    assert rig.drive.read(3, 0, 1)[0] == Code.INVALID_NAMESPACE
    assert rig.drive.io(0x01, 1, count=2, data=bytes(512))[0] == Code.SGL_LENGTH


def test_zeroes_deallocate_compare_and_verify() -> None:
    rig = NvmeRig()
    assert rig.drive.io(0x08, 1, lba=0, count=16)[0] == 0
    ranges = bytes(4) + (16).to_bytes(4, "little") + (100).to_bytes(8, "little")
    reply = rig.drive.io(0x09, 1, data=ranges)
    assert reply[0] == 0
    assert rig.marked(100, 116)[:1] == [100]  # without the attribute it is a hint only
    assert rig.status(0x09, cdw10=0x06, cdw11=0) == 0
    assert rig.marked(0, 17) == [16]
    assert rig.drive.io(0x05, 1, lba=0, count=1, data=bytes(512))[0] == 0
    assert rig.drive.io(0x05, 1, lba=0, count=1, data=b"x" * 512)[0] == Code.COMPARE_FAILURE
    rig.lie("media-error:200")
    assert rig.drive.io(0x0C, 1, lba=0, count=2000)[0] == Code.UNRECOVERED_READ


def test_a_power_cut_takes_what_was_not_flushed() -> None:
    rig = NvmeRig(dirty=False)
    rig.drive.write(1, 0, b"a" * 512)
    rig.drive.flush(1)
    rig.drive.write(1, 1, b"b" * 512)
    rig.drive.write(1, 2, b"c" * 512, through=True)
    rig.drive.power_cycle()
    assert rig.read(1, 0, 3) == b"a" * 512 + bytes(512) + b"c" * 512
    assert rig.status(0x09, cdw10=0x06, cdw11=0) == 0
    rig.drive.write(1, 5, b"d" * 512)
    rig.drive.power_cycle()
    assert rig.read(1, 5) == b"d" * 512


# --- sanitize


@pytest.mark.parametrize("action", [BLOCK, CRYPTO, OVERWRITE])
def test_a_sanitize_reaches_all_that_ever_held_data(action: int) -> None:
    rig = NvmeRig(namespaces=THREE)
    rig.drive.write(1, 0, b"x" * 512)
    assert rig.sanitize_log() == (0xFFFF, 0, 0)
    rig.sanitize(action)
    assert rig.marked() == []
    progress, status, word = rig.sanitize_log()
    assert (progress, status & 0x107, word) == (0xFFFF, 0x101, action)
    rig.drive.write(1, 0, b"x" * 512)
    assert rig.sanitize_log()[1] & 0x107 == 0x001


def test_an_overwrite_counts_its_passes_and_leaves_the_pattern() -> None:
    rig = NvmeRig()
    rig.good(0x84, cdw10=OVERWRITE | 2 << 4 | 1 << 8, cdw11=0x04030201)
    rig.now += 10.0
    progress, status, _ = rig.sanitize_log()
    assert (progress, status) == (0x8000, 2 | 1 << 3)
    rig.now += 10.0
    assert rig.sanitize_log()[1] == 1 | 2 << 3 | 0x100
    assert rig.read(1, 7) == bytes((1, 2, 3, 4)) * 128
    rig.good(0x84, cdw10=OVERWRITE)
    rig.now += 100.0
    assert rig.sanitize_log()[0] == int(100 / 160 * 65536)


def test_crypto_leaves_noise_when_told_not_to_deallocate() -> None:
    rig = NvmeRig()
    rig.sanitize(CRYPTO, flags=1 << 9)
    assert len(set(rig.read(1, 0))) > 100
    rig.sanitize(CRYPTO)
    assert not any(rig.read(1, 0))


def test_while_a_sanitize_runs_only_what_tells_of_the_drive_is_answered() -> None:
    rig = NvmeRig()
    rig.good(0x84, cdw10=BLOCK)
    rig.now += 5.0
    busy = Code.SANITIZE_IN_PROGRESS
    assert rig.drive.read(1, 0, 1)[0] == busy
    assert rig.drive.flush(1) == busy
    assert rig.format(1, 1) == busy
    assert rig.status(0x84, cdw10=BLOCK) == busy
    assert rig.status(0x0D, cdw10=1, nsid=1) == busy
    assert rig.status(0x10, cdw10=1 << 3) == busy
    assert rig.status(0x02, cdw10=0x03 | 127 << 16) == busy
    assert rig.status(0x18) == 0
    assert rig.identify(1)
    assert rig.log(0x02)
    assert rig.sanitize_log()[:2] == (0x8000, 2)
    rig.now += 5.0
    assert not any(rig.read(1, 0))


def test_a_sanitize_goes_on_after_a_power_cut(tmp_path: Path) -> None:
    rig = NvmeRig(state=tmp_path / "state")
    rig.good(0x84, cdw10=BLOCK)
    rig.now += 4.0
    rig.drive.power_off()
    rig.now += 1000.0
    rig.drive = rig.make()
    assert rig.sanitize_log()[:2] == (int(0.4 * 65536), 2)
    assert len(rig.marked()) == pytest.approx(0.6 * TOTAL, abs=2)
    rig.now += 6.0
    assert rig.sanitize_log()[1] == 0x101
    assert rig.marked() == []


def test_a_power_cut_while_the_clock_runs_on_leaves_no_block_out() -> None:
    rig = NvmeRig()
    rig.drive.disk.clock = ticking = Ticking(rig)
    rig.good(0x84, cdw10=BLOCK)
    rig.now += 4.0
    ticking.step = 0.01  # about eight blocks from one look at the clock to the next
    rig.drive.power_cycle()
    ticking.step = 0.0
    rig.now += 10.0
    assert rig.sanitize_log()[1] & 7 == 1
    assert rig.marked() == []


class Ticking:
    """A clock that goes on with every look at it."""

    def __init__(self, rig: NvmeRig) -> None:
        self._rig = rig
        self.step = 0.0

    def __call__(self) -> float:
        self._rig.now += self.step
        return self._rig.now


def test_a_failed_restricted_sanitize_can_only_be_repeated(tmp_path: Path) -> None:
    rig = NvmeRig(state=tmp_path / "state").lie("sanitize-fails:30")
    rig.sanitize(BLOCK)
    assert rig.sanitize_log()[:2] == (0xFFFF, 3)
    failed = Code.SANITIZE_FAILED
    assert rig.drive.read(1, 0, 1)[0] == failed
    assert rig.format(1, 1) == failed
    assert rig.status(0x84, cdw10=EXIT) == failed
    assert rig.status(0x84, cdw10=BLOCK | 1 << 3) == failed
    rig.drive = rig.make()  # without the fault
    rig.drive.power_cycle()
    assert rig.drive.read(1, 0, 1)[0] == failed
    rig.sanitize(BLOCK)
    assert rig.sanitize_log()[1] == 0x101
    assert not any(rig.read(1, 0))


def test_a_failed_unrestricted_sanitize_can_be_left() -> None:
    rig = NvmeRig().lie("sanitize-fails:30")
    rig.sanitize(BLOCK, flags=1 << 3)
    assert rig.drive.read(1, 0, 1)[0] == Code.SANITIZE_FAILED
    assert rig.status(0x84, cdw10=EXIT) == 0
    assert rig.sanitize_log()[1] & 7 == 3  # the log still tells of it
    assert rig.read(1, BLOCKS - 1)[:8] == b"REMAINS "


def test_what_a_drive_cannot_sanitize_by_is_refused() -> None:
    from teeth.lab.drives.model import Method

    rig = NvmeRig(sanitizes=frozenset({Method.SANITIZE_CRYPTO}), no_deallocate="inhibited")
    assert number(rig.identify(1), 328, 4) == 1 | 1 << 29
    for word in (0, BLOCK, OVERWRITE, 5, CRYPTO | 1 << 9, CRYPTO | 1 << 10):
        assert rig.status(0x84, cdw10=word) == Code.INVALID_FIELD
    assert rig.status(0x09, cdw10=0x17, cdw11=1) == 0
    rig.sanitize(CRYPTO, flags=1 << 9)
    assert rig.sanitize_log()[1] & 7 == 4
    log = rig.log(0x81)
    assert [number(log, at, 4) for at in (8, 12, 16)] == [ALL, ALL, 10]
    assert NvmeRig(sanitizes=frozenset()).status(0x84, cdw10=BLOCK) == Code.INVALID_OPCODE


# --- format


def test_a_format_erases_its_namespace_only() -> None:
    rig = NvmeRig(namespaces=THREE)
    before = rig.now
    assert rig.format(1, 1) == 0
    assert rig.now == before + 10.0
    assert rig.marked(0, 2048) == []
    assert len(rig.marked()) == TOTAL - 2048
    assert rig.format(2, 2, number=1) == 0
    assert rig.marked(0, 4096) == []
    assert len(set(rig.read(2, 0))) > 100
    assert rig.format(3, 1) == Code.INVALID_FIELD
    assert rig.format(99, 1) == Code.INVALID_NAMESPACE


def test_ses_0_changes_the_block_size_and_erases_nothing() -> None:
    rig = NvmeRig()
    assert rig.format(1, 0, number=1) == 0
    assert number(rig.identify(0, 1), 0, 8) == BLOCKS // 8
    assert len(rig.marked()) == TOTAL


@pytest.mark.parametrize(("spec", "nsid", "left"), [
    ({}, ALL, TOTAL - 4096),
    ({"erase_all": True}, 1, TOTAL - 5120),
    ({"erase_all": True}, ALL, TOTAL - 5120),
    ({"format_all": True}, 1, TOTAL - 2048),
])  # fmt: skip
def test_a_format_of_all_reaches_what_its_attributes_say(spec: dict[str, bool], nsid: int, left: int) -> None:
    rig = NvmeRig(namespaces=THREE, **spec)
    assert rig.format(nsid, 1) == 0
    assert len(rig.marked()) == left


def test_a_format_that_cannot_be_is_refused() -> None:
    rig = NvmeRig(crypto_format=False)
    assert rig.format(1, 2) == Code.INVALID_FIELD
    assert rig.format(1, 3) == Code.INVALID_FIELD
    assert rig.format(1, 1, number=2) == Code.INVALID_FORMAT
    assert rig.status(0x80, nsid=1, cdw10=1 << 9 | 1 << 5) == Code.INVALID_FORMAT
    assert NvmeRig(formats=False).format(1, 1) == Code.INVALID_OPCODE
    rig.lie("read-only")
    assert rig.format(1, 1) == Code.WRITE_PROTECTED


def test_a_format_that_power_cuts_short_leaves_the_namespace_unusable() -> None:
    rig = NvmeRig(namespaces=TWO).lie("power-cut-at-erase:50")
    with pytest.raises(NoCompletionError):
        rig.format(1, 1)
    assert rig.drive.read(1, 0, 1)[0] == Code.NOT_READY
    assert rig.read(2, 0)[:8] == b"REMAINS "
    assert len(rig.marked(0, 2048)) == 1024
    assert rig.identify(0, 1)[32] == 0x80 | 100
    assert rig.format(1, 1) == 0
    assert not any(rig.read(1, 0))


def test_a_format_that_fails_says_so() -> None:
    rig = NvmeRig().lie("erase-fails:10")
    assert rig.format(1, 1) == Code.INTERNAL_ERROR
    assert rig.drive.read(1, 0, 1)[0] == Code.NOT_READY


# --- namespaces


def test_namespaces_are_made_attached_detached_and_deleted() -> None:
    rig = NvmeRig(namespaces=TWO)
    free = BLOCKS - 4096
    assert rig.create(free + 8) == (Code.INSUFFICIENT_CAPACITY, 0)
    assert rig.create(256, number=1) == (0, 3)
    assert rig.listed(0x02) == [1, 2]
    assert rig.attach(3) == 0
    assert rig.attach(3) == Code.ALREADY_ATTACHED
    assert rig.read(3, 0)[:8] == b"REMAINS "  # nobody erased what was there
    assert rig.attach(1, detach=True) == 0
    assert rig.attach(1, detach=True) == Code.NOT_ATTACHED
    assert rig.drive.read(1, 0, 1)[0] == Code.INVALID_NAMESPACE
    assert rig.status(0x0D, nsid=2, cdw10=1) == 0
    assert rig.listed(0x10) == [1, 3]
    assert number(rig.identify(1), 296, 16) == (BLOCKS - 4096) * UNIT
    # Larger than either gap: in two parts.
    assert rig.create(BLOCKS - 4096) == (0, 2)
    assert rig.attach(2) == 0
    assert rig.drive.write(2, BLOCKS - 4096 - 1, b"e" * 512) == 0
    assert rig.media.read((BLOCKS - 1) * UNIT, UNIT) == b"e" * 512
    assert rig.status(0x0D, nsid=ALL, cdw10=1) == 0
    assert rig.listed(0x10) == []


def test_a_namespace_that_cannot_be_is_refused() -> None:
    rig = NvmeRig(namespaces=TWO)
    assert rig.create(0)[0] == Code.INVALID_FIELD
    assert rig.create(8, number=5)[0] == Code.INVALID_FORMAT
    thin = bytes((16, 0, 0, 0, 0, 0, 0, 0, 8)).ljust(4096, b"\0")
    assert rig.status(0x0D, data=thin) == Code.THIN_PROVISIONING
    assert rig.status(0x0D, data=b"") == Code.SGL_LENGTH
    assert rig.status(0x0D, nsid=9, cdw10=1) == Code.INVALID_FIELD
    assert rig.status(0x15, nsid=1, cdw10=1, data=bytes((1, 0, 9, 0))) == Code.CONTROLLER_LIST
    assert NvmeRig(manages=False).create(8)[0] == Code.INVALID_OPCODE


def test_the_shape_outlives_power(tmp_path: Path) -> None:
    rig = NvmeRig(namespaces=THREE, state=tmp_path / "state")
    rig.attach(3)
    rig.format(1, 0, number=1)
    rig.drive = rig.make()
    assert rig.listed(0x02) == [1, 2, 3]
    assert rig.identify(0, 1)[26] == 1


# --- firmware


def load(rig: NvmeRig, revision: str) -> None:
    image = make_image(revision, size=16384)
    for at in range(0, len(image), 4096):
        rig.good(0x11, cdw10=1023, cdw11=at // 4, data=image[at : at + 4096])


def test_firmware_is_downloaded_and_runs_after_a_reset() -> None:
    rig = NvmeRig()
    load(rig, "2.00")
    assert rig.status(0x10, cdw10=2 | 1 << 3) == 0
    log = rig.log(0x03)
    assert (log[0], log[8:16], log[16:24]) == (1 | 2 << 4, b"1.00    ", b"2.00    ")
    assert rig.status(0x84, cdw10=BLOCK) == Code.FIRMWARE_NEEDS_RESET
    rig.drive.reset()
    assert rig.identify(1)[64:72] == b"2.00    "
    assert rig.status(0x10, cdw10=1 | 2 << 3) == 0
    rig.drive.reset()
    assert rig.identify(1)[64:72] == b"1.00    "
    load(rig, "3.00")
    assert rig.status(0x10, cdw10=3 << 3) == 0
    assert rig.identify(1)[64:72] == b"3.00    "


def test_firmware_that_is_none_is_refused() -> None:
    rig = NvmeRig(first_slot_fixed=True)
    assert rig.status(0x10, cdw10=2) == Code.INVALID_FIRMWARE_IMAGE
    load(rig, "2.00")
    assert rig.status(0x11, cdw10=1023, cdw11=512, data=bytes(4096)) == Code.OVERLAPPING_RANGE
    assert rig.status(0x10, cdw10=1) == Code.INVALID_FIRMWARE_SLOT
    assert rig.status(0x10, cdw10=9 & 7 | 7 << 3) == Code.INVALID_FIELD
    assert rig.status(0x10, cdw10=3 | 2 << 3) == Code.INVALID_FIRMWARE_SLOT
    rig.good(0x11, cdw10=0, cdw11=8192, data=b"gap!")
    assert rig.status(0x10, cdw10=2) == Code.INVALID_FIRMWARE_IMAGE
    assert rig.status(0x11, cdw10=1023, cdw11=1 << 28, data=bytes(4096)) == Code.INVALID_FIELD
    assert rig.status(0x11, cdw10=1023, data=bytes(512)) == Code.SGL_LENGTH


# --- features, events


def test_features() -> None:
    rig = NvmeRig()
    assert rig.admin(0x09, cdw10=0x07, cdw11=3 | 200 << 16)[1] == 3 | 3 << 16
    assert rig.admin(0x09, cdw10=0x07, cdw11=99 | 99 << 16)[1] == 7 | 7 << 16
    assert rig.admin(0x0A, cdw10=0x06)[1] == 1
    assert rig.status(0x09, cdw10=0x06 | 1 << 31, cdw11=0) == Code.NOT_SAVEABLE
    assert rig.status(0x09, cdw10=0x02, cdw11=3) == Code.NOT_CHANGEABLE
    assert rig.status(0x0A, cdw10=0xD0) == Code.INVALID_FIELD
    assert NvmeRig(write_cache=False).status(0x0A, cdw10=0x06) == Code.INVALID_FIELD


def test_an_event_tells_that_a_sanitize_has_ended_once_until_the_log_is_read() -> None:
    rig = NvmeRig()
    rig.sanitize(BLOCK)
    assert rig.admin(0x0C)[1] == 6 | 1 << 8 | 0x81 << 16
    rig.sanitize(BLOCK)
    with pytest.raises(NoCompletionError):
        rig.admin(0x0C)
    rig.log(0x81)
    rig.sanitize(BLOCK)
    assert rig.drive.hosts[0].events


def test_an_event_tells_of_changed_namespaces_to_who_wants_to_know() -> None:
    rig = NvmeRig(namespaces=THREE)
    rig.admin(0x09, cdw10=0x0B, cdw11=1 << 8)
    rig.attach(3)
    assert rig.admin(0x0C)[1] == 2 | 0x04 << 16
    assert number(rig.log(0x04), 0, 4) == 3
    assert number(rig.log(0x04), 0, 4) == 0


def test_what_no_drive_can_be_is_refused() -> None:
    for parts in (
        {"namespaces": (NamespaceSpec(blocks=BLOCKS + 8),)},
        {"namespaces": (NamespaceSpec(blocks=9),)},
        {"namespaces": (NamespaceSpec(blocks=8, sector=520),)},
        {"sector": 4096},
        {"slots": 8},
        {"nqn": "iqn.x"},
        {"no_deallocate": "maybe"},
    ):
        with pytest.raises(UsageError):
            NvmeRig(**parts)  # type: ignore[arg-type]
