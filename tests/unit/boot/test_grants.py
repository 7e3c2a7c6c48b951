from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from teeth.boot.grants import REPEAT, TTL, Claim, GrantBook, GrantRefused, metadata
from teeth.errors import TeethError, UsageError

MAC = "52:54:00:00:00:01"
MINE = frozenset({MAC})
UUID = "4bc88484-0f0e-4c39-9f5b-0d3c8a1c2d11"
OTHER = "4bc88484-0f0e-4c39-9f5b-0d3c8a1c2d12"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(tmp_path / "grants.sqlite")))
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def book(engine: sa.Engine, clock: Clock) -> GrantBook:
    return GrantBook(engine, clock=clock)


class Burner:
    """Burns tokens of one book, each in a transaction of its own."""

    def __init__(self, book: GrantBook, engine: sa.Engine) -> None:
        self._book = book
        self._engine = engine

    def __call__(
        self,
        token: str,
        boot_id: str = "b1",
        macs: frozenset[str] = MINE,
        uuid: str | None = None,
        spki: str = "k1",
        node_id: str = "n1",
    ) -> bool:
        claim = Claim(node_id=node_id, boot_id=boot_id, spki=spki, macs=macs, uuid=uuid)
        with self._engine.begin() as connection:
            return self._book.burn(connection, token, claim)

    def refusal(self, token: str, **shown: Any) -> str:
        with pytest.raises(GrantRefused) as caught:
            self(token, **shown)
        return caught.value.code


@pytest.fixture
def burn(book: GrantBook, engine: sa.Engine) -> Burner:
    return Burner(book, engine)


def test_a_grant_boots_its_machine_until_it_is_burnt(book: GrantBook, burn: Burner) -> None:
    grant = book.create("52-54-00-00-00-01")
    assert len(grant.token) >= 22  # 128 bits or more
    assert book.lookup(MAC) == grant
    assert book.lookup(MAC) == grant  # a script fetched twice is still the first boot
    assert burn(grant.token) is True
    assert book.lookup(MAC) is None


def test_a_burnt_token_is_for_the_same_key_and_boot_for_a_day(
    book: GrantBook, burn: Burner, clock: Clock
) -> None:
    grant = book.create(MAC)
    burn(grant.token)
    clock.now += REPEAT - 1
    assert burn(grant.token) is False  # the answer was lost
    assert burn.refusal(grant.token, boot_id="b2") == "token_burnt"
    assert burn.refusal(grant.token, spki="k2") == "token_burnt"
    assert burn.refusal(grant.token, node_id="n2") == "token_burnt"
    clock.now += 2
    assert burn.refusal(grant.token) == "token_expired"


def test_what_is_rolled_back_is_not_burnt(book: GrantBook, engine: sa.Engine) -> None:
    grant = book.create(MAC)
    claim = Claim(node_id="n1", boot_id="b1", spki="k1", macs=MINE, uuid=None)
    with engine.connect() as connection, connection.begin() as work:
        book.burn(connection, grant.token, claim)
        work.rollback()
    assert book.lookup(MAC) == grant


def test_a_grant_expires_and_its_token_is_wiped(
    book: GrantBook, burn: Burner, clock: Clock, engine: sa.Engine
) -> None:
    grant = book.create(MAC)
    clock.now += TTL
    assert book.lookup(MAC) is None
    assert burn.refusal(grant.token) == "token_expired"
    book.tidy()
    assert grant.token not in everything(engine)
    assert [record.state for record in book.listing()] == ["expired"]


def test_a_grant_is_for_one_machine(book: GrantBook, burn: Burner) -> None:
    grant = book.create(MAC)
    assert book.lookup("52:54:00:00:00:02") is None
    assert book.lookup(None) is None
    assert burn.refusal(grant.token, macs=frozenset({"52:54:00:00:00:02"})) == "token_other_node"
    burn(grant.token)  # the stranger's try cost nothing


def test_a_grant_may_be_for_a_uuid_alone_or_for_both(book: GrantBook, burn: Burner) -> None:
    only, both = book.create(uuid=UUID.upper()), book.create(MAC, uuid=UUID)
    assert only.uuid == UUID
    assert book.lookup("52:54:00:00:00:02", UUID) == only
    assert book.lookup(MAC, UUID) == both
    assert book.lookup(MAC, OTHER) is None
    assert book.lookup(MAC, None) is None
    assert burn.refusal(both.token, uuid=OTHER) == "token_other_node"
    assert burn.refusal(both.token, uuid=None) == "token_other_node"
    assert burn.refusal(both.token, uuid=UUID, macs=frozenset()) == "token_other_node"
    assert burn.refusal(only.token, uuid=OTHER) == "token_other_node"
    assert burn(only.token, uuid=UUID, macs=frozenset())
    assert burn(both.token, uuid=UUID, boot_id="b2")


def test_a_grant_for_any_machine_serves_any_but_one_boot(book: GrantBook, burn: Burner) -> None:
    grant = book.create()
    assert book.lookup(MAC) == book.lookup(None) == grant
    own = book.create(MAC)
    assert book.lookup(MAC) == own
    burn(grant.token, macs=frozenset())
    assert burn.refusal(grant.token, boot_id="b2") == "token_burnt"


def test_a_new_grant_withdraws_the_unused_one(book: GrantBook, burn: Burner) -> None:
    old, new = book.create(MAC), book.create(MAC)
    assert old.token != new.token
    assert book.lookup(MAC) == new
    assert burn.refusal(old.token) == "token_unknown"
    assert burn.refusal("x" * 32) == "token_unknown"
    also = book.create(MAC, uuid=UUID)
    assert book.lookup(MAC, UUID) == also
    assert book.lookup(MAC) == new  # a grant for another binding stands beside it


def test_the_listing_says_what_became_of_a_grant_and_no_token(
    book: GrantBook, burn: Burner, clock: Clock
) -> None:
    spent = book.create(MAC, uuid=UUID)
    burn(spent.token, uuid=UUID)
    clock.now += 1
    open_one = book.create()
    first, second = book.listing()
    assert (first.id, first.state, first.mac, first.node_id) == (open_one.id, "open", None, None)
    assert (second.id, second.state, second.mac, second.uuid) == (spent.id, "burnt", MAC, UUID)
    assert (second.node_id, second.boot_id, second.burnt) == ("n1", "b1", clock.now - 1)
    assert not any(token in repr((first, second)) for token in (spent.token, open_one.token))


def test_a_withdrawn_grant_opens_nothing(book: GrantBook, burn: Burner) -> None:
    grant, spent = book.create(MAC), book.create()
    burn(spent.token)
    assert book.withdraw(grant.id).id == grant.id
    assert burn.refusal(grant.token) == "token_unknown"
    assert [record.id for record in book.listing()] == [spent.id]
    book.withdraw(spent.id)  # changes nothing: the machine is in
    assert [record.id for record in book.listing()] == [spent.id]
    with pytest.raises(TeethError, match="there is no boot grant"):
        book.withdraw("0" * 16)


def test_a_spent_token_is_nowhere_any_more(book: GrantBook, burn: Burner, engine: sa.Engine) -> None:
    grant = book.create(MAC)
    assert grant.token not in repr(grant)
    burn(grant.token)
    assert "b1" in everything(engine)
    assert grant.token not in everything(engine)


@pytest.mark.parametrize("shown", [{"mac": "not a mac"}, {"uuid": "not a uuid"}, {"uuid": ""}])
def test_a_grant_needs_a_real_mac_or_uuid(book: GrantBook, shown: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"not a (MAC|UUID)"):
        book.create(**shown)


def everything(engine: sa.Engine) -> str:
    with engine.connect() as connection:
        return repr(connection.exec_driver_sql("select * from boot_grants").all())
