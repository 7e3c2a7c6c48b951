"""One-shot boot grants: the permission of one machine to boot the ramdisk once, and its join token."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from teeth.boot.ipxe import normal_mac
from teeth.errors import TeethError

TTL = 15 * 60.0  # seconds; a server's power-on self test takes up to ten minutes
_TOKEN_BYTES = 24  # 192 bits: beyond guessing, and 32 characters of a kernel command line
_KEEP = 30 * 86400.0  # how long a spent grant is remembered, so that its reuse is named as such

_metadata = sa.MetaData()
_grants = sa.Table(
    "boot_grants",
    _metadata,
    sa.Column("token_hash", sa.String, primary_key=True),
    # The script needs the token itself, so it is kept while the grant is open and wiped when it is burnt.
    sa.Column("token", sa.String, nullable=True),
    sa.Column("mac", sa.String, nullable=True, index=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("boot_id", sa.String, nullable=True),
    sa.Column("burnt", sa.Float, nullable=True),
)


class GrantRefused(TeethError):
    """The token opens nothing. ``code``: token_unknown, token_expired, token_burnt or token_other_node."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An open grant. ``mac`` None: any machine may use it. ``expires`` in seconds since the epoch."""

    token: str
    mac: str | None
    expires: float

    def __repr__(self) -> str:
        return f"Grant(token=<hidden>, mac={self.mac!r}, expires={self.expires!r})"


class GrantBook:
    """Every grant, in a database. A method is one transaction: it blocks, and any thread may call it."""

    def __init__(self, engine: sa.Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock
        _metadata.create_all(engine)

    def create(self, mac: str | None = None, *, ttl: float = TTL) -> Grant:
        """Open a grant for ``ttl`` seconds. An unused one for the same MAC is withdrawn."""
        bound = None if mac is None else normal_mac(mac)
        now = self._clock()
        grant = Grant(token=secrets.token_urlsafe(_TOKEN_BYTES), mac=bound, expires=now + ttl)
        with self._engine.begin() as connection:
            connection.execute(_grants.delete().where(_grants.c.expires < now - _KEEP))
            if bound is not None:
                connection.execute(_grants.delete().where(_grants.c.mac == bound, _grants.c.burnt.is_(None)))
            connection.execute(
                _grants.insert().values(
                    token_hash=_hash(grant.token),
                    token=grant.token,
                    mac=bound,
                    created=now,
                    expires=grant.expires,
                )
            )
        return grant

    def lookup(self, mac: str | None) -> Grant | None:
        """The open grant that a machine with this MAC may boot on: its own before one for any machine.

        None when there is none, or only spent or expired ones.
        """
        mine = (
            _grants.c.mac.is_(None)
            if mac is None
            else sa.or_(_grants.c.mac == normal_mac(mac), _grants.c.mac.is_(None))
        )
        query = (
            sa.select(_grants.c.token, _grants.c.mac, _grants.c.expires)
            .where(mine, _grants.c.burnt.is_(None), _grants.c.expires > self._clock())
            .order_by(_grants.c.mac.is_(None), _grants.c.created.desc())
            .limit(1)
        )
        with self._engine.begin() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Grant(token=row.token, mac=row.mac, expires=row.expires)

    def burn(self, token: str, *, boot_id: str, macs: frozenset[str]) -> None:
        """Spend the token on one boot of a machine that has ``macs``. Raises GrantRefused.

        The same boot may present it again, however late: that is a reconnect. No other boot ever may.
        """
        where = _grants.c.token_hash == _hash(token)
        now = self._clock()
        with self._engine.begin() as connection:
            row = connection.execute(sa.select(_grants).where(where)).one_or_none()
            if row is None:
                raise GrantRefused("token_unknown", "this join token was never given out, or was withdrawn")
            if row.mac is not None and row.mac not in macs:
                raise GrantRefused("token_other_node", "this join token was given to another machine")
            if row.burnt is not None:
                if row.boot_id == boot_id:
                    return
                raise GrantRefused("token_burnt", "this join token was already used by another boot")
            if row.expires <= now:
                raise GrantRefused("token_expired", "this join token has expired")
            connection.execute(_grants.update().where(where).values(burnt=now, boot_id=boot_id, token=None))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
