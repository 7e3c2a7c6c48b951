"""A zoned NVMe drive, as QEMU emulates it, and the kernel's own words about its zones."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from boot.conftest import Boot
from boot.test_lab_hardware import start_shell

pytestmark = [pytest.mark.boot, pytest.mark.image]

MIB = 1 << 20
ZONE, CAPACITY, ZONES = 4, 3, 16  # MiB, MiB, zones
MARK = b"REMAINS "

# Fills every zone with a pattern; plants nothing, overwrites, reads back; then tries what must be refused.
ERASE = """
from teeth_agent.blockio import aligned_buffer, open_device, zones_of
from teeth_agent.erase.overwrite import overwrite
from teeth_agent.errors import DeviceError
MIB = 1 << 20
mark = aligned_buffer(MIB)
mark[:] = b"REMAINS " * (MIB // 8)
with open_device("/dev/nvme0n1", write=True) as device:
    zones = zones_of(device)
    print("zones", len(zones), {(z.length // MIB, z.capacity // MIB, z.kind.name) for z in zones})
    for zone in zones:
        for offset in range(zone.start, zone.start + zone.capacity, MIB):
            device.write_from(offset, mark)
    device.flush()
    device.read_into(zones[-1].start, mark)
    print("before", bytes(mark[:7]))
    done = overwrite(device, lambda amount: None, seeks=False)
    print("after", done.written, done.readback.read, done.readback.holds)
    try:
        device.write_from(zones[0].start + MIB, mark)
    except DeviceError as error:
        print("refused", error.code)
"""


async def test_a_zoned_namespace_is_overwritten_in_order(boot: Boot, ramdisk: Path, tmp_path: Path) -> None:
    medium = tmp_path / "zoned.img"
    medium.write_bytes(MARK * (ZONE * ZONES * MIB // len(MARK)))
    extra = (
        "-drive", f"id=zoned,file={medium},format=raw,if=none",
        "-device", "nvme,id=zoned-nvme,serial=ZONED1",
        "-device", "nvme-ns,drive=zoned,bus=zoned-nvme,zoned=true,zoned.zone_size=4M,zoned.zone_capacity=3M",
    )  # fmt: skip
    _, shell = await start_shell(boot, ramdisk, extra=extra)
    await shell.run("until test -e /dev/nvme0n1; do :; done")
    told = "\n".join(await shell.run("cat /sys/block/nvme0n1/queue/zoned"))
    assert "host-managed" in told
    await shell.run(": > /zoned.b64")
    coded = base64.b64encode(ERASE.encode()).decode()
    for start in range(0, len(coded), 800):  # a terminal's line holds 4095 characters
        await shell.run(f"echo {coded[start : start + 800]} >> /zoned.b64")
    told = "\n".join(await shell.run("base64 -d /zoned.b64 > /zoned.py; python3 /zoned.py"))
    able = CAPACITY * ZONES * MIB
    assert f"zones {ZONES} {{({ZONE}, {CAPACITY}, 'SEQUENTIAL')}}" in told
    assert "before b'REMAINS'" in told
    assert f"after {able} {able} True" in told
    assert "refused write_failed" in told
    content = medium.read_bytes()
    for zone in range(ZONES):
        start = zone * ZONE * MIB
        assert content[start : start + CAPACITY * MIB] == bytes(CAPACITY * MIB)
