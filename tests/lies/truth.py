"""What is really left on a medium, seen from behind the drive."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fakes.simulated_drives import FlatMedia
from teeth.lab.drives.disk import Behaviour, Disk
from teeth.lab.drives.model import DEVICE_ERASES, DriveSpec, Method
from teeth.lab.drives.spans import Span
from teeth_agent.erase.model import Grade

_PIECE = 512
_POOL_BYTES = 12 << 20
_STREAMED = 64 << 10  # zeros of this length are an overwrite, not a mark


def _pool() -> bytes:
    return random.Random("what the drives hold").randbytes(_POOL_BYTES)


_POOL = _pool()
_OLD = frozenset(_POOL[at : at + _PIECE] for at in range(0, _POOL_BYTES, _PIECE))


def fill(media: FlatMedia, dice: random.Random) -> None:
    """Old content everywhere: no two pieces of 512 bytes alike, hidden ends and retired blocks too."""
    start = dice.randrange((_POOL_BYTES - media.size) // _PIECE) * _PIECE
    media.content[:] = _POOL[start : start + media.size]


class Witness(Behaviour):
    """Stands before every lie and sees what is written: what was there when an erase began is old content,
    whoever wrote it (canaries stand for the user's data)."""

    name = "witness"

    def __init__(self, argument: str = "") -> None:
        super().__init__(argument)
        self.old: set[bytes] = set()
        self._fresh: list[bytes] = []

    def stored(self, disk: Disk, lba: int, data: bytes) -> bytes | None:
        if any(data):
            self._fresh.append(data)
        elif len(data) >= _STREAMED:
            self._age()
        return data

    def erased(self, disk: Disk, method: Method, spans: Sequence[Span]) -> Sequence[Span]:
        if method in DEVICE_ERASES:
            self._age()
        return spans

    def _age(self) -> None:
        for data in self._fresh:
            self.old.update(data[at : at + _PIECE] for at in range(0, len(data), _PIECE))
        self._fresh.clear()

    def knows(self, piece: bytes) -> bool:
        return piece in _OLD or piece in self.old


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """Pieces of 512 bytes with old content: ``native`` on blocks with an address, be it a hidden one,
    ``retired`` on blocks that were taken out of use."""

    native: int
    retired: int

    def belies(self, grade: Grade) -> bool:
        """Whether a drive called that was not so. Cleared: nothing old on any block that has an address,
        hidden ends included. Purged: nor on any other that ever held data."""
        return bool(self.native or (grade is Grade.PURGE and self.retired))


def remains(spec: DriveSpec, media: FlatMedia, witness: Witness) -> Remains:
    """Look at the medium itself. To be asked when the power is off: what a cache gives back then counts."""
    border = spec.blocks * spec.sector
    return Remains(
        native=_count(media, 0, border, witness), retired=_count(media, border, media.size, witness)
    )


def _count(media: FlatMedia, start: int, stop: int, witness: Witness) -> int:
    data = bytes(memoryview(media.content)[start:stop])
    if data == bytes(len(data)):
        return 0
    return sum(witness.knows(data[at : at + _PIECE]) for at in range(0, len(data), _PIECE))
