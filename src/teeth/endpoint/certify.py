"""The endpoint's book of certificates: one for each drive of each erase that ended, in a chain."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teeth import __version__, signing
from teeth.certificate.body import FIRST_PREVIOUS, Origin, Place, make_body
from teeth.certificate.seal import key_digest, open_sealed, seal
from teeth.endpoint.schema import erase_certificates, nodes, tasks
from teeth.endpoint.taskstate import TaskState
from teeth_protocol.methods import DISK_ERASE

PUBLIC_KEY = "certificates.pub"
_PRIVATE_KEY = "certificates.key"
_OVER = [state.value for state in TaskState if state.over]
_AT_ONCE = 64  # tasks in one transaction
_UNITS = 4096  # records of one task, as the wire bounds them


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """One certificate as it is listed; ``sealed`` is the signed line."""

    sequence: int
    task_id: str
    node_id: str
    serial: str | None
    outcome: str
    grade: str | None
    issued: float
    digest: str
    sealed: str


def signing_key(folder: Path) -> Ed25519PrivateKey:
    """The key in ``folder``, made there if there is none; its public half lies beside it.

    Raises TeethError when the file is there but holds no such key.
    """
    return signing.signing_key(
        folder / _PRIVATE_KEY,
        folder / PUBLIC_KEY,
        owner="the endpoint",
        hint="put the backup back: what was signed with it can only be verified with its public key",
    )


class CertificateBook:
    """Each method is one transaction, and blocks. ``ca``: the digest by which machines know the endpoint."""

    def __init__(
        self,
        engine: sa.Engine,
        key: Ed25519PrivateKey,
        *,
        ca: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._key = key
        self._ca = ca
        self._clock = clock

    @property
    def key_digest(self) -> str:
        return key_digest(self._key.public_key())

    @property
    def public_pem(self) -> str:
        return signing.public_pem(self._key)

    def issue_missing(self) -> int:
        """Certify every erase that ended and has no certificate yet, oldest first; how many were issued.

        Whatever stopped an endpoint between the end of a task and its certificates, the next call makes
        up for it. A plan erases nothing and a task that never left here touched nothing: neither gets one.
        """
        with self._engine.begin() as connection:
            done = sa.select(erase_certificates.c.task_id)
            query = (
                sa.select(tasks)
                .where(
                    tasks.c.method == DISK_ERASE,
                    tasks.c.state.in_(_OVER),
                    tasks.c.boot_id.is_not(None),
                    sa.func.coalesce(sa.func.json_extract(tasks.c.params, "$.plan"), 0) != 1,
                    tasks.c.task_id.not_in(done),
                )
                .order_by(tasks.c.finished, tasks.c.task_id)
                .limit(_AT_ONCE)
            )
            found = connection.execute(query).all()
            return sum(self._issue(connection, task) for task in found)

    def listing(
        self,
        *,
        task_id: str | None = None,
        node_id: str | None = None,
        serial: str | None = None,
        after: int = 0,
        limit: int,
    ) -> list[Issued]:
        """In the chain's order, those behind number ``after``."""
        table = erase_certificates
        query = sa.select(table).where(table.c.sequence > after).order_by(table.c.sequence).limit(limit)
        wanted = ((table.c.task_id, task_id), (table.c.node_id, node_id), (table.c.serial, serial))
        for column, value in wanted:
            if value is not None:
                query = query.where(column == value)
        with self._engine.begin() as connection:
            return [_issued(row) for row in connection.execute(query)]

    def get(self, sequence: int) -> Issued | None:
        query = sa.select(erase_certificates).where(erase_certificates.c.sequence == sequence)
        with self._engine.begin() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _issued(row)

    def _issue(self, connection: sa.Connection, task: sa.Row[Any]) -> int:
        origin = self._origin(connection, task)
        records: list[Mapping[str, Any] | None] = [*_records(task.result)]
        for record in records or [None]:
            self._append(connection, origin, record)
        return len(records) or 1

    def _append(self, connection: sa.Connection, origin: Origin, record: Mapping[str, Any] | None) -> None:
        newest = sa.select(erase_certificates).order_by(erase_certificates.c.sequence.desc()).limit(1)
        last = connection.execute(newest).one_or_none()
        place = Place(
            sequence=1 if last is None else last.sequence + 1,
            previous=FIRST_PREVIOUS if last is None else last.digest,
            issued=self._clock(),
        )
        body = make_body(origin, record, place)
        try:
            sealed = seal(body, self._key)
        except ValueError as error:
            # A number beyond what JSON can carry: the drive is then certified as what it is, not proven.
            unreadable = {"outcome": "failed", "code": "record_unreadable", "reason": str(error)}
            body = make_body(origin, unreadable, place)
            sealed = seal(body, self._key)
        opened = open_sealed(sealed.encode(), self._key.public_key())
        connection.execute(
            erase_certificates.insert().values(
                sequence=place.sequence,
                task_id=origin.task_id,
                node_id=origin.node_id,
                serial=None if record is None else _name(record),
                outcome=body["outcome"],
                grade=body["grade"],
                issued=place.issued,
                digest=opened.digest,
                sealed=sealed,
            )
        )

    def _origin(self, connection: sa.Connection, task: sa.Row[Any]) -> Origin:
        node = connection.execute(sa.select(nodes).where(nodes.c.node_id == task.node_id)).one_or_none()
        same_boot = node is not None and node.boot_id == task.boot_id
        result = task.result if isinstance(task.result, Mapping) else {}
        return Origin(
            ca=self._ca,
            version=__version__,
            node_id=task.node_id,
            macs=() if node is None else tuple(node.macs),
            machine=_firmware(node),
            boot_id=task.boot_id,
            agent=node.agent if node is not None and same_boot else None,
            ramdisk=node.ramdisk if node is not None and same_boot else None,
            task_id=task.task_id,
            asked=task.created,
            finished=task.finished,
            params=task.params,
            required_grade=result.get("required_grade"),
            plan_digest=result.get("plan_digest"),
            task_state=task.state,
            task_code=task.code,
            task_msg=task.msg,
        )


def _records(result: Any) -> Iterator[Mapping[str, Any]]:
    units = result.get("units") if isinstance(result, Mapping) else None
    if isinstance(units, list):
        yield from (unit for unit in units[:_UNITS] if isinstance(unit, Mapping))


def _firmware(node: sa.Row[Any] | None) -> Mapping[str, Any]:
    inventory = None if node is None else node.inventory
    firmware = inventory.get("firmware") if isinstance(inventory, Mapping) else None
    return firmware if isinstance(firmware, Mapping) else {}


def _name(record: Mapping[str, Any]) -> str | None:
    name = record.get("serial") or record.get("wwn")
    return name if isinstance(name, str) else None


def _issued(row: sa.Row[Any]) -> Issued:
    return Issued(**row._mapping)
