"""A simulated drive below real tools, with a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakes.drive_rig import Rig
from fakes.sgio_bridge import Bench, bench
from teeth.lab.drives.behaviours import make

TOOLS = ("hdparm", "sg_raw", "smartctl")
SURE = "--yes-i-know-what-i-am-doing"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolBench:
    """``rig`` has the drive and what truly lies on its medium; ``tools`` are what a user has."""

    rig: Rig
    tools: Bench
    folder: Path

    @property
    def left(self) -> int:
        """Blocks of the medium, retired ones too, that hold what they held at first."""
        return len(self.rig.marked())

    def run(self, line: str, *, status: int | None = 0) -> str:
        """A tool's output; the drive is the word DEVICE, at the end unless it is named."""
        words = line.split()
        return self.tools.run(*words, *([] if "DEVICE" in words else ["DEVICE"]), status=status)

    def power_cycle(self) -> None:
        """Power goes and comes back; the unit attention of that is taken off."""
        self.rig.power_cycle()
        self.rig.run("03000000ff", nexus="tool")

    def read(self, lba: int) -> bytes:
        """A block as a user's program reads it."""
        out = self.folder / "read"
        out.unlink(missing_ok=True)
        self.run(f"sg_raw -o {out} -r 512 DEVICE 28 00 {lba.to_bytes(4, 'big').hex(' ')} 00 00 01 00")
        return out.read_bytes()

    def write(self, lba: int, data: bytes, *, status: int = 0) -> None:
        """As a user's program writes it, and flushes it."""
        (self.folder / "write").write_bytes(data)
        count = (len(data) // 512).to_bytes(2, "big").hex(" ")
        where = lba.to_bytes(4, "big").hex(" ")
        self.run(
            f"sg_raw -i {self.folder / 'write'} -s {len(data)} DEVICE 2a 00 {where} 00 {count} 00",
            status=status,
        )
        self.run("sg_sync")


@contextmanager
def tool_bench(library: Path, folder: Path, kind: str, *behaviours: str, **spec: Any) -> Iterator[ToolBench]:
    """A drive full of a pattern while the block runs. Unless ``erase_seconds`` says otherwise its erases take
    no time: the clock stands still, so a tool would wait for ever.
    """
    folder.mkdir()
    rig = Rig(kind, **{"descriptor_sense": kind == "sata", "erase_seconds": 0.0} | spec)
    for text in behaviours:
        rig.drive.disk.add(make(text))
    with bench(rig.drive, library, folder) as tools:
        yield ToolBench(rig=rig, tools=tools, folder=folder)
