"""A process under test: what it says on stderr, and the most memory that it took since it was last asked."""

from __future__ import annotations

import asyncio
import contextlib
import re
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path

_DEADLINE = 60.0


class Measured:
    """A running process; its output goes to files in ``folder``."""

    def __init__(self, process: Process, folder: Path) -> None:
        self.process = process
        self.out = folder / "stdout"
        self.err = folder / "stderr"

    async def says(self, pattern: str) -> re.Match[str]:
        """Until its stdout holds ``pattern``."""
        async with asyncio.timeout(_DEADLINE):
            while True:
                text = self.out.read_text(encoding="utf-8", errors="replace")
                if (found := re.search(pattern, text)) is not None:
                    return found
                assert self.process.returncode is None, self.err.read_text(encoding="utf-8", errors="replace")
                await asyncio.sleep(0.05)  # a file cannot be waited on

    def reset_peak(self) -> int:
        """Forget the peak; returns the bytes that are resident now (proc(5): clear_refs, VmRSS)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")
        return self._status("VmRSS")

    def peak(self) -> int:
        """The most bytes that were resident since ``reset_peak`` (proc(5): VmHWM)."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
        assert found is not None
        return int(found[1]) << 10

    def faults(self) -> list[str]:
        """Lines that tell of an exception nobody expected."""
        text = self.err.read_text(encoding="utf-8", errors="replace")
        return [
            line for line in text.splitlines() if re.search(r"Traceback|Error:|failed inside|never", line)
        ]


@contextlib.asynccontextmanager
async def measured(folder: Path, *argv: str | Path) -> AsyncIterator[Measured]:
    """Run ``argv`` for as long as the block lasts; it must still run at its end."""
    with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:  # noqa: ASYNC230, PTH123 - before anything runs
        process = await asyncio.create_subprocess_exec(*map(str, argv), stdout=out, stderr=err)
    running = Measured(process, folder)
    try:
        yield running
        assert process.returncode is None, running.err.read_text(encoding="utf-8", errors="replace")[-2000:]
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(20):
                    await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
