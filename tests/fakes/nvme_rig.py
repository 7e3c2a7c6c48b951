"""A simulated NVMe drive on a bench: time passes when a command wants it to, the medium can be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from teeth.lab.drives.behaviours import make
from teeth.lab.drives.media import MemoryMedia
from teeth.lab.drives.model import StateStore
from teeth.lab.drives.nvme import NamespaceSpec, NvmeController, NvmeSpec

MARK = b"REMAINS "
BLOCKS = 8192
UNIT = 512
BLOCK, OVERWRITE, CRYPTO, EXIT = 2, 3, 4, 1
TWO = (NamespaceSpec(blocks=2048), NamespaceSpec(blocks=2048, sector=4096))
# Two that are attached, one that is not, and capacity that is in none.
THREE = (*TWO, NamespaceSpec(blocks=1024, attached=False))


class NvmeRig:
    """``drive`` over a medium in memory that is full of a pattern; ``now`` is the time in seconds."""

    def __init__(self, *, dirty: bool = True, state: Path | None = None, **spec: Any) -> None:
        parts: dict[str, Any] = {
            "name": "rig",
            "blocks": BLOCKS,
            "serial": "RIG0001",
            "wwn": "5000c500a1b2c3d4",
            "erase_seconds": 10.0,
        } | spec
        self.spec = NvmeSpec(**parts)
        self.now = 1000.0
        self.media = MemoryMedia(self.spec.media_size)
        if dirty:
            self.media.write(0, MARK * (self.spec.media_size // len(MARK)))
        self._store = StateStore(state)
        self.drive = self.make()

    def make(self) -> NvmeController:
        """The drive anew over what is kept: another process, so to say."""
        return NvmeController(
            self.spec, self.media, clock=lambda: self.now, store=self._store, pause=self.passes
        )

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def lie(self, *names: str) -> NvmeRig:
        for name in names:
            self.drive.disk.add(make(name))
        return self

    def admin(self, opcode: int, **words: Any) -> tuple[int, int, bytes]:
        return self.drive.admin(opcode, **words)

    def good(self, opcode: int, **words: Any) -> bytes:
        """The data of an admin command that must succeed."""
        status, _, data = self.drive.admin(opcode, **words)
        assert status == 0, f"{opcode:02x}h: {status:03x}h"
        return data

    def status(self, opcode: int, **words: Any) -> int:
        return self.drive.admin(opcode, **words)[0]

    def identify(self, kind: int, nsid: int = 0) -> bytes:
        return self.good(0x06, nsid=nsid, cdw10=kind)

    def listed(self, kind: int) -> list[int]:
        """The namespaces of a list."""
        data = self.identify(kind)
        return [n for at in range(0, 4096, 4) if (n := int.from_bytes(data[at : at + 4], "little"))]

    def log(self, page: int, size: int = 512, *, offset: int = 0, retain: bool = False) -> bytes:
        word = page | int(retain) << 15 | (size // 4 - 1) << 16
        return self.good(0x02, nsid=0xFFFFFFFF, cdw10=word, cdw12=offset)

    def sanitize_log(self) -> tuple[int, int, int]:
        """SPROG, SSTAT, SCDW10."""
        data = self.log(0x81)
        return tuple(int.from_bytes(data[a:b], "little") for a, b in ((0, 2), (2, 4), (4, 8)))  # type: ignore[return-value]

    def sanitize(self, action: int, *, flags: int = 0, pattern: int = 0) -> None:
        """Begin a sanitize and let the time pass that it takes."""
        self.good(0x84, cdw10=action | flags, cdw11=pattern)
        self.now += 10.0 * 16
        self.drive.settle()

    def format(self, nsid: int, ses: int, *, number: int = 0) -> int:
        return self.status(0x80, nsid=nsid, cdw10=number | ses << 9)

    def attach(self, nsid: int, *, detach: bool = False) -> int:
        return self.status(0x15, nsid=nsid, cdw10=int(detach), data=bytes((1, 0, 1, 0)).ljust(4096, b"\0"))

    def create(self, blocks: int, *, number: int = 0) -> tuple[int, int]:
        """(status, number of the namespace) of making one of so many of its own blocks."""
        data = bytearray(4096)
        data[0:8] = data[8:16] = blocks.to_bytes(8, "little")
        data[26] = number
        status, result, _ = self.drive.admin(0x0D, data=bytes(data))
        return status, result

    def read(self, nsid: int, lba: int, count: int = 1) -> bytes:
        status, data = self.drive.read(nsid, lba, count)
        assert status == 0, f"{status:03x}h"
        return data

    def marked(self, first: int = 0, stop: int | None = None) -> list[int]:
        """Blocks of the medium, retired ones too, that still hold the pattern."""
        end = self.spec.blocks + self.spec.spares if stop is None else stop
        whole = MARK * (UNIT // len(MARK))
        return [unit for unit in range(first, end) if self.media.read(unit * UNIT, UNIT) == whole]
