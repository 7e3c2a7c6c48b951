"""Enrolment: a join token and a key become a client certificate, and a node id a machine's own."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from teeth.endpoint.clientcert import key_digest, read_csr
from teeth.endpoint.hello import Hello, normal_macs
from teeth.endpoint.identity import PeerIdentity
from teeth.endpoint.machines import Machine, MachineStore
from teeth.endpoint.schema import logs, nodes, sessions, tasks
from teeth.endpoint.taskstate import TaskState
from teeth.errors import TeethError
from teeth_protocol.errors import ProblemError
from teeth_protocol.fields import FieldError
from teeth_protocol.messages import valid_id
from teeth_protocol.shape import read
from teeth_protocol.wire.session import EnrollFirst, EnrollRenewal, EnrollTime
from teeth_protocol.wire.words import ID_WORDS

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Signer(Protocol):
    """The CA. (certificate as PEM, key digest, end of validity); raises FieldError for a bad request."""

    def sign(self, csr: str, node_id: str, boot_id: str) -> tuple[str, str, float]: ...


class Tokens(Protocol):
    """Whoever gave the join tokens out."""

    def burn(self, connection: sa.Connection, token: str, claim: Claim) -> bool:
        """Spend it on one key of one boot, inside the caller's transaction; False for a repetition.

        Raises ProblemError when it opens nothing.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A stranger's ``enroll``, parsed: which machine it says it is, and what it shows for it."""

    node_id: str
    boot_id: str
    macs: tuple[str, ...]
    uuid: str | None
    token: str
    csr: str
    spki: str

    def __repr__(self) -> str:
        return f"Claim(node_id={self.node_id!r}, boot_id={self.boot_id!r}, token=<hidden>)"


def parse_claim(params: Mapping[str, Any]) -> Claim:
    """Raises FieldError naming the member."""
    said = read(EnrollFirst, params)
    if not valid_id(said.boot_id):
        raise FieldError(f"params.boot_id: expected {ID_WORDS}")  # it stands in a name of the certificate
    uuid = None if said.uuid is None else said.uuid.lower()
    if uuid is not None and not _UUID.fullmatch(uuid):
        raise FieldError("params.uuid: expected a UUID or null")
    return Claim(
        node_id=said.id,
        boot_id=said.boot_id,
        macs=normal_macs(said.macs),
        uuid=uuid,
        token=said.token,
        csr=said.csr,
        spki=key_digest(read_csr(said.csr)),
    )


def asks_time(params: Mapping[str, Any]) -> bool:
    """Whether an ``enroll`` wants nothing but the time. Raises FieldError for another ``only``."""
    return "only" in params and read(EnrollTime, params).only == "time"


class Registrar:
    """Who may have a session, and under which name. Its methods block; each is one transaction."""

    def __init__(
        self, engine: sa.Engine, tokens: Tokens, signer: Signer, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._engine = engine
        self._tokens = tokens
        self._signer = signer
        self._clock = clock
        self._machines = MachineStore(clock=clock)

    def enroll(self, params: Mapping[str, Any], identity: PeerIdentity | None) -> dict[str, Any]:
        """Answer an ``enroll``: a certificate. ``identity`` is that of a session that is ready, which renews.

        Raises ProblemError: bad_params, token_unknown, token_expired, token_burnt, token_other_node,
        node_claimed, stale_boot, not_enrolled. Of what was refused nothing stays, least of all a burnt token.
        """
        try:
            return self._first(parse_claim(params)) if identity is None else self._renew(params, identity)
        except FieldError as error:
            raise ProblemError("bad_params", str(error)) from error

    def admit(self, hello: Hello, identity: PeerIdentity | None) -> None:
        """Whether this handshake may become a session.

        Raises ProblemError: not_enrolled, wrong_identity, stale_boot, node_claimed.
        """
        if hello.plain:
            self._admit_plain(hello)
        elif identity is None:
            raise ProblemError("not_enrolled", "this connection shows no client certificate: enroll first")
        elif (hello.node_id, hello.boot_id) != (identity.node_id, identity.boot_id):
            raise ProblemError("wrong_identity", "the certificate names another node or boot")
        else:
            with self._engine.begin() as connection:
                self._require_current(connection, identity)

    def forget(self, node_id: str, *, force: bool = False) -> None:
        """Take a node, its owner, its certificates and its log from the store; tasks stay on record.

        Raises TeethError when there is no such node, or (unless ``force``) when tasks of it are open.
        """
        with self._engine.begin() as connection:
            known = connection.execute(sa.select(nodes.c.node_id).where(nodes.c.node_id == node_id)).first()
            if known is None and self._machines.load(connection, node_id) is None:
                raise TeethError(f"there is no node {node_id[:128]}")
            if not force:
                _require_no_open_task(connection, node_id)
            self._machines.release(connection, node_id)
            for table in (sessions, logs, nodes):
                connection.execute(table.delete().where(table.c.node_id == node_id))

    # --- inside

    def _first(self, claim: Claim) -> dict[str, Any]:
        with self._engine.begin() as connection:
            first = self._tokens.burn(connection, claim.token, claim)
            known = self._machines.load(connection, claim.node_id)
            shown = Machine(macs=frozenset(claim.macs), uuid=claim.uuid)
            if known is not None and not known.machine.is_same(shown):
                raise ProblemError("node_claimed", "another machine has enrolled under this id")
            # A repetition claims nothing: neither does an older boot become the newest again, nor does a
            # machine whose node was forgotten come back with a token that was used.
            if first:
                self._machines.claim(connection, claim.node_id, shown, claim.boot_id)
            elif known is None:
                raise ProblemError("token_burnt", "this join token was used for a node that was forgotten")
            return self._certify(connection, claim.csr, claim.node_id, claim.boot_id)

    def _renew(self, params: Mapping[str, Any], identity: PeerIdentity) -> dict[str, Any]:
        csr = read(EnrollRenewal, params).csr
        with self._engine.begin() as connection:
            self._require_current(connection, identity)
            return self._certify(connection, csr, identity.node_id, identity.boot_id)

    def _certify(self, connection: sa.Connection, csr: str, node_id: str, boot_id: str) -> dict[str, Any]:
        pem, spki, not_after = self._signer.sign(csr, node_id, boot_id)
        self._machines.record_certificate(connection, node_id, boot_id, spki=spki, not_after=not_after)
        return {"certificate": pem, "not_after": not_after, "time": self._clock()}

    def _require_current(self, connection: sa.Connection, identity: PeerIdentity) -> None:
        known = self._machines.load(connection, identity.node_id)
        if known is None:
            raise ProblemError("not_enrolled", "this node is not enrolled here (any more)")
        if known.boot_id != identity.boot_id:
            raise ProblemError("stale_boot", "a newer boot of this node has enrolled")

    def _admit_plain(self, hello: Hello) -> None:
        with self._engine.begin() as connection:
            if self._machines.load(connection, hello.node_id) is not None:
                raise ProblemError("node_claimed", "this id belongs to an enrolled machine")


def _require_no_open_task(connection: sa.Connection, node_id: str) -> None:
    over = [state.value for state in TaskState if state.over]
    query = sa.select(tasks.c.task_id).where(tasks.c.node_id == node_id, tasks.c.state.not_in(over))
    waiting = connection.execute(query.order_by(tasks.c.created)).scalars().all()
    if waiting:
        raise TeethError(
            f"{len(waiting)} of the tasks of node {node_id} are not over, {waiting[0]} for one",
            hint="cancel or settle them first, or forget it by force",
        )
