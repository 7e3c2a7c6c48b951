"""One-shot boot grants: the permission of one machine to boot the ramdisk once, and its join token."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from teeth.boot.ipxe import normal_mac
from teeth.errors import TeethError, UsageError

TTL = 15 * 60.0  # seconds; a server's power-on self test takes up to ten minutes
# How long the machine that burnt a token may present it again, because the answer was lost on its way: as
# long as the certificate lives that it was answered.
REPEAT = 86400.0
_TOKEN_BYTES = 24  # 192 bits: beyond guessing, and 32 characters of a kernel command line
_KEEP = 30 * 86400.0  # how long a spent grant is remembered, so that its reuse is named as such
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ID_LENGTH = 16  # of a hash: enough to name a grant, and it says nothing of the token

metadata = sa.MetaData()
_grants = sa.Table(
    "boot_grants",
    metadata,
    sa.Column("token_hash", sa.String, primary_key=True),
    # The script needs the token itself, so it is kept while the grant is open and wiped when it is burnt.
    sa.Column("token", sa.String, nullable=True),
    sa.Column("mac", sa.String, nullable=True, index=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("boot_id", sa.String, nullable=True),
    sa.Column("burnt", sa.Float, nullable=True),
    sa.Column("uuid", sa.String, nullable=True, index=True),
    sa.Column("spki", sa.String, nullable=True),
    sa.Column("node_id", sa.String, nullable=True),
)


class GrantRefused(TeethError):
    """The token opens nothing. ``code``: token_unknown, token_expired, token_burnt or token_other_node."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An open grant. ``mac`` and ``uuid`` both None: any machine may use it. ``expires`` in epoch seconds."""

    token: str
    mac: str | None
    expires: float
    uuid: str | None = None

    @property
    def id(self) -> str:
        """A name for the grant that is no secret."""
        return _hash(self.token)[:_ID_LENGTH]

    def __repr__(self) -> str:
        return f"Grant(token=<hidden>, mac={self.mac!r}, uuid={self.uuid!r}, expires={self.expires!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRecord:
    """A grant as it may be listed: without its token. ``state`` is open, burnt or expired.

    ``node_id`` and ``boot_id``: who burnt it. Times in epoch seconds.
    """

    id: str
    mac: str | None
    uuid: str | None
    created: float
    expires: float
    state: str
    burnt: float | None
    node_id: str | None
    boot_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a machine shows with its token. ``spki``: sha256 of its public key, hex."""

    node_id: str
    boot_id: str
    spki: str
    macs: frozenset[str]
    uuid: str | None


class GrantBook:
    """Every grant, in a database. It blocks, and any thread may call it.

    A method is one transaction, except ``burn``, which is a part of its caller's.
    """

    def __init__(self, engine: sa.Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def create(self, mac: str | None = None, *, uuid: str | None = None, ttl: float = TTL) -> Grant:
        """Open a grant for ``ttl`` seconds. An unused one for the same machine is withdrawn.

        With both a MAC and a UUID the machine must show both. Raises UsageError for what is neither.
        """
        grant = Grant(
            token=secrets.token_urlsafe(_TOKEN_BYTES),
            mac=None if mac is None else normal_mac(mac),
            uuid=None if uuid is None else normal_uuid(uuid),
            expires=self._clock() + ttl,
        )
        with self._engine.begin() as connection:
            self._tidy(connection)
            if grant.mac is not None or grant.uuid is not None:
                same = sa.and_(
                    _grants.c.mac.is_not_distinct_from(grant.mac),
                    _grants.c.uuid.is_not_distinct_from(grant.uuid),
                )
                connection.execute(_grants.delete().where(same, _grants.c.burnt.is_(None)))
            connection.execute(
                _grants.insert().values(
                    token_hash=_hash(grant.token), token=grant.token, mac=grant.mac, uuid=grant.uuid,
                    created=self._clock(), expires=grant.expires,
                )
            )  # fmt: skip
        return grant

    def lookup(self, mac: str | None, uuid: str | None = None) -> Grant | None:
        """The open grant that a machine that shows this MAC and UUID may boot on: its own before one for any
        machine. None when there is none, or only spent or expired ones.
        """
        bound_mac, bound_uuid = _grants.c.mac, _grants.c.uuid
        mine = sa.and_(
            sa.or_(bound_mac.is_(None), bound_mac == (None if mac is None else normal_mac(mac))),
            sa.or_(bound_uuid.is_(None), bound_uuid == (None if uuid is None else normal_uuid(uuid))),
        )
        query = (
            sa.select(_grants.c.token, bound_mac, bound_uuid, _grants.c.expires)
            .where(mine, _grants.c.burnt.is_(None), _grants.c.expires > self._clock())
            .where(_grants.c.token.is_not(None))
            .order_by(bound_mac.is_(None), bound_uuid.is_(None), _grants.c.created.desc())
            .limit(1)
        )
        with self._engine.begin() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        return Grant(token=row.token, mac=row.mac, uuid=row.uuid, expires=row.expires)

    def burn(self, connection: sa.Connection, token: str, claim: Claim) -> bool:
        """Spend the token on one key of one boot of one machine. Raises GrantRefused.

        The same key and boot may present it again for a day, because the answer may have been lost: that is
        False. No other ever may.
        """
        where = _grants.c.token_hash == _hash(token)
        now = self._clock()
        row = connection.execute(sa.select(_grants).where(where)).one_or_none()
        if row is None:
            raise GrantRefused("token_unknown", "this join token was never given out, or was withdrawn")
        if not _fits(row, claim):
            raise GrantRefused("token_other_node", "this join token was given to another machine")
        if row.burnt is not None:
            _require_repetition(row, claim, now)
            return False
        if row.expires <= now:
            raise GrantRefused("token_expired", "this join token has expired")
        connection.execute(
            _grants.update().where(where).values(
                burnt=now, boot_id=claim.boot_id, spki=claim.spki, node_id=claim.node_id, token=None
            )
        )  # fmt: skip
        return True

    def listing(self) -> list[GrantRecord]:
        """Every grant that is remembered, newest first, without tokens."""
        now = self._clock()
        query = sa.select(_grants).order_by(_grants.c.created.desc())
        with self._engine.begin() as connection:
            return [_record(row, now) for row in connection.execute(query)]

    def withdraw(self, identity: str) -> GrantRecord:
        """Close a grant before its time; what was burnt stays burnt. Raises TeethError for no such one."""
        named = [record for record in self.listing() if record.id == identity]
        if not named:
            raise TeethError(f"there is no boot grant {identity[:64]}")
        where = sa.and_(_grants.c.token_hash.startswith(identity, autoescape=True), _grants.c.burnt.is_(None))
        with self._engine.begin() as connection:
            connection.execute(_grants.delete().where(where))
        return named[0]

    def tidy(self) -> None:
        """Wipe tokens that have expired, forget what is long over. Call it now and then."""
        with self._engine.begin() as connection:
            self._tidy(connection)

    def _tidy(self, connection: sa.Connection) -> None:
        now = self._clock()
        expired = sa.and_(_grants.c.expires <= now, _grants.c.token.is_not(None))
        connection.execute(_grants.update().where(expired).values(token=None))
        connection.execute(_grants.delete().where(_grants.c.expires < now - _KEEP))


def normal_uuid(text: str) -> str:
    """A UUID in lower case with dashes. Raises UsageError for anything else."""
    lowered = text.strip().lower()
    if not _UUID.fullmatch(lowered):
        raise UsageError("not a UUID, expected 8-4-4-4-12 hexadecimal digits")
    return lowered


def _fits(row: sa.Row[Any], claim: Claim) -> bool:
    return (row.mac is None or row.mac in claim.macs) and (row.uuid is None or row.uuid == claim.uuid)


def _require_repetition(row: sa.Row[Any], claim: Claim, now: float) -> None:
    if row.boot_id != claim.boot_id:
        raise GrantRefused("token_burnt", "this join token was already used by another boot")
    if (row.spki, row.node_id) != (claim.spki, claim.node_id):
        raise GrantRefused("token_burnt", "this join token was already used with another key")
    if now > row.burnt + REPEAT:
        raise GrantRefused("token_expired", "this join token was used more than a day ago")


def _record(row: sa.Row[Any], now: float) -> GrantRecord:
    state = "burnt" if row.burnt is not None else "open" if row.expires > now else "expired"
    return GrantRecord(
        id=row.token_hash[:_ID_LENGTH], mac=row.mac, uuid=row.uuid, created=row.created, expires=row.expires,
        state=state, burnt=row.burnt, node_id=row.node_id, boot_id=row.boot_id,
    )  # fmt: skip


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
