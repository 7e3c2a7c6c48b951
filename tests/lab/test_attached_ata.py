"""hdparm on SATA drives that the guest's own initiator attached: what it says, and what the host reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from boot.conftest import Boot
from lab.attached import SIZE, SURE, Attached, machine_attached

pytestmark = [pytest.mark.boot, pytest.mark.image]

SATA = {"kind": "sata"}
LONG = SATA | {"erase_seconds": 8}
USER = "hdparm --user-master u"


async def test_security_erases_and_its_refusals(boot: Boot, debug: str, tmp_path: Path) -> None:
    async with machine_attached(boot, tmp_path, SATA, SATA, SATA | {"erase_seconds": 4}) as guest:
        await erases(guest)
        await freezes(guest)
        await expires(guest)
        await is_cut_off(guest)


async def erases(guest: Attached) -> None:
    said = await guest.run("hdparm -I $d0")
    for line in ("Security:", "supported: enhanced erase", "SANITIZE feature set", "Checksum: correct"):
        assert line in said, said
    for how in ("--security-erase", "--security-erase-enhanced"):
        guest.fill(0)
        await guest.run(f"{USER} --security-set-pass p $d0")
        assert "not\tenabled" not in await guest.run("hdparm -I $d0")
        assert guest.left(0) == SIZE
        await guest.run(f"{USER} {how} p $d0")
        assert guest.left(0) == 0
        assert "not\tenabled" in await guest.run("hdparm -I $d0")


async def freezes(guest: Attached) -> None:
    await guest.run("hdparm --security-freeze $d0")
    assert "not\tfrozen" not in await guest.run("hdparm -I $d0")
    # Not so behind QEMU's pass-through, where a refusal ends with 0.
    await guest.run(f"{USER} --security-set-pass p $d0", status=5)
    assert "not\tenabled" in await guest.run("hdparm -I $d0")


async def expires(guest: Attached) -> None:
    await guest.run(f"{USER} --security-set-pass p $d1")
    await guest.power_cut(1)
    assert "not\tlocked" not in await guest.run("hdparm -I $d1")
    for _ in range(5):
        await guest.run(f"{USER} --security-unlock wrong $d1", status=5)
    assert "not\texpired" not in await guest.run("hdparm -I $d1")
    await guest.run(f"{USER} --security-unlock p $d1", status=5)
    await guest.power_cut(1)
    await guest.run(f"{USER} --security-unlock p $d1")
    await guest.run(f"{USER} --security-disable p $d1")
    assert "not\tenabled" in await guest.run("hdparm -I $d1")
    assert guest.left(1) == SIZE


async def is_cut_off(guest: Attached) -> None:
    """The power goes in the middle of the erase: the drive comes back locked, half of it erased."""
    guest.drive(2).add("power-cut-at-erase:40")
    await guest.run(f"{USER} --security-set-pass p $d2")
    await guest.run(f"{USER} --security-erase p $d2", status=None)
    await guest.attach(2)
    said = await guest.run("hdparm -I $d2")
    assert "not\tlocked" not in said
    assert "not\tenabled" not in said
    assert 0 < guest.left(2) < SIZE
    await guest.run("dd if=$d2 of=/dev/null bs=4096 count=1 iflag=direct", status=1)
    await guest.run(f"{USER} --security-unlock p $d2")
    await guest.run(f"{USER} --security-disable p $d2")
    assert "not\tenabled" in await guest.run("hdparm -I $d2")
    await guest.run("dd if=$d2 of=/dev/null bs=4096 count=1 iflag=direct")


async def test_sanitize_shows_its_state(boot: Boot, debug: str, tmp_path: Path) -> None:
    async with machine_attached(boot, tmp_path, SATA | {"erase_seconds": 4}, SATA, LONG) as guest:
        assert "SD0 Sanitize Idle" in await guest.run("hdparm --sanitize-status $d0")
        for how in (
            "--sanitize-crypto-scramble",
            "--sanitize-block-erase",
            "--sanitize-overwrite-passes 1 --sanitize-overwrite hex:A5A5A5A5",
        ):
            guest.fill(0)
            await guest.run(f"hdparm {SURE} {how} $d0")
            assert "SD2 Sanitize operation In Process" in await guest.run("hdparm --sanitize-status $d0")
            await guest.until("hdparm --sanitize-status $d0", "Completed Without Error")
            assert guest.left(0) == 0
        assert (tmp_path / "d0.img").read_bytes()[:512] == b"\xa5" * 512
        await locks(guest)
        await goes_on(guest)


async def locks(guest: Attached) -> None:
    await guest.run("hdparm --sanitize-antifreeze-lock $d1")
    await guest.run("hdparm --sanitize-freeze-lock $d1", status=5)
    await guest.power_cut(1)
    await guest.run("hdparm --sanitize-freeze-lock $d1")
    assert "SD1 Sanitize Frozen" in await guest.run("hdparm --sanitize-status $d1")
    await guest.run(f"hdparm {SURE} --sanitize-block-erase $d1", status=5)
    assert guest.left(1) == SIZE


async def goes_on(guest: Attached) -> None:
    """Sanitize survives a power cut (ACS-4 4.17.4): it ends by itself."""
    await guest.run(f"hdparm {SURE} --sanitize-block-erase $d2")
    disk = guest.drive(2).device.disk
    guest.drive(2).power_off()
    assert 0 < guest.left(2) <= SIZE
    guest.drive(2).power_on()
    assert disk.state.sanitize.state == "running"
    # The kernel takes no disk that is not ready: by the time it is attached all is over.
    await guest.attach(2)
    await guest.until("hdparm --sanitize-status $d2", "Completed Without Error")
    assert guest.left(2) == 0


async def test_hidden_areas_are_seen_opened_and_erased(boot: Boot, debug: str, tmp_path: Path) -> None:
    async with machine_attached(boot, tmp_path, SATA | {"hidden": 768, "overlaid": 1000}) as guest:
        said = await guest.run("hdparm -N $d0")
        assert "max sectors   = 31000/31768, HPA is enabled" in said
        assert "Real max sectors: 32768" in await guest.run("hdparm --dco-identify $d0")
        await guest.run(f"hdparm {SURE} -N p31768 $d0")
        assert "HPA is disabled" in await guest.run("hdparm -N $d0")
        await guest.run(f"hdparm {SURE} --dco-restore $d0")
        assert guest.drive(0).device.disk.accessible == 32768
        await guest.power_cut(0)
        assert "max sectors   = 32768/32768" in await guest.run("hdparm -N $d0")
