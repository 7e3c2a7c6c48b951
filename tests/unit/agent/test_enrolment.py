"""How a machine without a certificate gets one, shows it, keeps it and renews it, over real TLS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes.living_agent import TOKEN, agent
from fakes.tls_endpoint import Authority, TlsEndpoint, Visit, tls_endpoint
from teeth_agent.session.enrol import FileKeys
from teeth_agent.session.membership import ADVICE, Membership, last_words
from teeth_protocol.errors import ProblemError


def refusing(code: str, msg: str) -> Any:
    async def refuse(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        raise ProblemError(code, msg)

    return refuse


async def test_a_stranger_enrols_and_comes_again_as_an_acquaintance(
    endpoint: TlsEndpoint, authority: Authority, spooled: pytest.LogCaptureFixture
) -> None:
    async with agent(endpoint.port, digest=authority.digest) as living:
        asked = await endpoint.enrolment()
        assert asked.pop("csr").startswith("-----BEGIN CERTIFICATE REQUEST-----\n")
        assert asked == {
            "id": "node-1", "boot_id": "boot-1", "macs": ["52:54:00:00:00:01"], "uuid": None, "token": TOKEN,
        }  # fmt: skip
        visit = await endpoint.visit()
        assert visit.identity == ("node-1", "boot-1")
        (hello,) = visit.said("handshake")
        assert "token" not in hello
        said = await living.screen.says(f"connected to 127.0.0.1:{endpoint.port} as node-1")
        assert f"teeth: enrolled with 127.0.0.1:{endpoint.port}\n" in said
        for file in living.folder.iterdir():
            assert TOKEN not in file.read_text()


async def test_a_lost_answer_is_asked_for_again_with_the_same_key(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    lost = 0

    async def lose(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal lost
        if lost < 2:
            lost += 1
            visit.peer._writer.transport.abort()
        return await endpoint.certify(visit, method, params)

    endpoint.enrol = lose
    async with agent(endpoint.port, digest=authority.digest):
        await endpoint.visit()
        asked = [await endpoint.enrolment() for _ in range(3)]
    assert lost == 2
    assert asked[0] == asked[1] == asked[2]


async def test_the_next_process_of_the_boot_does_not_enrol_again(
    endpoint: TlsEndpoint, authority: Authority, tmp_path: Path
) -> None:
    for _ in range(2):
        async with agent(endpoint.port, digest=authority.digest, folder=tmp_path / "run"):
            assert (await endpoint.visit()).identity == ("node-1", "boot-1")
    assert endpoint.enrolments.qsize() == 1


@pytest.mark.parametrize(
    "code", ["token_unknown", "token_expired", "token_burnt", "token_other_node", "node_claimed"]
)
async def test_a_refusal_is_one_line_that_says_what_to_do(
    endpoint: TlsEndpoint, authority: Authority, code: str
) -> None:
    endpoint.enrol = refusing(code, "no\n\x1b[2J more words")
    async with agent(endpoint.port, digest=authority.digest) as living:
        await living.screen.says("problem ")
        asked = [await endpoint.enrolment(), await endpoint.enrolment()]  # it goes on asking
        endpoint.enrol = endpoint.certify
        await endpoint.visit()
    lines = [line for line in living.screen.getvalue().splitlines() if "problem" in line]
    assert lines == [f"teeth: problem {code}: 127.0.0.1:{endpoint.port}: no ?[2J more words: {ADVICE[code]}"]
    assert asked[0] == asked[1]


async def test_without_a_token_nobody_is_asked(endpoint: TlsEndpoint, authority: Authority) -> None:
    async with agent(endpoint.port, digest=authority.digest, token="") as living:
        said = await living.screen.says("problem no_token: ")
    assert "teeth.token=" in said
    assert endpoint.enrolments.qsize() == 0


async def test_who_refuses_us_does_not_keep_us_from_the_next(authority: Authority) -> None:
    async with tls_endpoint(authority) as strict, tls_endpoint(authority) as kind:
        strict.enrol = refusing("token_unknown", "never given out")
        async with agent(strict.port, kind.port, digest=authority.digest) as living:
            await kind.visit()
            assert f"problem token_unknown: 127.0.0.1:{strict.port}: " in living.screen.getvalue()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"certificate": "x", "time": 1, "not_after": 100},
        {"certificate": 7, "time": 1, "not_after": 100},
        {"time": "now"},
        {"not_after": 5, "time": 5},
        {"not_after": 1e300, "time": 5},
    ],
)
async def test_an_answer_that_is_no_certificate_is_a_problem_and_asked_again(
    endpoint: TlsEndpoint, authority: Authority, answer: dict[str, Any]
) -> None:
    async def odd(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        good = await endpoint.certify(visit, method, params)
        return {**good, **answer} if answer else {}

    endpoint.enrol = odd
    async with agent(endpoint.port, digest=authority.digest) as living:
        await living.screen.says("problem bad_certificate: ")
        endpoint.enrol = endpoint.certify
        await endpoint.visit()


async def test_an_endpoint_that_forgot_us_gets_a_new_request(
    authority: Authority, other_authority: Authority, tmp_path: Path
) -> None:
    """It takes no certificate of that authority any more, which TLS says after the connection is made."""
    keys = FileKeys(tmp_path / "run", boot_id="boot-1")
    await keys.keep(other_authority.sign(await keys.csr(), "node-1", "boot-1")["certificate"], 3600)
    async with (
        tls_endpoint(authority) as endpoint,
        agent(endpoint.port, digest=authority.digest, folder=tmp_path / "run"),
    ):
        assert (await endpoint.enrolment())["token"] == TOKEN
        await endpoint.visit()


async def test_a_good_certificate_outlives_an_endpoint_that_does_not_answer_for_a_while(
    endpoint: TlsEndpoint, authority: Authority, tmp_path: Path
) -> None:
    """To ask anew is a try: who refuses that too (the token is of yesterday) is shown the old one again."""
    async with agent(endpoint.port, digest=authority.digest, folder=tmp_path / "run") as living:
        visit = await endpoint.visit()
        endpoint.enrol = refusing("token_burnt", "spent")

        async def hang_up(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            visit.peer.hang_up()
            return {}

        endpoint.reply = hang_up
        await endpoint.enrolment()
        await visit.cut()
        assert (await endpoint.enrolment())["token"] == TOKEN
        await living.screen.says("problem token_burnt")

        async def yes(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            return {}

        endpoint.reply = yes
        while True:
            visit = await endpoint.visit()
            if not visit.over.done():
                break
        assert visit.identity == ("node-1", "boot-1")


@pytest.mark.parametrize("code", ["not_enrolled", "wrong_identity", "certificate_expired"])
async def test_a_certificate_that_is_refused_by_name_is_replaced_at_once(
    endpoint: TlsEndpoint, authority: Authority, code: str
) -> None:
    async def refuse(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if method == "handshake" and endpoint.enrolments.qsize() == 1:
            raise ProblemError(code, f"{code}: not this one")
        return {}

    endpoint.reply = refuse
    async with agent(endpoint.port, digest=authority.digest) as living:
        await endpoint.visit()
        assert endpoint.enrolments.qsize() == 2
        said = living.screen.getvalue()
    assert f"teeth: problem {code}: 127.0.0.1:{endpoint.port}: not this one: {ADVICE[code]}\n" in said


async def test_a_boot_that_was_overtaken_does_not_ask_for_more_certificates(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    refusals = 0

    async def refuse(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal refusals
        if method == "handshake" and refusals < 4:
            refusals += 1
            raise ProblemError("stale_boot", "stale_boot: a newer boot has enrolled")
        return {}

    endpoint.reply = refuse
    async with agent(endpoint.port, digest=authority.digest):
        await endpoint.visit()
    assert (refusals, endpoint.enrolments.qsize()) == (4, 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stale_boot: a newer one: of today", ("stale_boot", "a newer one: of today")),
        ("no handshake in time", ("refused", "no handshake in time")),
        ("some_code: of tomorrow", ("refused", "some_code: of tomorrow")),
        ("params.id: missing", ("refused", "params.id: missing")),
        ("stale_boot", ("refused", "stale_boot")),
        ("", ("refused", "")),
    ],
)
def test_last_words(text: str, told: tuple[str, str]) -> None:
    assert last_words(text) == told


async def renewable(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"capabilities": ["renew"]} if method == "handshake" else {}


async def test_the_certificate_is_renewed_over_the_session(
    endpoint: TlsEndpoint, authority: Authority, tmp_path: Path
) -> None:
    endpoint.reply, endpoint.lasts = renewable, 1.5
    async with agent(endpoint.port, digest=authority.digest, folder=tmp_path / "run"):
        first = await endpoint.enrolment()
        visit = await endpoint.visit()
        endpoint.lasts = 3600.0
        assert await endpoint.enrolment() == {"csr": first["csr"]}
        assert visit.said("handshake")[1:] == []  # the same session
        await visit.peer.call("ping", {})
        kept = await FileKeys(tmp_path / "run", boot_id="boot-1").load()
        while kept is None or kept.lasts != 3600.0:  # it is being written
            await asyncio.sleep(0)
            kept = await FileKeys(tmp_path / "run", boot_id="boot-1").load()
        await visit.cut()
        assert (await endpoint.visit()).identity == ("node-1", "boot-1")
    assert endpoint.enrolments.qsize() == 0


class Clocked(FileKeys):
    """Its clock stands where a test puts it."""

    at = 0.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, boot_id="boot-1", now=lambda: self.at)


@pytest.mark.parametrize(("jitter", "share"), [(0.0, 0.6167), (0.5, 0.6667), (0.9999, 0.7166)])
async def test_the_time_of_renewal_is_spread_around_two_thirds(
    endpoint: TlsEndpoint, authority: Authority, tmp_path: Path, jitter: float, share: float
) -> None:
    keys = Clocked(tmp_path / "run")
    await keys.keep(authority.sign(await keys.csr(), "node-1", "boot-1")["certificate"], 86400)
    membership = Membership(keys, lambda: "", {}, jitter=lambda: jitter, clock=lambda: 0.0)
    assert await membership.credential() is not None
    for at, due in ((share - 0.001, False), (share + 0.001, True)):
        keys.at = at * 86400
        asked = Asked()
        staying = asyncio.create_task(membership.stay(asked))  # type: ignore[arg-type]
        if due:
            async with asyncio.timeout(30):
                await asked.asked.wait()
        else:
            for _ in range(50):
                await asyncio.sleep(0)
            assert not asked.asked.is_set()
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)


class Asked:
    """A peer that never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert (method, list(params)) == ("enroll", ["csr"])
        self.asked.set()
        await asyncio.Event().wait()
        return {}


async def test_an_endpoint_that_knows_no_renewal_is_not_asked_for_one(
    endpoint: TlsEndpoint, authority: Authority, tmp_path: Path
) -> None:
    keys = Clocked(tmp_path / "run")
    async with agent(endpoint.port, digest=authority.digest, keys=keys):
        visit = await endpoint.visit()
        keys.at = 0.9 * 86400
        await visit.cut()
        visit = await endpoint.visit()
        assert await visit.peer.call("status", {})
        assert endpoint.enrolments.qsize() == 1
        keys.at = 1.1 * 86400  # over: it comes as a stranger again
        await visit.cut()
        await endpoint.visit()
        assert endpoint.enrolments.qsize() == 2
        for _ in range(2):
            assert "token" in await endpoint.enrolment()


async def test_status_tells_of_clock_problems_and_sessions(
    endpoint: TlsEndpoint, authority: Authority
) -> None:
    async def told(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"time": 4e9} if method == "handshake" else {}

    endpoint.enrol = refusing("token_unknown", "no")
    endpoint.reply = told
    async with agent(endpoint.port, digest=authority.digest) as living:
        await living.screen.says("problem token_unknown")
        endpoint.enrol = endpoint.certify
        await (await endpoint.visit()).cut()
        visit = await endpoint.visit()
        status = await visit.peer.call("status", {})
    assert status["sessions"] == 2
    assert status["clock"]["stepped"] is False
    assert status["clock"]["offset"] > 1e9
    (problem,) = status["problems"]
    assert (problem["code"], problem["time"] > 0) == ("token_unknown", True)
    assert problem["msg"].startswith(f"127.0.0.1:{endpoint.port}: no: ")


async def test_the_token_is_in_no_log(endpoint: TlsEndpoint, authority: Authority, spooled: Any) -> None:
    logging.getLogger("teeth_agent").info("begin")
    endpoint.enrol = refusing("token_unknown", "no")
    async with agent(endpoint.port, digest=authority.digest) as living:
        await living.screen.says("problem token_unknown")
        endpoint.enrol = endpoint.certify
        visit = await endpoint.visit()
        status = await visit.peer.call("status", {})
    records = []
    while (record := living.spool.take()) is not None:
        records.append(record)
    assert TOKEN not in f"{records}{status}"
