"""A seed's drive: of random size and make, but such that the method is what an erase of it begins with."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from fakes.simulated_drives import Slot
from teeth.lab.drives import model
from teeth.lab.drives.model import DriveSpec, Medium
from teeth_agent.erase.model import Grade, Method
from teeth_agent.erase.policy import Policy

_MIB = 1 << 20
HONEST = "honest"
_SANITIZES = {
    "crypto": model.Method.SANITIZE_CRYPTO,
    "block": model.Method.SANITIZE_BLOCK,
    "overwrite": model.Method.SANITIZE_OVERWRITE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run: ``lie`` is a behaviour's name with its argument, or "honest"; ``dice`` is for what happens
    later in the run. The first of ``slots`` is the drive in question."""

    method: Method
    lie: str
    seed: int
    slots: tuple[Slot, ...]
    policy: Policy
    dice: random.Random

    @property
    def name(self) -> str:
        return f"{self.method.value}/{self.lie}/{self.seed}"


def draw(method: Method, lie: str, seed: int) -> Case:
    """The same for the same words, in every process."""
    dice = random.Random(f"{method.value}/{lie}/{seed}")
    slot = draw_slot(method, dice, behaviours=() if lie == HONEST else (lie,))
    purges = method.grade is Grade.PURGE and dice.random() < 0.3
    return Case(
        method=method,
        lie=lie,
        seed=seed,
        slots=(slot,),
        policy=Policy(
            required=Grade.PURGE if purges else Grade.CLEAR,
            removable=Policy().removable.ERASE,
        ),
        dice=dice,
    )


def draw_slot(
    method: Method, dice: random.Random, *, behaviours: tuple[str, ...] = (), serial: str = "S1"
) -> Slot:
    """A drive whose ladder begins with the method."""
    action = method.value
    kind, bus = _place(method, dice)
    sector = dice.choice((512, 512, 4096))
    spins = _spins(method, dice)
    # Sizes that are no whole number of anything: the last chunk is always a short one somewhere.
    blocks = dice.choice((1, 1, 1, 2, 2, 3, 4, 8)) * _MIB // sector + dice.choice((0, 0, 0, 1, 3, 8))
    spec: dict[str, Any] = {
        "name": "drive",
        "serial": serial,
        "wwn": f"5000c500{int.from_bytes(serial.encode()[-4:], 'big'):08x}",
        "blocks": blocks,
        "sector": sector,
        "medium": Medium.HDD if spins else Medium.SSD,
        "unmap": not spins and dice.random() < 0.7,
        "write_cache": dice.random() < 0.8,
        "descriptor_sense": dice.random() < 0.5,
        "crypto_leaves": dice.choice(("noise", "zeros")),
        "spares": dice.choice((0, 4, 16, 64)),
        "erase_seconds": dice.choice((0.0, 2.0, 2.0, 30.0, 90.0, 300.0, 1800.0)),
        "sanitizes": _sanitizes(method, spins, dice),
        "security": "security" in action,
    }
    if kind == "sata":
        spec |= _hidden(blocks, dice)
    return Slot(kind=kind, spec=DriveSpec(**spec), bus=bus, behaviours=behaviours)


def _place(method: Method, dice: random.Random) -> tuple[str, str]:
    if method is Method.OVERWRITE:
        return dice.choice((("sata", "sata"), ("sata", "sas"), ("sata", "usb")))
    if method.value.startswith("ata_"):
        return "sata", dice.choice(("sata", "sas"))
    return "scsi", "sas"


def _spins(method: Method, dice: random.Random) -> bool:
    if method.value.endswith("sanitize_block"):
        return False
    if method.value.endswith("sanitize_overwrite"):
        return True
    return dice.random() < 0.5


def _sanitizes(method: Method, spins: bool, dice: random.Random) -> frozenset[model.Method]:
    """The one, and at times others that come after it."""
    action = method.value.partition("_sanitize_")[2]
    if not action:
        return frozenset()
    found = {_SANITIZES[action]}
    if not spins and action == "crypto" and dice.random() < 0.3:
        found.add(model.Method.SANITIZE_BLOCK)
    return frozenset(found)


def _hidden(blocks: int, dice: random.Random) -> dict[str, Any]:
    """Now and then an area that the last address hides, and one that the configuration does."""
    if dice.random() >= 0.25:
        return {}
    by = dice.choice(("hpa", "hpa", "ama"))
    overlaid = dice.randrange(1, blocks // 8) if by == "hpa" and dice.random() < 0.3 else 0
    return {"hidden": dice.randrange(1, blocks // 4), "hidden_by": by, "overlaid": overlaid}
