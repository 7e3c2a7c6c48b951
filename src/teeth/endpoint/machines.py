"""Whose a node id is, and which certificates were made for it, on disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from teeth.endpoint.schema import certificates, machines

_KEEP = 30 * 86400.0  # seconds after its end that a certificate stays on record


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What tells one machine from another."""

    macs: frozenset[str]
    uuid: str | None

    def is_same(self, shown: Machine) -> bool:
        """Whether ``shown`` is this machine, perhaps with other cards: it has one of our interfaces, and no
        other UUID. Without interfaces on record the UUID decides.
        """
        if self.uuid is not None and shown.uuid is not None and self.uuid != shown.uuid:
            return False
        if self.macs:
            return bool(self.macs & shown.macs)
        return self.uuid == shown.uuid and not (self.uuid is None and shown.macs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The machine that a node id belongs to, and its newest boot that enrolled."""

    machine: Machine
    boot_id: str


class MachineStore:
    """Every method is a part of its caller's transaction."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def load(self, connection: sa.Connection, node_id: str) -> Owner | None:
        row = connection.execute(sa.select(machines).where(machines.c.node_id == node_id)).one_or_none()
        if row is None:
            return None
        return Owner(machine=Machine(macs=frozenset(row.macs), uuid=row.uuid), boot_id=row.boot_id)

    def claim(self, connection: sa.Connection, node_id: str, machine: Machine, boot_id: str) -> None:
        """The id belongs to this machine, and this is its newest boot."""
        values = {
            "macs": sorted(machine.macs), "uuid": machine.uuid, "boot_id": boot_id, "enrolled": self._clock(),
        }  # fmt: skip
        where = machines.c.node_id == node_id
        if connection.execute(machines.update().where(where).values(**values)).rowcount == 0:
            connection.execute(machines.insert().values(node_id=node_id, **values))

    def release(self, connection: sa.Connection, node_id: str) -> None:
        """The id belongs to nobody; certificates made for it open nothing."""
        connection.execute(machines.delete().where(machines.c.node_id == node_id))
        connection.execute(certificates.delete().where(certificates.c.node_id == node_id))

    def record_certificate(
        self, connection: sa.Connection, node_id: str, boot_id: str, *, spki: str, not_after: float
    ) -> None:
        """Note what was issued; a key's newest certificate takes the place of its older one."""
        now = self._clock()
        mine = sa.and_(
            certificates.c.node_id == node_id, certificates.c.boot_id == boot_id, certificates.c.spki == spki
        )
        old = certificates.c.not_after < now - _KEEP
        connection.execute(certificates.delete().where(sa.or_(mine, old)))
        connection.execute(
            certificates.insert().values(
                node_id=node_id, boot_id=boot_id, spki=spki, issued=now, not_after=not_after
            )
        )
