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
# One check sends ones with UNMAP and wants zeros back, where SBC-4 5.50 has the block written as it was sent.
KNOWN = {"Suite WriteSame10, Test UnmapUntilEnd had failures:"}


@pytest.mark.parametrize(
    "drive", [{"kind": "scsi", "erase_seconds": 5}, {"kind": "sata"}], ids=["scsi", "sata"]
)
async def test_the_whole_suite(tmp_path: Path, drive: dict[str, Any]) -> None:
    entry = {"name": "d0", "size": "64 MiB"} | drive
    spec = parse({"listen": "127.0.0.1:0", "drive": [entry]}, tmp_path / "spec.toml")
    async with serve(spec) as serving:
        process = await asyncio.create_subprocess_exec(
            *("iscsi-test-cu", "-d", "-S", "-n", serving.url(serving.drives[0])),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(SECONDS):
            raw, _ = await process.communicate()
    output = raw.decode()
    failed = {line.strip() for line in output.splitlines() if line.endswith("had failures:")}
    assert failed <= KNOWN, output
    assert int(output.split("tests")[-1].split()[1]) > 600
