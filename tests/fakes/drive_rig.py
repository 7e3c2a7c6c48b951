"""A simulated drive on a bench: a clock that is set by hand, commands in, replies out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from teeth.lab.drives.answer import Command, Reply, Wait
from teeth.lab.drives.behaviours import make
from teeth.lab.drives.media import MemoryMedia
from teeth.lab.drives.model import DriveSpec, StateStore
from teeth.lab.drives.sata import SataDrive
from teeth.lab.drives.scsi import ScsiDrive
from teeth.lab.drives.sense import Sense, Status
from teeth.lab.drives.unit import Unit

MARK = b"REMAINS "
BLOCKS = 8192


class NoAnswerError(AssertionError):
    """The command would never be answered."""


class Rig:
    """``drive`` over a medium in memory, filled with a pattern; ``now`` is the time in seconds."""

    def __init__(
        self, kind: str = "scsi", *, dirty: bool = True, state: Path | None = None, **spec: Any
    ) -> None:
        parts: dict[str, Any] = {
            "name": "rig",
            "blocks": BLOCKS,
            "serial": "RIG0001",
            "wwn": "5000c500a1b2c3d4",
            "erase_seconds": 10.0,
        } | spec
        self.spec = DriveSpec(**parts)
        self.now = 1000.0
        self.media = MemoryMedia(self.spec.media_size)
        if dirty:
            self.media.write(0, MARK * (self.spec.media_size // len(MARK)))
        self._store = StateStore(state)
        self._kind = kind
        self.drive: Unit = self.make()

    def make(self) -> Unit:
        """The drive anew over what is kept: another process, so to say."""
        cls = SataDrive if self._kind == "sata" else ScsiDrive
        return cls(self.spec, self.media, clock=lambda: self.now, store=self._store)

    @property
    def sata(self) -> SataDrive:
        assert isinstance(self.drive, SataDrive)
        return self.drive

    def lie(self, *names: str) -> Rig:
        for name in names:
            self.drive.disk.add(make(name))
        return self

    def power_cycle(self) -> None:
        """Power goes and comes back; the unit attention of that is taken off."""
        self.drive.power_cycle()
        self.run("03000000ff")

    def run(self, cdb: str | bytes, data: bytes = b"", *, nexus: str = "a") -> Reply:
        """Run to the end, setting the clock forward where the drive wants time."""
        raw = bytes.fromhex(cdb) if isinstance(cdb, str) else cdb
        answer = self.drive.execute(Command(cdb=raw.ljust(16, b"\0"), data=data, nexus=nexus))
        while isinstance(answer, Wait):
            if math.isinf(answer.until):
                raise NoAnswerError(raw.hex())
            self.now = max(self.now, answer.until)
            answer = answer.finish()
        return answer

    def start(self, cdb: str | bytes, data: bytes = b"") -> Reply | Wait:
        """Give a command and do not wait for its end."""
        raw = bytes.fromhex(cdb) if isinstance(cdb, str) else cdb
        return self.drive.execute(Command(cdb=raw.ljust(16, b"\0"), data=data, nexus="a"))

    def good(self, cdb: str | bytes, data: bytes = b"", *, nexus: str = "a") -> bytes:
        reply = self.run(cdb, data, nexus=nexus)
        assert reply.status is Status.GOOD, (cdb, reply.sense)
        return reply.data

    def sense(self, cdb: str | bytes, data: bytes = b"", *, nexus: str = "a") -> tuple[int, int, int]:
        """(key, asc, ascq) of a command that must end with a check condition."""
        reply = self.run(cdb, data, nexus=nexus)
        assert reply.status is Status.CHECK_CONDITION, cdb
        assert reply.sense is not None
        assert reply.raw
        return codes(reply.sense)

    # --- ATA

    def ata(self, command: int, *, features: int = 0, count: int = 0, lba: int = 0, data: bytes = b"",
            reads: bool = False) -> Reply:  # fmt: skip
        """ATA PASS-THROUGH (16) with CK_COND: the reply's sense has the registers."""
        return self.run(
            ata_cdb(command, features=features, count=count, lba=lba, out=bool(data), reads=reads), data
        )

    def ata_start(self, command: int, data: bytes = b"", **registers: int) -> Reply | Wait:
        return self.start(ata_cdb(command, out=bool(data), **registers), data)

    def ata_good(self, command: int, **parts: Any) -> Reply:
        reply = self.ata(command, **parts)
        assert reply.sense is not None, reply
        assert reply.sense.ata is not None, reply
        assert not reply.sense.ata.error, hex(command)
        return reply

    def ata_error(self, command: int, **parts: Any) -> int:
        """The error register of a command that must fail."""
        reply = self.ata(command, **parts)
        assert reply.sense is not None
        assert reply.sense.ata is not None
        assert reply.sense.ata.status & 0x01
        return reply.sense.ata.error

    def word(self, number: int) -> int:
        """A word of IDENTIFY DEVICE data."""
        data = self.ata(0xEC, count=1, reads=True).data
        assert len(data) == 512
        assert sum(data) & 0xFF == 0
        return int.from_bytes(data[2 * number : 2 * number + 2], "little")

    # --- the medium

    def marked(self, first: int = 0, stop: int | None = None) -> list[int]:
        """Native and retired blocks that still hold the pattern."""
        size = self.spec.sector
        end = self.spec.blocks + self.spec.spares if stop is None else stop
        whole = MARK * (size // len(MARK))
        return [lba for lba in range(first, end) if self.media.read(lba * size, size) == whole]


def codes(sense: Sense) -> tuple[int, int, int]:
    return int(sense.key), sense.asc, sense.ascq


def ata_cdb(command: int, *, features: int = 0, count: int = 0, lba: int = 0, out: bool = False,
            reads: bool = False) -> bytes:  # fmt: skip
    """A 48-bit pass-through; the data's length is in the count register, in blocks of 512 bytes."""
    protocol = 5 if out else 4 if reads else 3
    flags = 0x20 | (0x04 | 0x02 if out or reads else 0) | (0x08 if reads else 0)
    blocks = count or (1 if out else 0)
    at = lba.to_bytes(6, "little")
    return bytes(
        (0x85, protocol << 1 | 1, flags, features >> 8, features & 0xFF, blocks >> 8, blocks & 0xFF,
         at[3], at[0], at[4], at[1], at[5], at[2], 0x40, command, 0)
    )  # fmt: skip


def password_data(text: str, *, master: bool = False, maximum: bool = False, enhanced: bool = False) -> bytes:
    """The data of a security command (ACS-4 tables 177 to 179)."""
    head = bytes((int(master) | int(enhanced) << 1, int(maximum)))
    return (head + text.encode().ljust(32, b"\0")).ljust(512, b"\0")
