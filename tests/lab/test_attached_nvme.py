"""nvme-cli on NVMe drives that the guest's own kernel attached by NVMe/TCP; the host reads the files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from boot.conftest import Boot, FileServer
from lab.attached import SIZE, Attached, machine_attached
from teeth.lab.drives.firmware import make_image

pytestmark = [pytest.mark.boot, pytest.mark.image]

HALF = SIZE // 2
NVME: dict[str, Any] = {"kind": "nvme", "namespaces": [{"size": "8 MiB"}, {"size": "8 MiB"}]}
# Sanitize status (base 2.0, 5.16.1.25): 100h, nothing was written since a sanitize, may be in all of them.
# The passes of an overwrite are counted in bits 3 to 7.
RUNNING, CLEAN, FAILED = "0x[01]*2", "0x10[19]", "0x[01]*3"


async def log(guest: Attached, number: int) -> str:
    return await guest.run(f"nvme sanitize-log $d{number}")


async def namespaces(guest: Attached, *which: str) -> list[str]:
    """The numbers that nvme-cli lists."""
    return re.findall(r"\]:(0x\w+)", await guest.run(" ".join(("nvme list-ns $d0", *which))))


async def ends(guest: Attached, number: int, status: str) -> str:
    """Wait until the sanitize status log says so."""
    return await guest.until(f"nvme sanitize-log $d{number}", f"SSTAT.*: *{status}$")


async def test_a_drive_tells_of_itself_and_is_formatted(boot: Boot, debug: str, tmp_path: Path) -> None:
    async with machine_attached(boot, tmp_path, NVME | {"serial": "SN1", "crypto_format": True}) as guest:
        said = await guest.run("nvme id-ctrl -H $d0")
        for line in ("SN1", "Crypto Erase Sanitize Operation Supported", "Format NVM Supported"):
            assert line in said, said
        assert await namespaces(guest) == ["0x1", "0x2"]
        # By its number: which of the device files ${d0}n1 and ${d0}n2 is which, the kernel leaves to chance.
        await guest.run("nvme format $d0 --namespace-id=1 --ses=1 --force")
        assert (guest.left(size=HALF), guest.left(first=HALF)) == (0, HALF)
        guest.fill(0)
        await guest.run("nvme format $d0 --namespace-id=2 --ses=2 --force")
        assert (guest.left(size=HALF), guest.left(first=HALF)) == (HALF, 0)
        await detaches(guest)


async def detaches(guest: Attached) -> None:
    await guest.run("nvme detach-ns $d0 --namespace-id=2 --controllers=1")
    assert await namespaces(guest) == ["0x1"]
    assert await namespaces(guest, "--all") == ["0x1", "0x2"]
    await guest.run("[ $(ls /sys/block | grep -c nvme) = 1 ]")
    await guest.run("nvme attach-ns $d0 --namespace-id=2 --controllers=1")
    assert await namespaces(guest) == ["0x1", "0x2"]


async def test_sanitize_shows_its_state(boot: Boot, debug: str, tmp_path: Path) -> None:
    fails = NVME | {"faults": ["sanitize-fails:30"]}
    async with machine_attached(boot, tmp_path, NVME | {"erase_seconds": 4}, fails) as guest:
        for how in ("-a 2", "-a 4", "-a 3 --owpass=1 --ovrpat=0xa5a5a5a5"):
            guest.fill(0)
            await guest.run(f"nvme sanitize $d0 {how}")
            assert re.search(rf"SSTAT\) : +{RUNNING}$", await log(guest, 0), re.MULTILINE)
            await ends(guest, 0, CLEAN)
            assert guest.left() == 0
        assert (tmp_path / "d0.img").read_bytes()[:512] == b"\xa5" * 512
        await fails_and_is_left(guest)


async def fails_and_is_left(guest: Attached) -> None:
    """An unrestricted failure is left by action 1; the content that the sanitize did not reach is back."""
    await guest.run("nvme sanitize $d1 -a 2 --ause")
    await ends(guest, 1, FAILED)
    await guest.run("dd if=${d1}n1 of=/dev/null bs=4096 count=1 iflag=direct", status=1)
    assert 0 < guest.left(1) < SIZE
    await guest.run("nvme sanitize $d1 -a 1")
    said = await guest.run("dd if=${d1}n2 bs=4096 skip=2000 count=1 iflag=direct 2>/dev/null | head -c 16")
    assert "REMAINS REMAINS" in said


async def test_a_sanitize_outlives_the_power(boot: Boot, debug: str, tmp_path: Path) -> None:
    liar = NVME | {"lies": ["skips-one-namespace"]}
    async with machine_attached(boot, tmp_path, NVME | {"erase_seconds": 20}, liar) as guest:
        await guest.run("nvme sanitize $d0 -a 2")
        await guest.power_cut(0)
        assert guest.left(0) > 0
        assert re.search(rf"SSTAT\) : +{RUNNING}$", await log(guest, 0), re.MULTILINE)
        # Meanwhile: all is said to be well, and one namespace is whole.
        await guest.run("nvme sanitize $d1 -a 2")
        await ends(guest, 1, CLEAN)
        assert (guest.left(1, size=HALF), guest.left(1, first=HALF)) == (0, HALF)
        await ends(guest, 0, CLEAN)
        assert guest.left(0) == 0


async def test_new_firmware(boot: Boot, debug: str, tmp_path: Path, file_server: FileServer) -> None:
    (file_server.folder / "good").write_bytes(make_image("2.00"))
    (file_server.folder / "bad").write_bytes(make_image("3.00")[:-1] + b"?")
    async with machine_attached(boot, tmp_path, NVME | {"revision": "1.00"}) as guest:
        for name, status, revision in (("bad", None, "1.00"), ("good", 0, "2.00")):
            await guest.run(f"wget -q -O /{name} {file_server.url}/{name}")
            await guest.run(f"nvme fw-download $d0 --fw=/{name}")
            said = await guest.run("nvme fw-commit $d0 --slot=2 --action=3", status=status)
            assert said
            assert f"fr : {revision}" in " ".join((await guest.run("nvme id-ctrl $d0")).split())
