"""From "no interface yet" to "an address and a route", never giving up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from teeth_agent import netlink
from teeth_agent.netlink import DhcpLease, Link
from teeth_agent.network.choose import candidates

_log = logging.getLogger(__name__)

# Drivers load while we run; a link comes up in 0.1 s (virtual) to 30 s (a switch port that listens first).
_POLL = 0.1
_COMPLAIN_AFTER = 15.0
_COMPLAIN_EVERY = 30.0
_PREFER_BOOT_NIC = 10.0
_DHCP_WAIT = 20.0

Problem = Callable[[str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The interface that carries the session, with its lease."""

    link: Link
    lease: DhcpLease


class Kernel(Protocol):
    """The part of netlink that bringing up needs; tests give a made-up one."""

    links: Callable[[], Awaitable[list[Link]]]
    set_up: Callable[[int], Awaitable[None]]
    configure: Callable[[int, DhcpLease], Awaitable[None]]
    dhcp: Callable[[str, float], contextlib.AbstractAsyncContextManager[DhcpLease]]


@asynccontextmanager
async def network(
    boot_mac: str,
    problem: Problem,
    *,
    kernel: Kernel = netlink,  # type: ignore[assignment]  # a module is the real one
    root: Path = Path("/"),
    dhcp_wait: float = _DHCP_WAIT,
) -> AsyncIterator[Network]:
    """An interface with an address, kept (lease renewed) while the block runs.

    Tries for ever: whoever watches the console is told through ``problem(code, message)`` what is missing.
    """
    async with AsyncExitStack() as stack:
        tried: set[str] = set()
        while True:
            link = await _wait_for_link(boot_mac, problem, kernel, tried)
            try:
                lease = await stack.enter_async_context(kernel.dhcp(link.name, dhcp_wait))
            except TimeoutError as error:
                problem("no_dhcp", str(error))
                tried.add(link.name)
                continue
            except OSError as error:
                problem("no_dhcp", f"{link.name}: {error}")
                await asyncio.sleep(1)
                continue
            break
        await kernel.configure(link.index, lease)
        _write_resolver(root, lease)
        yield Network(link=link, lease=lease)


async def _wait_for_link(boot_mac: str, problem: Problem, kernel: Kernel, tried: set[str]) -> Link:
    """The best link with carrier that was not tried since all others were."""
    started = time.monotonic()
    complain_at = started + _COMPLAIN_AFTER
    raised: set[int] = set()
    while True:
        found = candidates(await kernel.links(), boot_mac)
        for link in found:
            if not link.up and link.index not in raised:
                with contextlib.suppress(Exception):  # a link that will not come up is reported below
                    await kernel.set_up(link.index)
                raised.add(link.index)
        alive = [link for link in found if link.carrier]
        if alive and all(link.name in tried for link in alive):
            tried.clear()
        alive = [link for link in alive if link.name not in tried]
        now = time.monotonic()
        patience_over = not boot_mac or now >= started + _PREFER_BOOT_NIC
        if alive and (alive[0].mac == boot_mac or patience_over or boot_mac not in {x.mac for x in found}):
            return alive[0]
        if now >= complain_at:
            complain_at = now + _COMPLAIN_EVERY
            if not found:
                problem("no_nic", "no network interface has appeared: is its driver in this ramdisk?")
            elif not alive:
                names = ", ".join(f"{link.name} {link.mac}" for link in found)
                problem("no_link", f"no interface has a link: check the cable or switch port of {names}")
        await asyncio.sleep(_POLL)


def _write_resolver(root: Path, lease: DhcpLease) -> None:
    if not lease.name_servers:
        return
    lines = "".join(f"nameserver {server}\n" for server in lease.name_servers[:3])
    try:
        (root / "etc/resolv.conf").write_text(lines)
    except OSError as error:
        _log.warning("resolv.conf was not written: %s", error)
