"""Which lies and faults there are to be told, and which of them no host can see."""

from __future__ import annotations

import random
from collections.abc import Callable

from lies.cases import HONEST, kinds_of
from teeth.lab.drives.behaviours import BEHAVIOURS
from teeth.lab.drives.lies import LIES
from teeth_agent.erase.model import Method

LIE_NAMES: tuple[str, ...] = tuple(kind.name for kind in LIES)

# Nothing that can be read, written, asked or reset shows these; why, for the auditors' page.
UNDETECTABLE: dict[str, str] = {
    "zeroes-from-cache": "The old content shows again only after a true loss of power, and a fresh write is"
    " kept: to the host every read is as an erase would leave it.",
    "leaves-remapped": "Retired blocks have no address: no command reads them, erased or not.",
    "enhanced-is-normal": "It leaves retired blocks, which no command reads.",
    "capacity-half": "What lies behind the last address that the drive admits, in every answer it gives,"
    " cannot be asked for.",
    "format-ignores-ses": "Every block that was formatted reads as zeros and keeps what is written anew; only"
    " the medium itself has the old content.",
    "hides-detached": "Namespaces that no list and no figure has cannot be attached, so a format or an"
    " overwrite never comes to them. A sanitize does, and is believed.",
    "flush-is-nothing": "The drive serves its cache until the power truly goes; then the last writes are"
    " undone.",
}

_Argument = Callable[[random.Random, int], str]


def _blocks(dice: random.Random, blocks: int) -> str:
    first = dice.randrange(blocks - 8)
    return f"{first}-{first + dice.randrange(8)}"


def _percent(dice: random.Random, blocks: int) -> str:
    return str(dice.randrange(1, 100))


def _none(dice: random.Random, blocks: int) -> str:
    return ""


# Faults with the argument that they take; what a fault does is told by its class.
FAULTS: dict[str, _Argument] = {
    "media-error": _blocks,
    "write-error": _blocks,
    "hang": _none,
    "hang-once": _none,
    "slow": lambda dice, blocks: str(dice.choice((0.05, 1, 5, 20, 45))),
    "read-only": _none,
    "vanish": _none,
    "busy": _none,
    "hardware-error": _none,
    "erase-fails": _percent,
    "sanitize-fails": _percent,
    "security-erase-fails": _percent,
    "power-cut-at-write": lambda dice, blocks: str(dice.randrange(1, 150)),
    "power-cut-at-erase": _percent,
    "smart-failing": _none,
    "duplicate-serial": lambda dice, blocks: "OTHER",
    "cache-always-on": _none,
    "corrupt-reads": _none,
}


def fault(name: str, dice: random.Random, blocks: int) -> str:
    argument = FAULTS[name](dice, blocks)
    return f"{name}:{argument}" if argument else name


def concerns(lie: str, method: Method) -> bool:
    """Whether a drive that can have the method can tell the lie."""
    return lie == HONEST or bool(BEHAVIOURS[lie].kinds & kinds_of(method))


METHODS: tuple[Method, ...] = tuple(Method)
ALL_LIES: tuple[str, ...] = (HONEST, *LIE_NAMES)
