"""A seed's drive: of random size and make, but such that the method is what an erase of it begins with."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from fakes.simulated_drives import Slot
from teeth.lab.drives import model
from teeth.lab.drives.behaviours import BEHAVIOURS
from teeth.lab.drives.model import DriveSpec, Medium
from teeth.lab.drives.nvme import NamespaceSpec, NvmeSpec
from teeth_agent.erase.model import Grade, Method
from teeth_agent.erase.policy import Policy

_MIB = 1 << 20
HONEST = "honest"
# Small ones mostly: a run has to be quick, and what is small has every corner that a large one has.
_MEBIBYTES = (*[1] * 12, *[2] * 5, 3, 4, 8)
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
    slot = draw_slot(method, dice, lies=() if lie == HONEST else (lie,))
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


def draw_slot(method: Method, dice: random.Random, *, lies: tuple[str, ...] = (), serial: str = "S1") -> Slot:
    """A drive whose ladder begins with the method, of a kind to which the lies mean something."""
    kind, bus = _place(method, lies, dice)
    spins = _spins(method, dice) and kind != "nvme"
    sector = dice.choice((512, 512, 4096)) if kind != "nvme" else 512
    # Sizes that are no whole number of anything: the last chunk is always a short one somewhere.
    blocks = dice.choice(_MEBIBYTES) * _MIB // sector + dice.choice((0, 0, 0, 1, 3, 8))
    if kind == "nvme":
        blocks = blocks // 8 * 8  # what is in no whole granule has never held anything
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
        "security": "security" in method.value,
        "enhanced": method is not Method.ATA_SECURITY_ERASE,
    }
    if kind == "sata" and bus != "usb":
        # Behind a bridge no ATA command may be sent: what is hidden there is the bridge's matter.
        spec |= _hidden(blocks, dice)
    if kind == "nvme":
        made: DriveSpec = NvmeSpec(**spec, **_namespaces(method, blocks, dice))
    else:
        made = DriveSpec(**spec)
    return Slot(kind=kind, spec=made, bus=bus, behaviours=lies)


_PLACES = (("sata", "sata"), ("sata", "sas"), ("sata", "usb"), ("nvme", "nvme"))


def kinds_of(method: Method) -> frozenset[str]:
    """The kinds of drives that the method can be on."""
    if method is Method.OVERWRITE:
        return frozenset(kind for kind, _ in _PLACES)
    return frozenset({{"ata": "sata", "scsi": "scsi", "nvme": "nvme"}[method.value.partition("_")[0]]})


def _place(method: Method, lies: tuple[str, ...], dice: random.Random) -> tuple[str, str]:
    if method is Method.OVERWRITE:
        fit = [place for place in _PLACES if all(place[0] in BEHAVIOURS[lie].kinds for lie in lies)]
        return dice.choice(fit)
    (kind,) = kinds_of(method)
    return kind, {"sata": dice.choice(("sata", "sas")), "scsi": "sas", "nvme": "nvme"}[kind]


def _namespaces(method: Method, blocks: int, dice: random.Random) -> dict[str, Any]:
    """One to three namespaces, now and then one that is not attached, and capacity that is in none."""
    count = dice.choice((1, 1, 2, 3))
    room, made = blocks, []
    format_all, sector = dice.random() < 0.3, dice.choice((512, 4096))
    for left in range(count, 0, -1):
        size = room if left == 1 else room // left // 8 * 8
        room -= size
        made.append(NamespaceSpec(blocks=size, sector=sector if format_all else dice.choice((512, 4096))))
    manages = dice.random() < 0.7
    if manages and count > 1 and dice.random() < 0.4:
        made[-1] = replace(made[-1], attached=False)
    return {
        "namespaces": tuple(made),
        "manages": manages,
        "formats": method.value.startswith("nvme_format"),
        "crypto_format": method is Method.NVME_FORMAT_CRYPTO,
        "format_all": format_all,
        "erase_all": dice.random() < 0.3,
        "no_deallocate": dice.choice(("kept", "modified", "inhibited")),
    }


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
