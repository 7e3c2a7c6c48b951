"""The network cards of a described machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

from teeth.errors import UsageError
from teeth.lab.description import NETWORKS
from teeth.lab.link import LinkQuality
from teeth.lab.network import Bridged, Network, Nic
from teeth.lab.tables import Table, near

MODELS = {
    "virtio": "virtio-net-pci",
    "virtio-net-pci": "virtio-net-pci",
    "e1000": "e1000",
    "e1000e": "e1000e",
    "igb": "igb",
    "rtl8139": "rtl8139",
    "vmxnet3": "vmxnet3",
    "usb-net": "usb-net",
}
_FORWARD = re.compile(r"(\d{1,5}):(\d{1,5})")
_QUALITIES = ("delay", "jitter", "loss", "forwarding_delay", "vlan", "seed")
_NICS_MAX = 16


def read_nics(
    table: Table, machine: str, bridges: Sequence[str], namespace: Callable[[str], str]
) -> list[Nic]:
    """[[nic]] of one machine; one virtio card on QEMU's own network when it is not mentioned at all.

    ``bridges``: the networks of the file; ``namespace`` gives the namespace of one.
    """
    if not table.has("nic"):
        return [Nic(mac=default_mac(machine, 0))]
    entries = table.tables("nic")
    if len(entries) > _NICS_MAX:
        table.mistake(f"more than {_NICS_MAX} cards")
    found = [_nic(entry, machine, n, bridges, namespace) for n, entry in enumerate(entries[:_NICS_MAX])]
    return [nic for nic in found if nic is not None]


def default_mac(machine: str, index: int) -> str:
    """An address for card ``index`` that is the same every time; 52:54:00 is what QEMU uses."""
    digest = hashlib.sha256(f"{machine}/{index}".encode()).hexdigest()
    return f"52:54:00:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"


def _nic(
    table: Table, machine: str, index: int, bridges: Sequence[str], namespace: Callable[[str], str]
) -> Nic | None:
    before = len(table.mistakes)
    network = _network(table, bridges, namespace)
    rom = table.text("rom") if table.has("rom") else None
    parts = {
        "mac": table.text("mac", default_mac(machine, index)).lower(),
        "model": MODELS[table.choice("model", MODELS, "virtio")],
        "link": table.switch("carrier", True),
        "forwards": tuple(_forwards(table)),
    }
    table.leftovers()
    if len(table.mistakes) > before:
        return None
    try:
        return Nic(network=network, rom=rom, **parts)  # type: ignore[arg-type]
    except UsageError as error:
        table.mistake(error.message)
        return None


def _network(table: Table, bridges: Sequence[str], namespace: Callable[[str], str]) -> Network | Bridged:
    name = table.text("network", "user")
    direct = table.switch("direct", False)
    given = [word for word in _QUALITIES if table.has(word)]
    quality = _quality(table, given)
    if name in NETWORKS:
        if given or direct:
            table.mistake(f"{(given or ['direct'])[0]}: only a card on a netns network has that")
        return NETWORKS[name]
    if name not in bridges:
        table.mistake(f"network = {name!r}: there is no such network{near(name, [*NETWORKS, *bridges])}")
        return Network.SILENT
    if direct and given:
        table.mistake(f"direct and {given[0]}: a direct cable is always perfect")
    return Bridged(namespace=namespace(name), quality=None if direct else quality)


def _quality(table: Table, given: Sequence[str]) -> LinkQuality:
    parts: dict[str, float | int] = {}
    for name in given:
        match name:
            case "vlan" | "seed":
                parts[name] = table.number(name, 1)
            case "loss":
                percent = table.decimal(name)
                if not 0 <= percent <= 100:
                    table.mistake(f"loss = {percent:g} is not 0 to 100 (percent)")
                    percent = 0.0
                parts[name] = percent / 100
            case _:
                parts[name] = table.seconds(name)
    try:
        return LinkQuality(**parts)  # type: ignore[arg-type]
    except UsageError as error:
        table.mistake(error.message)
        return LinkQuality()


def _forwards(table: Table) -> list[tuple[int, int]]:
    found = []
    for text in table.texts("forward"):
        match = _FORWARD.fullmatch(text)
        if match is None or not (int(match[1]) < 65536 and 0 < int(match[2]) < 65536):
            table.mistake(f'forward = {text!r} is not HOSTPORT:GUESTPORT, such as "8080:80"')
        else:
            found.append((int(match[1]), int(match[2])))
    return found
