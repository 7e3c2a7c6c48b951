"""Who may take our time before we know who it is, without I/O and clock: address and ``now`` in, verdict out.

Every connection is a stranger until its handshake is accepted. Strangers are counted by where they come from:
an IPv4 address, or an IPv6 network of 64 bits, which one host may use whole.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """What one endpoint takes on. The reasons stand beside the figures.

    They let a laboratory live in which 1,000 agents dial from one address (loopback too) at the same moment:
    each opens two connections and enrols once, 3,000 units, of which ``burst`` is there at once and the rest
    comes within 15 s, while an agent that was refused dials again after at most 30 s.
    """

    # Each is an open file and, with TLS, some 350 KiB (measured with 1,000 sessions; asyncio's TLS keeps a
    # buffer of 256 KiB for each): 700 MiB when all are there.
    connections: int = 2048
    # Without a handshake yet: each may hold a TLS handshake for ten seconds, or 4 KiB for five.
    strangers: int = 256
    # Three quarters of either: a network behind one address is served, and still cannot keep all others out.
    connections_of_one: int = 1536
    strangers_of_one: int = 192
    # Units a second of one address; a connection is one, an enrolment another. Either costs the endpoint some
    # 4 ms of a processor (1,000 agents took 12 s), so that one address can take two thirds of one, no more.
    rate: float = 150.0
    burst: float = 1000.0
    # Units more when an enrolment is refused: a guesser has 80 guesses, then 12 a second. Not more than that,
    # because behind one address others may live beside a machine whose token is spent.
    failure: float = 10.0
    # Addresses remembered beside those that are connected. 100 bytes each; a full table forgets the longest
    # quiet ones first.
    addresses: int = 8192


@dataclass(slots=True)
class _Source:
    """One address: its connections, and the units it has left as of ``at``."""

    units: float
    at: float
    open: int = 0
    strangers: int = 0


@dataclass(slots=True, eq=False)
class Pass:
    """A connection that was let in; it is given back by ``Admission.leave``."""

    _source: _Source = field(repr=False)
    stranger: bool = True
    gone: bool = False


class Admission:
    """``now`` is any monotonic clock in seconds, the same in every call."""

    def __init__(self, limits: AdmissionLimits | None = None) -> None:
        self._limits = limits or AdmissionLimits()
        # In the order in which they were last heard of.
        self._sources: dict[str, _Source] = {}
        self.open = 0
        self.strangers = 0

    def connect(self, address: str, now: float) -> Pass | str:
        """A connection from this IP address: its pass, or in a few words why it is refused."""
        source = self._source(address, now)
        why = self._too_many(source)
        if why is None and not self._spend(source, 1.0):
            why = "this address connects too often"
        if why is not None:
            return why
        for counted in (self, source):
            counted.open += 1
            counted.strangers += 1
        return Pass(_source=source)

    def known(self, entry: Pass) -> None:
        """Its handshake was accepted."""
        if entry.stranger and not entry.gone:
            entry.stranger = False
            self.strangers -= 1
            entry._source.strangers -= 1

    def leave(self, entry: Pass) -> None:
        """The connection is over. Harmless when said twice."""
        self.known(entry)
        if not entry.gone:
            entry.gone = True
            self.open -= 1
            entry._source.open -= 1

    def enrol(self, entry: Pass, now: float) -> bool:
        """Whether this connection's address may try to enrol now."""
        self._refill(entry._source, now)
        return self._spend(entry._source, 1.0)

    def failed(self, entry: Pass, now: float) -> None:
        """The try was refused. An address may go into debt by that, as deep as a full burst."""
        source = entry._source
        self._refill(source, now)
        source.units = max(-self._limits.burst, source.units - self._limits.failure)

    # --- inside

    def _too_many(self, source: _Source) -> str | None:
        limits = self._limits
        if self.open >= limits.connections:
            return "too many connections"
        if self.strangers >= limits.strangers:
            return "too many connections without a handshake"
        if source.open >= limits.connections_of_one:
            return "too many connections from this address"
        if source.strangers >= limits.strangers_of_one:
            return "too many connections without a handshake from this address"
        return None

    def _source(self, address: str, now: float) -> _Source:
        key = network_of(address)
        source = self._sources.pop(key, None)
        if source is None:
            self._forget_one_if_full()
            source = _Source(units=self._limits.burst, at=now)
        self._sources[key] = source
        self._refill(source, now)
        return source

    def _forget_one_if_full(self) -> None:
        if len(self._sources) < self._limits.addresses + self._limits.connections:
            return
        # There are more places than connections, so one of the first few is quiet; its debt is forgiven.
        quiet = next(key for key, source in self._sources.items() if source.open == 0)
        del self._sources[quiet]

    def _refill(self, source: _Source, now: float) -> None:
        gained = max(0.0, now - source.at) * self._limits.rate
        source.units = min(self._limits.burst, source.units + gained)
        source.at = now

    def _spend(self, source: _Source, units: float) -> bool:
        if source.units < units:
            return False
        source.units -= units
        return True


def network_of(address: str) -> str:
    """By what an address is counted. What is no IP address is counted by its text."""
    try:
        # A scope ("%eth0") belongs to our side; an IPv4 address written as IPv6 is an IPv4 address.
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((int(ip), 64), strict=False))
    return str(ip)
