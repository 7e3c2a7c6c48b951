"""Network cards of a machine and what is behind them; only a bridge in a namespace needs privilege."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType

from teeth.errors import UsageError
from teeth.lab.link import PERFECT, LinkQuality

# In QEMU's user-mode network the host's 127.0.0.1 is this address to the guest.
HOST_ADDRESS = "10.0.2.2"
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


class Network(Enum):
    """What answers at the other end of the cable."""

    USER = "user"  # QEMU's own: DHCP, DNS, TFTP and the host at HOST_ADDRESS
    SILENT = "silent"  # a cable with a carrier and nobody there: no DHCP


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridged:
    """A port of the bridge in the network namespace ``namespace`` (see teeth.lab.bridge).

    ``quality`` is the cable's, and can change while the machine runs; None: a plain tap, quicker and always
    good.
    """

    namespace: str
    quality: LinkQuality | None = PERFECT


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """One network card. ``link`` is whether it has a carrier when the machine starts.

    ``rom`` is the boot ROM: None for QEMU's own (iPXE), "" for none, else a file. ``forwards``: ports of the
    host's loopback that lead to ports of the guest, on QEMU's own network only; host port 0 takes a free one.
    """

    mac: str
    model: str = "virtio-net-pci"
    network: Network | Bridged = Network.USER
    rom: str | None = None
    link: bool = True
    forwards: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not _MAC.fullmatch(self.mac):
            raise UsageError(f"MAC address {self.mac!r} is not six lower-case hex pairs")
        if int(self.mac[:2], 16) & 1:
            raise UsageError(f"MAC address {self.mac} is a multicast address")
        if self.forwards and self.network is not Network.USER:
            raise UsageError(f"card {self.mac}: only QEMU's own network forwards ports")

    @property
    def usb(self) -> bool:
        """Whether it hangs on the USB controller."""
        return self.model.startswith("usb-")

    @property
    def bootif(self) -> str:
        """The kernel's BOOTIF word for this card, as a PXE loader would give it."""
        return "01-" + self.mac.replace(":", "-")


def network_arguments(
    nics: Sequence[Nic],
    *,
    tftp: Path | None,
    bootfile: str,
    boots: bool | None = None,
    cables: Mapping[int, str] = MappingProxyType({}),
) -> list[str]:
    """QEMU arguments for all cards; card N is called nicN, its cable netN.

    With ``tftp`` every user-mode network offers ``bootfile`` from that folder. With ``boots`` (unless said:
    with ``tftp``) the cards are tried in order; without it no card boots, and none loads a ROM it was not
    given.
    ``cables``: the -netdev options of bridged cards, without the id, by the card's number.
    """
    words: list[str] = []
    boots = tftp is not None if boots is None else boots
    for index, nic in enumerate(nics):
        match nic.network:
            case Network.USER:
                cable = f"user,id=net{index}"
                if tftp is not None:
                    cable += f",tftp={_escape(str(tftp))},bootfile={_escape(bootfile)}"
                for host, guest in nic.forwards:
                    cable += f",hostfwd=tcp:127.0.0.1:{host}-:{guest}"
            case Network.SILENT:
                cable = f"hubport,id=net{index},hubid={index}"
            case Bridged():
                cable = f"{cables[index]},id=net{index}"
        words += ["-netdev", cable, "-device", _card(nic, index, boots=boots)]
    return words


def _card(nic: Nic, index: int, *, boots: bool) -> str:
    card = f"{nic.model},id=nic{index},netdev=net{index},mac={nic.mac}"
    if boots:
        card += f",bootindex={index + 1}"
    if nic.usb:  # has no place for a ROM
        return card + ",bus=usb.0"
    rom = "" if nic.rom is None and not boots else nic.rom
    return card if rom is None else f"{card},romfile={_escape(rom)}"


def _escape(value: str) -> str:
    """QEMU's option syntax: a comma inside a value is doubled."""
    return value.replace(",", ",,")
