"""sg3-utils and smartctl on SCSI drives that the guest's own initiator attached; the host reads the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from boot.conftest import Boot, FileServer
from lab.attached import SIZE, Attached, machine_attached
from teeth.lab.drives.firmware import make_image

pytestmark = [pytest.mark.boot, pytest.mark.image]

SCSI = {"kind": "scsi"}
# TEST UNIT READY. sg_turs of sg3-utils 1.48 sends none (bad pass-through setup) and ends with 0.
TUR = "sg_raw $d{} 00 00 00 00 00 00"


async def ready(guest: Attached, number: int) -> None:
    """Wait until the drive takes commands; by REQUEST SENSE, as a host that only polls would."""
    await guest.until(f"sg_requests $d{number}", "No Sense")
    await guest.run(TUR.format(number))


async def test_what_reads_a_drive_reads_these(boot: Boot, debug: str, tmp_path: Path) -> None:
    async with machine_attached(boot, tmp_path, SCSI, {"kind": "sata"}) as guest:
        assert "TEETH" in await guest.run("sg_inq $d0")
        for drive in ("$d0", "$d1"):
            said = await guest.run(f"sg_vpd -a {drive}")
            assert "Non-rotating medium" in said
            await guest.run(f"sg_logs -a {drive}")
        assert "Sanitize, block erase" in await guest.run("sg_opcodes $d0")
        assert "lbpme=1, lbprz=1" in await guest.run("sg_readcap --16 $d0")
        # 4: without the optional page of general statistics, as most drives.
        for command, status, healthy in (
            ("smartctl -x $d0", 0, "Status: OK"),
            ("smartctl -x -d sat $d1", 0, "PASSED"),
        ):
            said = await guest.run(command, status=status)
            assert healthy in said
            for word in ("Invalid", "invalid", "Error reading", "Warning"):
                assert word not in said.replace("Temperature Warning", ""), said
        await reserves(guest)


async def reserves(guest: Attached) -> None:
    await guest.run("sg_persist -o --register --param-sark=0xabc $d0")
    await guest.run("sg_persist -o --reserve --param-rk=0xabc --prout-type=3 $d0")
    assert "Exclusive Access" in await guest.run("sg_persist -i -r $d0")
    await guest.run("dd if=$d0 of=/dev/null bs=4096 count=1 iflag=direct")
    await guest.run("sg_persist -o --clear --param-rk=0xabc $d0")
    assert "NO reservation held" in await guest.run("sg_persist -i -r $d0")


async def test_erases_say_how_far_they_are(boot: Boot, debug: str, tmp_path: Path) -> None:
    async with machine_attached(boot, tmp_path, SCSI | {"erase_seconds": 4}, SCSI) as guest:
        for how in ("--block", "--crypto", "--overwrite --zero"):
            guest.fill(0)
            await guest.run(f"sg_sanitize {how} --quick --early $d0")
            assert "% done" in await guest.run("sg_requests --progress $d0")
            await guest.run(TUR.format(0), status=2)
            await ready(guest, 0)
            assert guest.left(0) == 0
        await formats(guest)
        await unmaps(guest)


async def formats(guest: Attached) -> None:
    guest.fill(0)
    await guest.run("sg_format --format --quick --early $d0")
    await guest.until("sg_requests --progress $d0", "% done")
    await guest.power_cut(0)
    assert guest.left(0) > 0
    said = await guest.run(TUR.format(0), status=3)
    assert "Medium format corrupted" in said
    await guest.run("sg_format --format --quick --early $d0")
    await ready(guest, 0)
    assert guest.left(0) == 0


async def unmaps(guest: Attached) -> None:
    """2048 blocks by UNMAP, the next 2048 by WRITE SAME; no more and no less."""
    await guest.run("sg_unmap --lba=0 --num=2048 --force $d1")
    await guest.run("sg_write_same --lba=2048 --num=2048 --xferlen=512 --in=/dev/zero $d1")
    await guest.run("sg_sync $d1")
    assert guest.left(1) == SIZE - 4096 * 512
    assert not any((guest.folder / "d1.img").read_bytes()[: 4096 * 512])


async def test_new_firmware(boot: Boot, debug: str, tmp_path: Path, file_server: FileServer) -> None:
    for name, data in (("good", make_image("2.00")), ("bad", make_image("3.00")[:-1] + b"?")):
        (file_server.folder / name).write_bytes(data)
    async with machine_attached(boot, tmp_path, SCSI | {"revision": "1.00"}, {"kind": "sata"}) as guest:
        for name in ("good", "bad"):
            await guest.run(f"wget -q -O /{name} {file_server.url}/{name}")
        load = "sg_write_buffer --mode=dmc_offs_save --bpw=16384"
        assert "1.00" in await guest.run("sg_inq $d0")
        # In pieces nobody can tell that the last has come: a bad image is not refused, only never used.
        said = await guest.run("sg_write_buffer --mode=dmc_save --in=/bad $d0", status=None)
        assert "Illegal request, Invalid field in parameter list" in said
        await guest.run(f"{load} --in=/bad $d0")
        assert "1.00" in await guest.run("sg_inq $d0")
        await guest.run(f"{load} --in=/good $d0")
        assert "2.00" in await guest.run("sg_inq $d0")
        sure = "--yes-i-know-what-i-am-doing --please-destroy-my-drive"
        await guest.run(f"hdparm {sure} --fwdownload-mode7 /good $d1")
        assert "2.00" in await guest.run("hdparm -I $d1")


async def test_a_failed_sanitize_and_a_lie(boot: Boot, debug: str, tmp_path: Path) -> None:
    drives = (SCSI | {"faults": ["sanitize-fails:50"]}, SCSI | {"lies": ["erases-half"]})
    async with machine_attached(boot, tmp_path, *drives) as guest:
        await guest.run("sg_sanitize --block --ause --quick --early $d0")
        await guest.until("sg_requests $d0", "anitize command failed")
        await guest.run(TUR.format(0), status=3)
        assert 0 < guest.left(0) < SIZE
        await guest.run("sg_sanitize --fail --quick --early $d0")
        await guest.run(TUR.format(0))
        await guest.run("sg_sanitize --block --quick --early $d1")
        await ready(guest, 1)
        assert guest.left(1) == SIZE // 2
