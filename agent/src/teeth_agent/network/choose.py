"""Which link to use: a pure choice over records."""

from __future__ import annotations

from collections.abc import Sequence

from teeth_agent.netlink import Link


def candidates(links: Sequence[Link], boot_mac: str) -> list[Link]:
    """Hardware Ethernet links, the one the firmware booted from first, the rest in the kernel's order.

    Addresses with the "locally administered" bit come last: a server's management controller shows such a
    USB NIC, and its DHCP server leads nowhere.
    """
    hardware = [link for link in links if link.kind == "" and link.mac]
    return sorted(hardware, key=lambda link: (link.mac != boot_mac, locally_administered(link.mac)))


def locally_administered(mac: str) -> bool:
    """Whether an address looks like one that a management controller made up."""
    # 52:54:00 is QEMU's prefix: local by the bit, yet what every virtual machine has.
    return bool(int(mac[:2], 16) & 2) and not mac.startswith("52:54:00")
