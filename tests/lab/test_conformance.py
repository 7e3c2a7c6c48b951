"""libiscsi's conformance suite on the served drives, whole: too long for the fast tests."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from teeth.lab.drives.server import serve
from teeth.lab.drives.spec import parse

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("iscsi-test-cu") is None, reason="iscsi-test-cu is not installed"),
]
SECONDS = 900.0
KNOWN = {
    # It sends ones with UNMAP and wants zeros back, where SBC-4 5.50 has the block written as it was sent.
    "Suite WriteSame10, Test UnmapUntilEnd had failures:",
    # They ask for 256 blocks, which the one byte of the field makes none: SBC-4 5.2 says that is no error.
    "Suite CompareAndWrite, Test Simple had failures:",
    "Suite CompareAndWrite, Test Miscompare had failures:",
}


async def checked(folder: Path, drive: dict[str, Any], *options: str) -> int:
    """Run the suite and see that nothing but KNOWN fails; how many checks it ran."""
    entry = {"name": "d0", "size": "64 MiB"} | drive
    spec = parse({"listen": "127.0.0.1:0", "drive": [entry]}, folder / "spec.toml")
    async with serve(spec) as serving:
        process = await asyncio.create_subprocess_exec(
            *("iscsi-test-cu", "-d", "-n", *options, serving.url(serving.drives[0])),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(SECONDS):
            raw, _ = await process.communicate()
    output = raw.decode()
    failed = {line.strip() for line in output.splitlines() if line.endswith("had failures:")}
    assert failed <= KNOWN, output
    return sum(int(line.split()[2]) for line in output.splitlines() if line.strip().startswith("tests "))


@pytest.mark.parametrize("kind", ["scsi", "sata"])
async def test_the_whole_suite(tmp_path: Path, kind: str) -> None:
    assert await checked(tmp_path, {"kind": kind}) > 600


async def test_the_checks_of_sanitize(tmp_path: Path) -> None:
    # Longer than the suite waits before it looks whether one is in progress.
    assert await checked(tmp_path, {"kind": "scsi", "erase_seconds": 5}, "-S", "-t", "ALL.Sanitize") >= 11
