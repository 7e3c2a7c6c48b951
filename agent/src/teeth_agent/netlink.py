"""The agent's only pyroute2: links, addresses, routes and the DHCP client, as plain records."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pyroute2.dhcp.client import AsyncDHCPClient, ClientConfig
from pyroute2.dhcp.fsm import State
from pyroute2.dhcp.leases import Lease, MissingOptionError
from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

_log = logging.getLogger(__name__)
_ARPHRD_ETHER = 1  # include/uapi/linux/if_arp.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One Ethernet link. ``mac`` is the permanent address where the driver tells it, lower case."""

    index: int
    name: str
    mac: str
    up: bool
    carrier: bool
    kind: str  # "" for hardware; bridge, vlan, veth, ... for what was made on top
    mtu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpLease:
    """What a DHCP server gave: an address and how to leave the segment."""

    interface: str
    address: str
    prefix_length: int
    gateway: str | None
    name_servers: tuple[str, ...]
    server: str | None


class _MemoryLease(Lease):  # type: ignore[misc]  # pyroute2 carries no types
    """The ramdisk forgets: a lease is kept by the client object alone."""

    def dump(self) -> None:
        return

    @classmethod
    def load(cls, interface: str) -> None:  # noqa: ARG003 - the base class's signature
        return None


def _link(message: Any) -> Link | None:
    if message["ifi_type"] != _ARPHRD_ETHER:
        return None
    info = message.get_attr("IFLA_LINKINFO")
    mac = message.get_attr("IFLA_PERM_ADDRESS") or message.get_attr("IFLA_ADDRESS") or ""
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mac=mac.lower(),
        up=bool(message["flags"] & 1),
        carrier=message.get_attr("IFLA_CARRIER") == 1,
        kind=(info.get_attr("IFLA_INFO_KIND") or "") if info else "",
        mtu=message.get_attr("IFLA_MTU") or 0,
    )


@asynccontextmanager
async def _route() -> AsyncIterator[Any]:
    """pyroute2's routing socket, with the kernel's refusals as what they are: OSError."""
    try:
        async with AsyncIPRoute() as route:
            yield route
    except NetlinkError as error:
        raise OSError(error.code, str(error.args[-1])) from error


async def links() -> list[Link]:
    """Every Ethernet link that the kernel knows now, in its order. Raises OSError."""
    async with _route() as route:
        found = [_link(message) async for message in await route.get_links()]
    return [link for link in found if link is not None]


async def set_up(index: int) -> None:
    """Bring a link administratively up: drivers report carrier only then. Raises OSError."""
    async with _route() as route:
        await route.link("set", index=index, state="up")


async def configure(index: int, lease: DhcpLease) -> None:
    """Put the lease's address on the link and its gateway into the routing table. Raises OSError."""
    async with _route() as route:
        await route.addr("replace", index=index, address=lease.address, prefixlen=lease.prefix_length)
        if lease.gateway is not None:
            await route.route("replace", dst="0.0.0.0/0", gateway=lease.gateway, oif=index)


def _retransmission() -> Iterator[float]:
    """Seconds between tries. RFC 2131 starts at 4: too slow for a first packet lost to a port that had
    only just begun to forward; so the first tries come sooner."""
    yield from (1.0, 2.0, 4.0, 8.0)
    while True:
        yield 16.0


@asynccontextmanager
async def dhcp(interface: str, wait: float) -> AsyncIterator[DhcpLease]:
    """A lease on ``interface``, renewed while the block runs.

    Raises TimeoutError after ``wait`` seconds without one, OSError when the interface or the answer is bad.

    The address is not released at the end: the system that is booted next asks for the same one.
    """
    config = ClientConfig(
        interface=interface,
        lease_type=_MemoryLease,
        release=False,
        handle_signals=False,
        vendor_id="teeth",
        host_name=None,
        retransmission=_retransmission,
    )
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(_client(config))
            await client.bootstrap()
            await client.wait_for_state(State.BOUND, timeout=wait)
            lease = _record(client.lease, interface)
        except TimeoutError:
            raise TimeoutError(f"no DHCP server answered on {interface} within {wait:g} s") from None
        except OSError:
            raise
        except Exception as error:  # an answer that the client cannot read raises whatever its parser raises
            raise OSError(f"DHCP on {interface} failed: {type(error).__name__}: {error}") from error
        yield lease


@asynccontextmanager
async def _client(config: ClientConfig) -> AsyncIterator[Any]:
    client = AsyncDHCPClient(config)
    await client.__aenter__()
    try:
        yield client
    finally:
        try:
            await client.__aexit__(None, None, None)
        except Exception as error:  # its receiver had died of a packet: said here, where it was left unsaid
            _log.warning(
                "the DHCP client on %s ended badly: %s: %s", config.interface, type(error).__name__, error
            )


def _record(lease: Any, interface: str) -> DhcpLease:
    gateway, servers, server = None, (), None
    with contextlib.suppress(MissingOptionError, IndexError):
        gateway = lease.default_gateway
    with contextlib.suppress(MissingOptionError):
        servers = tuple(lease.name_servers)
    with contextlib.suppress(MissingOptionError):
        server = lease.server_id
    return DhcpLease(
        interface=interface,
        address=lease.ip,
        prefix_length=lease.prefixlen,
        gateway=gateway,
        name_servers=servers,
        server=server,
    )
