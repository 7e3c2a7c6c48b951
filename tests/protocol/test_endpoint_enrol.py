"""Who is let in, and as whom: enrolment and client certificates against a real endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fakes.wire_agent import WireAgent, present, request_for, trusting
from teeth.endpoint import ca
from teeth.endpoint.clientcert import ClientSigner
from teeth.endpoint.events import Event, NodeDisconnected, NodeRefused, Subscription
from teeth.endpoint.identity import peer_identity
from teeth.endpoint.taskstate import TaskState
from teeth.errors import TeethError
from teeth.service import Endpoint, EndpointConfig
from teeth_protocol.connection import Closed
from teeth_stream import RemoteError

MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"
UUID, OTHER_UUID = "4bc88484-0f0e-4c39-9f5b-0d3c8a1c2d11", "00000000-0f0e-4c39-9f5b-0d3c8a1c2d11"
DAY = 86400.0


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with Endpoint(EndpointConfig(data=tmp_path / "data")) as running:
        yield running


async def granted(endpoint: Endpoint, **members: Any) -> WireAgent:
    """A machine with an open grant for its own MAC."""
    agent = WireAgent(token="", **members)
    agent.token = (await endpoint.grant(agent.macs[0])).token
    return agent


async def enrol(endpoint: Endpoint, agent: WireAgent, **changes: Any) -> dict[str, Any]:
    return await agent.enrol(endpoint.agent_port, endpoint.ca_file, **changes)


async def refusal(endpoint: Endpoint, agent: WireAgent, **changes: Any) -> str:
    """The code with which an enrolment is refused."""
    with pytest.raises(RemoteError) as caught:
        await enrol(endpoint, agent, **changes)
    return caught.value.problem.code


async def thrown_out(endpoint: Endpoint, agent: WireAgent, **changes: Any) -> str:
    """The code with which a handshake is refused, fatally."""
    async with agent.dial(endpoint.agent_port, endpoint.ca_file) as dialled:
        with pytest.raises(RemoteError):
            await dialled.peer.call("handshake", {**agent.hello(), **changes})
        closed = await dialled.end()
    assert closed.fatal
    return closed.reason.partition(":")[0]


async def not_even_tls(endpoint: Endpoint, context: ssl.SSLContext) -> None:
    """The endpoint ends the connection, where it would answer the ping of one without a certificate."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", endpoint.agent_port, ssl=context, server_hostname="127.0.0.1"
    )
    with contextlib.suppress(OSError):  # SSLError is one: an alert, where one is sent
        writer.write(b'{"id": "1", "method": "ping"}\n')
        assert await asyncio.wait_for(reader.read(), 4) == b""
    writer.close()


async def next_of(watcher: Subscription, kind: type[Any]) -> Any:
    async with asyncio.timeout(10):
        while True:
            event: Event | None = await watcher.get()
            assert event is not None
            if isinstance(event, kind):
                return event


def identity_of(agent: WireAgent) -> Any:
    assert agent.certificate is not None
    return peer_identity(ssl.PEM_cert_to_DER_cert(agent.certificate))


async def test_a_token_becomes_a_certificate_and_that_a_session(endpoint: Endpoint) -> None:
    agent = await granted(endpoint, uuid=UUID)
    answer = await enrol(endpoint, agent)
    assert abs(answer["not_after"] - answer["time"] - DAY) < 2
    assert sorted(answer) == ["certificate", "not_after", "time"]
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert certificate.subject.rfc4514_string() == "CN=teeth agent"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "urn:teeth:node:node-1",
        "urn:teeth:boot:boot-1",
    ]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
        assert dialled.welcome["epoch"] == 1
        assert endpoint.connected() == ["node-1"]


async def test_a_lost_answer_is_given_again_to_the_same_key_only(endpoint: Endpoint) -> None:
    agent = await granted(endpoint)
    await enrol(endpoint, agent)
    first = identity_of(agent)
    await enrol(endpoint, agent)
    assert identity_of(agent).spki == first.spki
    thief = WireAgent(token=agent.token, boot_id=agent.boot_id)
    assert await refusal(endpoint, thief) == "token_burnt"  # another key
    later = WireAgent(token=agent.token, boot_id="boot-2", key=agent.key)
    assert await refusal(endpoint, later) == "token_burnt"  # another boot
    assert await refusal(endpoint, agent, id="node-2") == "token_burnt"  # another node
    async with agent.session(endpoint.agent_port, endpoint.ca_file):
        assert endpoint.connected() == ["node-1"]


async def test_a_token_is_for_its_machine(endpoint: Endpoint) -> None:
    agent = WireAgent(token=(await endpoint.grant(OTHER_MAC)).token)
    assert await refusal(endpoint, agent) == "token_other_node"
    agent = WireAgent(token=(await endpoint.grant(MAC, uuid=UUID)).token, uuid=OTHER_UUID)
    assert await refusal(endpoint, agent) == "token_other_node"
    assert await refusal(endpoint, agent, uuid=None) == "token_other_node"
    await enrol(endpoint, agent, uuid=UUID.upper())  # no try of a stranger's has spent it


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"csr": "not a request"}, "in PEM"),
        ({"csr": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"}, "in PEM"),
        ({"csr": "x" * 2100}, "at most 2048"),
        ({"csr": None}, "csr"),
        ({"csr": 7}, "csr"),
        ({"id": "a node"}, "params.id"),
        ({"boot_id": "a boot"}, "params.boot_id"),
        ({"uuid": "u"}, "params.uuid"),
        ({"macs": "52:54"}, "params.macs"),
        ({"only": "nonsense"}, "params.only"),
    ],
)
async def test_a_claim_is_read_strictly(endpoint: Endpoint, change: dict[str, Any], words: str) -> None:
    agent = await granted(endpoint)
    with pytest.raises(RemoteError) as caught:
        await enrol(endpoint, agent, **change)
    assert caught.value.problem.code == "bad_params"
    assert words in caught.value.problem.msg
    await enrol(endpoint, agent)  # the token was not spent


def rsa_request() -> str:
    return _sign(rsa.generate_private_key(65537, 2048))


def p384_request() -> str:
    return _sign(ec.generate_private_key(ec.SECP384R1()))


def forged_request() -> str:
    """For another's public key: the signature is not by it."""
    der = bytearray(
        ssl.PEM_cert_to_DER_cert(_as_certificate(request_for(ec.generate_private_key(ec.SECP256R1()))))
    )
    der[-1] ^= 1
    request = x509.load_der_x509_csr(bytes(der))
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _as_certificate(pem: str) -> str:
    return pem.replace("CERTIFICATE REQUEST", "CERTIFICATE")


def _sign(key: Any) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("make", "words"),
    [(rsa_request, "P-256"), (p384_request, "P-256"), (forged_request, "not signed by its own key")],
)
async def test_only_a_p256_key_that_signs_for_itself_is_certified(
    endpoint: Endpoint, make: Any, words: str
) -> None:
    agent = await granted(endpoint)
    with pytest.raises(RemoteError) as caught:
        await enrol(endpoint, agent, csr=make())
    assert (caught.value.problem.code, words in caught.value.problem.msg) == ("bad_params", True)


async def test_what_a_request_says_of_itself_counts_for_nothing(endpoint: Endpoint) -> None:
    agent = await granted(endpoint)
    await enrol(endpoint, agent, csr=request_for(agent.key, "urn:teeth:node:node-9"))
    assert identity_of(agent).node_id == "node-1"


async def test_the_time_is_for_anybody_and_nothing_else_comes_with_it(endpoint: Endpoint) -> None:
    agent = WireAgent(token="none")
    async with agent.dial(endpoint.agent_port, endpoint.ca_file) as dialled:
        answer = await dialled.peer.call("enroll", {"only": "time"})
    assert list(answer) == ["time"]


async def test_the_fifth_enrolment_on_a_connection_is_its_end(endpoint: Endpoint) -> None:
    agent = WireAgent(token="x" * 32)
    async with agent.dial(endpoint.agent_port, endpoint.ca_file) as dialled:
        for _ in range(4):
            with pytest.raises(RemoteError) as caught:
                await dialled.peer.call("enroll", agent.claim())
            assert caught.value.problem.code == "token_unknown"
        with pytest.raises(RemoteError):
            await dialled.peer.call("enroll", agent.claim())
        closed = await dialled.end()
    assert (closed.fatal, closed.reason) == (True, "busy: too many enrolments on one connection")


async def test_a_handshake_needs_a_certificate(endpoint: Endpoint) -> None:
    assert await thrown_out(endpoint, WireAgent(token="none")) == "not_enrolled"


@pytest.mark.parametrize("change", [{"id": "node-2"}, {"boot_id": "boot-2"}])
async def test_a_handshake_is_for_the_certificates_node_and_boot(
    endpoint: Endpoint, change: dict[str, str]
) -> None:
    agent = await granted(endpoint)
    await enrol(endpoint, agent)
    assert await thrown_out(endpoint, agent, **change) == "wrong_identity"


async def test_an_older_boot_does_not_come_back(endpoint: Endpoint) -> None:
    first = await granted(endpoint)
    async with first.session(endpoint.agent_port, endpoint.ca_file) as old:
        second = await granted(endpoint, boot_id="boot-2")
        await enrol(endpoint, second)
        assert await old.peer.call("log", {"event": "not overtaken yet"}) == {}
        with pytest.raises(RemoteError) as caught:
            await old.peer.call("enroll", {"csr": request_for(first.key)})
        assert caught.value.problem.code == "stale_boot"
        async with second.session(endpoint.agent_port, endpoint.ca_file):
            assert (await old.end()).fatal
            assert await thrown_out(endpoint, first) == "stale_boot"
            await enrol(endpoint, first)  # its lost answer; that makes it no newer
            assert await thrown_out(endpoint, first) == "stale_boot"
            assert endpoint.connected() == ["node-1"]


@pytest.mark.parametrize("online", [True, False])
async def test_a_node_belongs_to_the_machine_that_enrolled_it(endpoint: Endpoint, online: bool) -> None:
    owner = await granted(endpoint, macs=(MAC, "52:54:00:00:00:09"))
    other = await granted(endpoint, macs=(OTHER_MAC,), boot_id="boot-2")
    async with owner.session(endpoint.agent_port, endpoint.ca_file) as dialled:
        if not online:
            dialled.peer.hang_up()
            await dialled.end()
        assert await refusal(endpoint, other) == "node_claimed"
        if online:
            assert await dialled.peer.call("log", {"event": "still here"}) == {}
    # Its other card alone is still the same machine, and the refused token was not spent.
    again = WireAgent(token="", macs=("52-54-00-00-00-09",), boot_id="boot-3")
    again.token = (await endpoint.grant("52:54:00:00:00:09")).token
    await enrol(endpoint, again)
    assert await refusal(endpoint, other) == "node_claimed"
    await endpoint.forget_node("node-1")
    await enrol(endpoint, other)
    async with other.session(endpoint.agent_port, endpoint.ca_file) as new:
        assert new.welcome["epoch"] == 1


async def test_a_shared_card_does_not_make_another_uuid_the_same_machine(endpoint: Endpoint) -> None:
    await enrol(endpoint, await granted(endpoint, uuid=UUID))
    other = await granted(endpoint, uuid=OTHER_UUID, boot_id="boot-2")
    assert await refusal(endpoint, other) == "node_claimed"


async def test_a_machine_that_shows_nothing_takes_no_id(endpoint: Endpoint) -> None:
    await enrol(endpoint, await granted(endpoint, uuid=UUID))
    blank = WireAgent(token=(await endpoint.grant()).token, macs=(), boot_id="boot-2")
    assert await refusal(endpoint, blank) == "node_claimed"
    assert await refusal(endpoint, blank, uuid=UUID) == "node_claimed"


async def test_a_forgotten_node_is_a_stranger(endpoint: Endpoint) -> None:
    agent = await granted(endpoint)
    async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
        await endpoint.forget_node("node-1")
        closed = await dialled.end()
    assert closed.reason == "not_enrolled: this node was forgotten"
    assert (await endpoint.node("node-1"), endpoint.connected()) == (None, [])
    assert await thrown_out(endpoint, agent) == "not_enrolled"
    assert await refusal(endpoint, agent) == "token_burnt"
    with pytest.raises(TeethError, match="there is no node node-1"):
        await endpoint.forget_node("node-1")


async def test_a_node_with_open_tasks_is_forgotten_by_force_only(endpoint: Endpoint) -> None:
    agent = await granted(endpoint)
    agent.answers["decom.disk_erase"] = lambda _: {"state": "running"}
    with endpoint.subscribe() as watcher:
        async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
            running = await endpoint.run_task("node-1", "decom.disk_erase", {})
            await agent.command("decom.disk_erase")
            await dialled.status(running, "running", seq=1, percent=1)
        await next_of(watcher, NodeDisconnected)
    waiting = await endpoint.run_task("node-1", "decom.disk_erase", {"plan": True})
    with pytest.raises(TeethError, match="2 of the tasks of node node-1 are not over"):
        await endpoint.forget_node("node-1")
    assert await endpoint.node("node-1") is not None
    await endpoint.forget_node("node-1", force=True)
    states = {task.task_id: (task.state, task.code) for task in await endpoint.tasks("node-1")}
    assert states == {
        running: (TaskState.UNKNOWN, "node_forgotten"),
        waiting: (TaskState.ERROR, "node_forgotten"),
    }
    other = await granted(endpoint, macs=(OTHER_MAC,), boot_id="boot-2")
    async with other.session(endpoint.agent_port, endpoint.ca_file):
        await other.command("inventory")
    assert other.commands.empty()  # nothing that was asked of the one goes to the other


async def test_a_session_renews_its_certificate(endpoint: Endpoint) -> None:
    agent = await granted(endpoint)
    async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
        first = identity_of(agent)
        agent.key = ec.generate_private_key(ec.SECP256R1())
        claims = {"id": "node-2", "boot_id": "boot-2", "csr": request_for(agent.key, "urn:teeth:node:node-2")}
        agent.certificate = (await dialled.peer.call("enroll", claims))["certificate"]
        second = identity_of(agent)
        # Whatever a renewal says, it is for the session's own node and boot.
        assert (second.node_id, second.boot_id) == (first.node_id, first.boot_id)
        assert second.spki != first.spki
        with pytest.raises(RemoteError) as caught:
            await dialled.peer.call("enroll", {"csr": "rubbish"})
        assert caught.value.problem.code == "bad_params"
    async with agent.session(endpoint.agent_port, endpoint.ca_file) as again:
        assert again.welcome["epoch"] == 2


async def test_a_certificate_of_another_ca_is_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    signer = ClientSigner(ca.load_or_create(tmp_path / "other"))
    agent = await granted(endpoint)
    await enrol(endpoint, agent)
    context = trusting(endpoint.ca_file)
    present(context, signer.sign(request_for(agent.key), "node-1", "boot-1")[0], agent.key)
    await not_even_tls(endpoint, context)
    async with agent.session(endpoint.agent_port, endpoint.ca_file):
        pass


async def test_an_expired_certificate_is_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    agent = await granted(endpoint)
    await enrol(endpoint, agent)
    authority = ca.load_or_create(tmp_path / "data")
    stale = ClientSigner(authority, lifetime=-1.0)
    context = trusting(endpoint.ca_file)
    present(context, stale.sign(request_for(agent.key), "node-1", "boot-1")[0], agent.key)
    await not_even_tls(endpoint, context)


async def test_a_certificate_for_another_purpose_is_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    """The endpoint's own server certificate is of the right CA, and opens nothing."""
    context = trusting(endpoint.ca_file)
    context.load_cert_chain(tmp_path / "data" / "server.pem")
    await not_even_tls(endpoint, context)


async def test_who_was_refused_is_announced(endpoint: Endpoint) -> None:
    with endpoint.subscribe() as watcher:
        await refusal(endpoint, WireAgent(token="x" * 32))
        refused = await next_of(watcher, NodeRefused)
    assert (refused.node_id, refused.code) == ("node-1", "token_unknown")


async def test_a_session_ends_with_its_certificate(tmp_path: Path) -> None:
    async with Endpoint(EndpointConfig(data=tmp_path / "data", certificate_lifetime=2.0)) as endpoint:
        agent = await granted(endpoint)
        async with agent.session(endpoint.agent_port, endpoint.ca_file) as dialled:
            renewed = await dialled.peer.call("enroll", {"csr": request_for(agent.key)})
            closed: Closed = await dialled.end()
    assert (closed.fatal, closed.reason.partition(":")[0]) == (True, "certificate_expired")
    assert renewed["not_after"] - renewed["time"] <= 2.0
