"""What a description of machines and networks says, once it is read (see teeth.lab.describe)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from teeth.lab.drives.spec import ServeSpec
from teeth.lab.machine import Machine
from teeth.lab.network import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class SshDescription:
    """How a person gets in, by the card ``nic``. ``port`` on the host's loopback, 0 for any free one.

    ``key``: a private key; None: one is made for this machine, and its ramdisk is given it.
    """

    user: str
    port: int
    key: Path | None
    nic: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeDescription:
    """A network in a namespace of its own. ``address`` is the host's in it, and the router that DHCP tells.

    DHCP hands out ``dhcp`` (first, last); None: nobody does. ``tftp``: a folder whose ``bootfile`` is offered
    to those who boot. ``vlan``: the host is on that VLAN only.
    """

    name: str
    address: IPv4Interface
    dhcp: tuple[IPv4Address, IPv4Address] | None
    lease: int
    vlan: int | None
    tftp: Path | None
    bootfile: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDescription:
    """A machine, and what must be there before it starts.

    ``made``: disk files to be made, in bytes. ``networks``: the names of the bridges it hangs on. ``drives``:
    simulated drives that are served to it; ``urls``: drives that others serve. ``source``: the tables that
    say all this, for another process to read again.
    """

    machine: Machine
    ssh: SshDescription | None
    made: Mapping[Path, int]
    networks: tuple[str, ...]
    drives: ServeSpec | None
    urls: tuple[str, ...]
    source: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """All of a file."""

    machines: tuple[MachineDescription, ...]
    networks: tuple[BridgeDescription, ...]


NETWORKS = {"user": Network.USER, "silent": Network.SILENT}
