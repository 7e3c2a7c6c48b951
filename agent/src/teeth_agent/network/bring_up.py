"""From "no interface yet" to "an address and a route", never giving up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from teeth_agent import netlink
from teeth_agent.netlink import DhcpLease, Link
from teeth_agent.network.choose import candidates, locally_administered

_log = logging.getLogger(__name__)

Problem = Callable[[str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long to wait for what, in seconds.

    Drivers load while we run; a link comes up in 0.1 s (virtual) to 30 s (a switch port that listens first).
    """

    poll: float = 0.1
    complain_after: float = 15.0
    complain_every: float = 30.0
    boot_nic: float = 10.0  # for the interface that the firmware booted from, or a real one, while others are
    dhcp: float = 20.0
    retry: float = 1.0


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
    waits: Waits | None = None,
) -> AsyncIterator[Network]:
    """An interface with an address, kept (lease renewed) while the block runs.

    Tries for ever: whoever watches the console is told through ``problem(code, message)`` what is missing.
    """
    waits = waits or Waits()
    search = _Search(boot_mac, problem, kernel, waits)
    while True:
        link = await search.next_link()
        async with AsyncExitStack() as stack:
            try:
                lease = await stack.enter_async_context(kernel.dhcp(link.name, waits.dhcp))
                await kernel.configure(link.index, lease)
            except OSError as error:
                problem("no_dhcp", str(error) if isinstance(error, TimeoutError) else f"{link.name}: {error}")
                await asyncio.sleep(waits.retry)
                continue
            _write_resolver(root, lease)
            yield Network(link=link, lease=lease)
            return


class _Search:
    """Gives one link after the other, the best first, each once before any comes again."""

    def __init__(self, boot_mac: str, problem: Problem, kernel: Kernel, waits: Waits) -> None:
        self._boot_mac = boot_mac
        self._problem = problem
        self._kernel = kernel
        self._waits = waits
        self._tried: set[int] = set()
        self._raise_at: dict[int, float] = {}

    async def next_link(self) -> Link:
        """The best link with carrier that was not given since all others were."""
        started = time.monotonic()
        complain_at = started + self._waits.complain_after
        while True:
            found = candidates(await self._kernel.links(), self._boot_mac)
            await self._raise_links(found)
            waited = time.monotonic() - started
            link = self._choose(found, patient=waited < self._waits.boot_nic)
            if link is not None:
                self._tried.add(link.index)
                return link
            if time.monotonic() >= complain_at and not any(link.carrier for link in found):
                complain_at = time.monotonic() + self._waits.complain_every
                self._complain(found)
            await asyncio.sleep(self._waits.poll)

    async def _raise_links(self, found: Sequence[Link]) -> None:
        """Drivers report carrier only when up. A driver that fails (no firmware yet) is asked again."""
        for link in found:
            now = time.monotonic()
            if link.up or now < self._raise_at.get(link.index, now):
                continue
            self._raise_at[link.index] = now + self._waits.retry
            try:
                await self._kernel.set_up(link.index)
            except OSError as error:
                _log.warning("%s does not come up: %s", link.name, error)

    def _choose(self, found: Sequence[Link], *, patient: bool) -> Link | None:
        alive = [link for link in found if link.carrier]
        real = [link for link in alive if link.mac == self._boot_mac or not locally_administered(link.mac)]
        if alive and not real and patient:
            return None  # a management controller's is there at once, and would keep us for good
        # A switch port that is slow to forward must not lead us to the management controller either.
        alive = real or alive
        if alive and all(link.index in self._tried for link in alive):
            self._tried.clear()
        boot = next((link for link in found if link.mac == self._boot_mac), None)
        if patient and self._boot_mac and (boot is None or not (boot.carrier or boot.index in self._tried)):
            return None  # it led the firmware to us: worth waiting for its driver and its link
        return next((link for link in alive if link.index not in self._tried), None)

    def _complain(self, found: Sequence[Link]) -> None:
        if not found:
            self._problem("no_nic", "no network interface has appeared: is its driver in this ramdisk?")
            return
        names = ", ".join(f"{link.name} {link.mac}" for link in found)
        self._problem("no_link", f"no interface has a link: check the cable or switch port of {names}")


def _write_resolver(root: Path, lease: DhcpLease) -> None:
    if not lease.name_servers:
        return
    lines = "".join(f"nameserver {server}\n" for server in lease.name_servers[:3])
    try:
        (root / "etc/resolv.conf").write_text(lines)
    except OSError as error:
        _log.warning("resolv.conf was not written: %s", error)
