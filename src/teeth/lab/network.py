"""Network cards of a machine and what is behind them; no privilege is needed for any of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from teeth.errors import UsageError

# In QEMU's user-mode network the host's 127.0.0.1 is this address to the guest.
HOST_ADDRESS = "10.0.2.2"
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


class Network(Enum):
    """What answers at the other end of the cable."""

    USER = "user"  # QEMU's own: DHCP, DNS, TFTP and the host at HOST_ADDRESS
    SILENT = "silent"  # a cable with a carrier and nobody there: no DHCP


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """One network card. ``link`` is whether it has a carrier when the machine starts.

    ``rom`` is the boot ROM: None for QEMU's own (iPXE), "" for none, else a file.
    """

    mac: str
    model: str = "virtio-net-pci"
    network: Network = Network.USER
    rom: str | None = None
    link: bool = True

    def __post_init__(self) -> None:
        if not _MAC.fullmatch(self.mac):
            raise UsageError(f"MAC address {self.mac!r} is not six lower-case hex pairs")
        if int(self.mac[:2], 16) & 1:
            raise UsageError(f"MAC address {self.mac} is a multicast address")

    @property
    def bootif(self) -> str:
        """The kernel's BOOTIF word for this card, as a PXE loader would give it."""
        return "01-" + self.mac.replace(":", "-")


def network_arguments(nics: Sequence[Nic], *, tftp: Path | None, bootfile: str) -> list[str]:
    """QEMU arguments for all cards; card N is called nicN, its cable netN.

    With ``tftp`` every user-mode network offers ``bootfile`` from that folder, and the cards are tried in
    order; without it no card boots, and none loads a ROM it was not given.
    """
    words: list[str] = []
    for index, nic in enumerate(nics):
        match nic.network:
            case Network.USER:
                cable = f"user,id=net{index}"
                if tftp is not None:
                    cable += f",tftp={_escape(str(tftp))},bootfile={_escape(bootfile)}"
            case Network.SILENT:
                cable = f"hubport,id=net{index},hubid={index}"
        card = f"{nic.model},id=nic{index},netdev=net{index},mac={nic.mac}"
        if tftp is not None:
            card += f",bootindex={index + 1}"
        rom = "" if nic.rom is None and tftp is None else nic.rom
        if rom is not None:
            card += f",romfile={_escape(rom)}"
        words += ["-netdev", cable, "-device", card]
    return words


def _escape(value: str) -> str:
    """QEMU's option syntax: a comma inside a value is doubled."""
    return value.replace(",", ",,")
