"""A network of several machines: a bridge in a namespace of its own, with a DHCP server on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from ipaddress import IPv6Interface
from pathlib import Path

from teeth.errors import TeethError
from teeth.lab.accel import with_parent
from teeth.lab.cabling import start_relay
from teeth.lab.description import BridgeDescription
from teeth.lab.link import LinkQuality
from teeth.lab.netns import BRIDGE, create, ip, open_tap, remove
from teeth.proc import Process, background

LEASES = "leases"
LOG = "dnsmasq.log"
_HOST = "host0"  # the host's own card on a network that is a VLAN
_SECONDS = 15.0
_STEP = 0.05
_LEASES_MAX = 1000
# iPXE asks for an IPv6 router too, and waits a quarter of a minute where nobody is one.
_IPV6 = IPv6Interface("fd74:6565:7468::1/64")


def dnsmasq_arguments(network: BridgeDescription, interface: str, leases: Path) -> list[str]:
    """The DHCP and TFTP server's arguments; a pure function. Names are not served."""
    words = [
        # Of root's group too: the kernel forgets whom a process is to die with when it changes either.
        "--user=root", "--group=root",
        "--keep-in-foreground", "--conf-file=/dev/null", "--log-facility=-", "--log-dhcp",
        "--pid-file=", "--port=0", f"--interface={interface}", "--bind-interfaces", "--no-ping",
        f"--dhcp-leasefile={leases}", f"--dhcp-lease-max={_LEASES_MAX}",
        # A machine that was started anew has another client id, and is the same machine.
        "--dhcp-authoritative", "--dhcp-ignore-clid",
    ]  # fmt: skip
    if network.dhcp is not None:
        first, last = network.dhcp
        words += [
            f"--dhcp-range={first},{last},{network.address.netmask},{network.lease}",
            f"--dhcp-option=option:router,{network.address.ip}",
        ]
    if network.tftp is not None:
        words += ["--enable-ra", f"--dhcp-range={_IPV6.network.network_address},ra-only"]
        words += ["--enable-tftp", f"--tftp-root={network.tftp}", f"--dhcp-boot={network.bootfile}"]
    return words


@asynccontextmanager
async def run_bridge(
    network: BridgeDescription, namespace: str, folder: Path
) -> AsyncIterator[Process | None]:
    """Have the network while the block runs; yields the DHCP server's process, None where there is none.

    ``folder``, which is there, gets dnsmasq.log, the leases and relay.log. Raises TeethError; nothing is left
    then.
    """
    async with AsyncExitStack() as stack:
        create(namespace)
        stack.callback(remove, namespace)
        interface = BRIDGE
        if network.vlan is not None:
            interface = _on_vlan(namespace, network.vlan, folder, stack.enter_context(ExitStack()))
        ip(namespace, "address", "add", str(network.address), "dev", interface)
        if network.tftp is not None:
            ip(namespace, "address", "add", str(_IPV6), "dev", interface, "nodad")
        yield await _serve(network, namespace, interface, folder, stack)


def _on_vlan(namespace: str, vlan: int, folder: Path, stack: ExitStack) -> str:
    """The host's own card, which reaches the bridge by an access port of the VLAN."""
    outside = open_tap(namespace, _HOST, bridged=False)
    port = open_tap(namespace, f"{_HOST}p")
    try:
        machine = {"kind": "tap", "fd": outside}
        start_relay(LinkQuality(vlan=vlan), machine, port, folder / "relay.log", stack)
    finally:
        os.close(outside)
    return _HOST


async def _serve(
    network: BridgeDescription, namespace: str, interface: str, folder: Path, stack: AsyncExitStack
) -> Process | None:
    if network.dhcp is None and network.tftp is None:
        return None
    log = folder / LOG
    log.unlink(missing_ok=True)
    words = dnsmasq_arguments(network, interface, folder / LEASES)
    argv = [*with_parent("ip"), "netns", "exec", namespace, "dnsmasq", *words]
    process = stack.enter_context(background(argv, log=log))
    try:
        async with asyncio.timeout(_SECONDS):
            while "started, version" not in (said := log.read_text(errors="replace")):
                if process.poll() is not None:
                    raise TeethError(f"network {network.name}: dnsmasq ended: {_last(said)}")
                await asyncio.sleep(_STEP)
    except TimeoutError:
        raise TeethError(f"network {network.name}: dnsmasq did not start: {_last(said)}") from None
    return process


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1].removeprefix("dnsmasq: ") if lines else "it gave no reason"
