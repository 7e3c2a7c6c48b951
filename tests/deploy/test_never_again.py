"""A machine that was deployed is network-booted again: it starts from its own disk, which stays as it is.

Here without a machine: the real boot door and grant book, asked as a machine's iPXE asks, through every state
that a grant can be in. In guests: test_again.py.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from teeth.boot.door import boot_app
from teeth.boot.grants import TTL, Claim, Grant, GrantBook, GrantRefused, metadata
from teeth.boot.ipxe import LOCAL_DISK, BootTarget

TIMES = 100
MAC, UUID = "52:54:00:7e:e7:0d", "4bc88484-0f0e-4c39-9f5b-0d3c8a1c2d11"
OTHER_MAC, OTHER_UUID = "52:54:00:7e:e7:0e", "4bc88484-0f0e-4c39-9f5b-0d3c8a1c2d12"
TARGET = BootTarget(base_url="http://10.0.2.2:80", endpoints=("10.0.2.2:1",), ca_digest=f"sha256:{'0' * 64}")


@dataclass(slots=True, kw_only=True)
class Rack:
    """A boot door over a grant book with a clock of its own, and the machine that was deployed."""

    file: Path
    ramdisk: Path
    now: float = 1_000_000.0
    book: GrantBook = field(init=False)
    engine: sa.Engine = field(init=False)
    client: httpx.AsyncClient = field(init=False)

    def open(self) -> None:
        """As the endpoint does when it starts."""
        self.engine = sa.create_engine(sa.URL.create("sqlite", database=str(self.file)))
        # Hundreds of transactions: that they survive a power cut is not what is looked at here.
        sa.event.listen(self.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))
        metadata.create_all(self.engine)
        self.book = GrantBook(self.engine, clock=lambda: self.now)
        app = boot_app(
            target=TARGET,
            grants=self.book,
            ramdisk=self.ramdisk,
            images={},
            on_served=lambda name, size: None,
        )
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door")

    async def close(self) -> None:
        await self.client.aclose()
        self.engine.dispose()

    async def ask(self, mac: str, uuid: str) -> str:
        """What the machine's first script gets from the door."""
        answer = await self.client.get("/boot/ipxe", params={"mac": mac, "uuid": uuid})
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        return answer.text

    def burn(self, grant: Grant, boot_id: str) -> None:
        """The machine's agent enrols with the grant's token."""
        claim = Claim(node_id="n", boot_id=boot_id, spki=boot_id, macs=frozenset({MAC}), uuid=UUID)
        with self.engine.begin() as connection:
            assert self.book.burn(connection, grant.token, claim)

    def deploy(self, boot_id: str) -> Grant:
        """The machine boots the ramdisk once, on a grant for it, as it did to be deployed."""
        grant = self.book.create(MAC, uuid=UUID)
        self.burn(grant, boot_id)
        return grant


@pytest.fixture
async def rack(tmp_path: Path) -> AsyncIterator[Rack]:
    rack = Rack(file=tmp_path / "grants.sqlite", ramdisk=tmp_path)
    rack.open()
    yield rack
    await rack.close()


def expired(rack: Rack) -> None:
    rack.book.create(MAC, uuid=UUID, ttl=60.0)
    rack.now += 61.0


def withdrawn(rack: Rack) -> None:
    rack.book.withdraw(rack.book.create(MAC).id)


def of_another_machine(rack: Rack) -> None:
    rack.book.create(OTHER_MAC)


def of_another_board(rack: Rack) -> None:
    """The card was moved: its MAC is known, the board's UUID is another."""
    rack.book.create(MAC, uuid=OTHER_UUID)


def of_another_card(rack: Rack) -> None:
    rack.book.create(OTHER_MAC, uuid=UUID)


def deployed_again(rack: Rack) -> None:
    rack.deploy(f"boot-{rack.now}")


def tidied(rack: Rack) -> None:
    rack.now += TTL * 200
    rack.book.tidy()


def month_later(rack: Rack) -> None:
    rack.now += 40 * 86400.0
    rack.book.tidy()


STATES: tuple[Callable[[Rack], None], ...] = (
    expired, withdrawn, of_another_machine, of_another_board, of_another_card, deployed_again, tidied,
    month_later,
)  # fmt: skip


def as_firmware_says_it(chance: random.Random) -> tuple[str, str]:
    """The same machine in the ways that firmware writes MAC and UUID."""
    mac = chance.choice([MAC, MAC.upper(), MAC.replace(":", "-")])
    uuid = chance.choice([UUID, UUID.upper(), "", "none", "03000200-0400-0500-0006-000700080009"])
    return mac, uuid


async def test_a_hundred_network_boots_go_to_the_local_disk(rack: Rack) -> None:
    chance = random.Random(20)
    rack.deploy("boot-0")
    for number in range(TIMES):
        for state in chance.sample(STATES, chance.randint(1, 4)):
            state(rack)
        if number % 10 == 9:  # the endpoint was restarted
            await rack.close()
            rack.open()
        mac, uuid = as_firmware_says_it(chance)
        assert await rack.ask(mac, uuid) == LOCAL_DISK, (number, mac, uuid)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_no_state_of_a_grant_but_open_starts_the_ramdisk(
    rack: Rack, state: Callable[[Rack], None]
) -> None:
    rack.deploy("boot-0")
    state(rack)
    for uuid in (UUID, ""):
        assert await rack.ask(MAC, uuid) == LOCAL_DISK
    # What the door would serve is there to be seen: it is the grant that decides.
    grant = rack.book.create(MAC)
    assert f"teeth.token={grant.token}" in await rack.ask(MAC, UUID)
    rack.burn(grant, "boot-1")
    assert await rack.ask(MAC, UUID) == LOCAL_DISK


async def test_a_spent_token_does_not_enrol_another_boot(rack: Rack) -> None:
    grant = rack.deploy("boot-0")
    for number in range(TIMES):
        with pytest.raises(GrantRefused) as refused:
            rack.burn(grant, f"boot-{number + 1}")
        assert refused.value.code == "token_burnt"
