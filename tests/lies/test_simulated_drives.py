"""The simulated machine keeps its promises: time, commands, errors as a kernel gives them, power."""

from __future__ import annotations

import threading

import pytest

from fakes.simulated_drives import SimulatedMachine, Slot
from fakes.simulated_kernel import SimulatedDevice
from fakes.virtual_time import PowerCutError, VirtualClock
from teeth.lab.drives.model import DriveSpec
from teeth.lab.drives.nvme import NamespaceSpec, NvmeSpec
from teeth_agent.drives.sense import parse_sense
from teeth_agent.errors import DeviceError

UNREADABLE = bytes.fromhex("f4")  # no such command
TUR = bytes(6)


def machine(kind: str = "scsi", *behaviours: str, bus: str = "sas", **spec: object) -> SimulatedMachine:
    parts = {"name": "x", "blocks": 4096, "serial": "S1", "wwn": "5000c500a1b2c3d4", "erase_seconds": 600.0}
    made = DriveSpec(**{**parts, **spec})  # type: ignore[arg-type]
    return SimulatedMachine([Slot(kind=kind, spec=made, bus=bus, behaviours=behaviours)]).boot()


def messages(found: SimulatedMachine) -> str:
    lines = []
    while True:
        try:
            lines.append(found.talk.read().decode())
        except BlockingIOError:
            return "".join(lines)


@pytest.mark.parametrize(
    ("kind", "bus"), [("scsi", "sas"), ("sata", "sata"), ("sata", "sas"), ("sata", "usb")]
)
def test_a_drive_looks_as_the_kernel_shows_it(kind: str, bus: str) -> None:
    (medium,) = machine(kind, bus=bus, sector=4096, blocks=512).look()
    assert (medium.size, medium.logical_block) == (2 << 20, 4096)
    assert (medium.serial, medium.wwn, medium.firmware) == ("S1", "0x5000c500a1b2c3d4", "1.00")
    assert (medium.transport, medium.vendor) == (bus, "ATA" if kind == "sata" else "TEETH")
    assert medium.model == ("TEETH LAB DRIVE" if kind == "sata" else "LAB DRIVE")


def test_what_is_written_is_on_the_medium_once_it_is_flushed() -> None:
    found = machine()
    with found.open("/dev/sda", write=True) as device:
        device.write_from(512, memoryview(b"x" * 1024))
        assert bytes(found.media[0].read(512, 1024)) == b"x" * 1024
        found.power_cut()
        assert bytes(found.media[0].read(512, 1024)) == bytes(1024)
    found.boot()
    with found.open("/dev/sda", write=True) as device:
        device.write_from(512, memoryview(b"x" * 1024))
        device.flush()
        found.power_cut()
        assert bytes(found.media[0].read(512, 1024)) == b"x" * 1024


def test_a_bad_block_gives_an_error_and_lines_in_the_log() -> None:
    found = machine("scsi", "media-error:9")
    with found.open("/dev/sda", write=False) as device, pytest.raises(DeviceError) as caught:
        device.read_into(0, memoryview(bytearray(8192)))
    assert caught.value.code == "read_failed"
    assert "critical medium error, dev sda" in messages(found)


def test_a_drive_that_hangs_is_reset_and_goes_offline() -> None:
    found = machine()
    before = found.clock.now
    found.arm(0, "hang")
    with found.open("/dev/sda", write=False) as device, pytest.raises(DeviceError):
        device.read_into(0, memoryview(bytearray(512)))
    assert found.clock.now - before > 30
    said = messages(found)
    assert "timing out command" in said
    assert "rejecting I/O to offline device" in said


def test_a_drive_that_hangs_once_answers_after_a_reset() -> None:
    found = machine()
    found.arm(0, "hang-once")
    with found.open("/dev/sda", write=False) as device:
        device.read_into(0, memoryview(bytearray(512)))
    assert "Power-on or device reset occurred" in messages(found)


@pytest.mark.parametrize("descriptor", [False, True])
def test_commands_go_through_and_sense_comes_back_in_the_drives_format(descriptor: bool) -> None:
    found = machine(descriptor_sense=descriptor)
    with found.open_scsi("/dev/sda") as port:
        reply = port.command(UNREADABLE + bytes(5))
    assert reply.status == 2
    assert reply.sense[0] & 0x7F == (0x72 if descriptor else 0x70)
    assert parse_sense(reply.sense).codes == (5, 0x20, 0)
    assert [sent.cdb[0] for sent in found.sent] == [0xF4]


def test_a_command_that_takes_too_long_is_aborted_and_says_so() -> None:
    found = machine()
    found.arm(0, "hang-once")
    with found.open_scsi("/dev/sda") as port:
        assert port.command(TUR, timeout=10).transport
        assert port.command(TUR, timeout=10).transport == 0


def test_a_sanitize_runs_while_time_is_passed() -> None:
    found = machine()
    with found.open_scsi("/dev/sda") as port:
        assert port.command(bytes.fromhex("48820000000000000000")).status == 0
        reply = port.command(TUR)
        assert parse_sense(reply.sense).codes == (2, 4, 0x1B)
        with found.open("/dev/sda", write=False) as device, pytest.raises(DeviceError):
            device.read_into(0, memoryview(bytearray(512)))
        found.pause(601)
        assert port.command(TUR).status == 0


def test_a_command_that_lasts_in_a_thread_ends_in_the_time_of_the_others() -> None:
    """As a security erase does: it waits in its thread, others pass the time."""
    found = machine()
    found.arm(0, "slow:300")
    ended: list[float] = []

    def lasting() -> None:
        with found.open_scsi("/dev/sda") as port:
            assert port.command(TUR, timeout=900).status == 0
            ended.append(found.clock.now)

    began = found.clock.now
    thread = threading.Thread(target=lasting)
    seen: list[int] = []

    def passing() -> None:
        found.now()
        thread.start()
        for _ in range(10):
            found.pause(60)
            seen.append(len(ended))

    other = threading.Thread(target=passing)
    other.start()
    other.join()
    thread.join()
    assert 300 <= ended[0] - began < 360
    assert seen[0] == 0
    assert seen[-1] == 1


def test_the_power_goes_after_so_many_questions_and_whoever_runs_has_no_effect() -> None:
    found = machine()
    found.power_cut()
    found.boot(cut_after_ops=3)
    with found.open("/dev/sda", write=True) as device:
        device.write_from(0, memoryview(b"y" * 512))
        device.flush()
        with pytest.raises(PowerCutError):
            device.write_from(512, memoryview(b"y" * 512))
    assert bytes(found.media[0].read(0, 1024)) == b"y" * 512 + bytes(512)
    stale: SimulatedDevice = device
    found.boot()
    with pytest.raises(PowerCutError):
        stale.write_from(0, memoryview(bytes(512)))
    assert bytes(found.media[0].read(0, 512)) == b"y" * 512


def test_the_power_goes_at_a_time_and_a_sanitize_goes_on_after_it() -> None:
    found = machine()
    found.power_cut()
    found.boot(cut_after_seconds=100)
    with found.open_scsi("/dev/sda") as port:
        port.command(bytes.fromhex("48820000000000000000"))
        with pytest.raises(PowerCutError):
            found.pause(601)
    found.boot()
    assert found.look()[0].size == 0  # not ready when it was scanned
    with found.open_scsi("/dev/sda") as port:
        assert parse_sense(port.command(TUR).sense).codes == (2, 4, 0x1B)
        found.pause(601)
        assert port.command(TUR).status == 0


def test_two_writers_are_noticed() -> None:
    found = machine()
    with found.open("/dev/sda", write=True), found.open("/dev/sda", write=False):
        pass
    assert found.writers.twice == []
    with found.open("/dev/sda", write=True), found.open("/dev/sda", write=True):
        pass
    assert found.writers.twice == ["/dev/sda"]


def test_the_clock_moves_only_when_all_wait() -> None:
    clock, both = VirtualClock(), threading.Barrier(2)
    order: list[tuple[str, float]] = []

    def walk(name: str, step: float) -> None:
        clock()
        both.wait(30)
        for _ in range(3):
            clock.pause(step)
            order.append((name, clock.now))

    threads = [threading.Thread(target=walk, args=item) for item in (("a", 2.0), ("b", 5.0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(at for _, at in order) == clock.now == 1015.0


# --- NVMe


def nvme(*behaviours: str, **spec: object) -> SimulatedMachine:
    parts = {"name": "x", "blocks": 4096, "serial": "N1", "wwn": "5000c500a1b2c3d4", "erase_seconds": 600.0}
    made = NvmeSpec(**{**parts, **spec})  # type: ignore[arg-type]
    return SimulatedMachine([Slot(kind="nvme", spec=made, bus="nvme", behaviours=behaviours)]).boot()


def test_namespaces_are_block_devices() -> None:
    spaces = (
        NamespaceSpec(blocks=1024),
        NamespaceSpec(blocks=1024, attached=False),
        NamespaceSpec(blocks=2048, sector=4096),
    )
    found = nvme(namespaces=spaces)
    first, second = found.look()
    assert [(one.name, one.size, one.logical_block) for one in (first, second)] == [
        ("nvme0n1", 1024 * 512, 512),
        ("nvme0n3", 2048 * 512, 4096),
    ]
    assert (first.serial, first.controller, first.transport) == ("N1", "nvme0", "nvme")
    assert first.wwn != second.wwn
    with found.open_nvme("/dev/nvme0") as port:
        attach = port.admin(0x15, nsid=2, send=bytes((1, 0, 1, 0)).ljust(4096, b"\0"))
    assert attach.good
    assert [one.name for one in found.look()] == ["nvme0n1", "nvme0n2", "nvme0n3"]


def test_nvme_blocks_are_read_and_written_and_lost_with_the_power() -> None:
    found = nvme()
    data = bytearray(4096)
    with found.open("/dev/nvme0n1", write=True) as device:
        device.write_from(512, memoryview(b"x" * 4096))
        device.read_into(512, memoryview(data))
        device.flush()
        device.write_from(8192, memoryview(b"y" * 4096))
    assert data == b"x" * 4096
    found.power_cut()
    assert bytes(found.media[0].read(512, 4096)) == b"x" * 4096
    assert bytes(found.media[0].read(8192, 4096)) == bytes(4096)


def test_a_format_waits_and_one_without_secure_erase_is_not_sent() -> None:
    found = nvme()
    before = found.clock.now
    with found.open_nvme("/dev/nvme0") as port:
        assert port.admin(0x80, nsid=1, cdw10=1 << 9, timeout=900).good
        assert found.clock.now - before >= 600
        with pytest.raises(ValueError, match="ses=0"):
            port.admin(0x80, nsid=1)


def test_an_nvme_drive_that_hangs_is_removed() -> None:
    found = nvme()
    found.arm(0, "hang")
    with found.open("/dev/nvme0n1", write=False) as device, pytest.raises(DeviceError):
        device.read_into(0, memoryview(bytearray(512)))
    said = messages(found)
    assert "nvme nvme0: I/O tag 1 (1001) opcode 0x2 timeout, reset controller" in said
    assert "Removing after probe failure" in said
    assert found.look() == ()


def test_a_sanitizing_nvme_drive_refuses_reads() -> None:
    found = nvme()
    with found.open_nvme("/dev/nvme0") as port:
        assert port.admin(0x84, cdw10=2).good
    with found.open("/dev/nvme0n1", write=False) as device, pytest.raises(DeviceError):
        device.read_into(0, memoryview(bytearray(512)))
    found.pause(601)
    with found.open("/dev/nvme0n1", write=False) as device:
        device.read_into(0, memoryview(bytearray(512)))
