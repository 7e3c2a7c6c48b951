from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from teeth.boot.grants import TTL, GrantBook, GrantRefused
from teeth.errors import UsageError

MAC = "52:54:00:00:00:01"
MINE = frozenset({MAC})


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
    yield engine
    engine.dispose()


@pytest.fixture
def book(engine: sa.Engine, clock: Clock) -> GrantBook:
    return GrantBook(engine, clock=clock)


def refusal(book: GrantBook, token: str, boot_id: str = "b2", macs: frozenset[str] = MINE) -> str:
    with pytest.raises(GrantRefused) as caught:
        book.burn(token, boot_id=boot_id, macs=macs)
    return caught.value.code


def test_a_grant_boots_its_machine_until_it_is_burnt(book: GrantBook) -> None:
    grant = book.create("52-54-00-00-00-01")
    assert len(grant.token) >= 22  # 128 bits or more
    assert book.lookup(MAC) == grant
    assert book.lookup(MAC) == grant  # a script fetched twice is still the first boot
    book.burn(grant.token, boot_id="b1", macs=MINE)
    assert book.lookup(MAC) is None


def test_a_burnt_token_is_for_the_same_boot_only(book: GrantBook, clock: Clock) -> None:
    grant = book.create(MAC)
    book.burn(grant.token, boot_id="b1", macs=MINE)
    clock.now += TTL * 10
    book.burn(grant.token, boot_id="b1", macs=MINE)  # a reconnect, however late
    assert refusal(book, grant.token) == "token_burnt"


def test_a_grant_expires(book: GrantBook, clock: Clock) -> None:
    grant = book.create(MAC)
    clock.now += TTL
    assert book.lookup(MAC) is None
    assert refusal(book, grant.token) == "token_expired"


def test_a_grant_is_for_one_machine(book: GrantBook) -> None:
    grant = book.create(MAC)
    assert book.lookup("52:54:00:00:00:02") is None
    assert book.lookup(None) is None
    assert refusal(book, grant.token, macs=frozenset({"52:54:00:00:00:02"})) == "token_other_node"
    book.burn(grant.token, boot_id="b1", macs=MINE)  # the stranger's try cost nothing


def test_a_grant_for_any_machine_serves_any_but_one_boot(book: GrantBook) -> None:
    grant = book.create()
    assert book.lookup(MAC) == book.lookup(None) == grant
    own = book.create(MAC)
    assert book.lookup(MAC) == own
    book.burn(grant.token, boot_id="b1", macs=frozenset())
    assert refusal(book, grant.token) == "token_burnt"


def test_a_new_grant_withdraws_the_unused_one(book: GrantBook) -> None:
    old, new = book.create(MAC), book.create(MAC)
    assert old.token != new.token
    assert book.lookup(MAC) == new
    assert refusal(book, old.token) == "token_unknown"
    assert refusal(book, "x" * 32) == "token_unknown"


def test_a_spent_token_is_nowhere_any_more(book: GrantBook, engine: sa.Engine) -> None:
    grant = book.create(MAC)
    assert grant.token not in repr(grant)
    book.burn(grant.token, boot_id="b1", macs=MINE)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("select * from boot_grants").all()
    assert len(rows) == 1
    assert grant.token not in repr(rows)


def test_a_grant_needs_a_real_mac(book: GrantBook) -> None:
    with pytest.raises(UsageError, match="MAC"):
        book.create("not a mac")
