"""The conformance kit against our own endpoint and agent: they keep to every transcript."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.plain_agent import PlanningDisk, real_agent
from fakes.plain_endpoint import plain_endpoint
from fakes.tls_endpoint import DEADLINE
from fakes.wrong_wire import Fault, relay, when
from teeth.conformance import report
from teeth.conformance.agentdoor import AgentDoor
from teeth.conformance.doors import EndpointDoor
from teeth.conformance.kit import check, passed, select
from teeth.conformance.play import Outcome
from teeth.conformance.safety import check_harmless
from teeth.conformance.tls import load_credential, new_request
from teeth.conformance.wire import Wire
from teeth.service import Endpoint, EndpointConfig

TRANSCRIPTS = Path(__file__).parent / "transcripts"
MAC = "52:54:00:00:00:01"
PATIENT = 6.0  # a busy machine must not look like a wrong one


def told(outcomes: list[Outcome]) -> str:
    return "\n".join(line for one in outcomes if one.status == "fail" for line in report.failure(one))


def skipped(outcomes: list[Outcome]) -> set[str]:
    return {one.transcript.name for one in outcomes if one.status == "skip"}


async def test_our_endpoint_keeps_to_every_transcript_in_plain_text(tmp_path: Path) -> None:
    chosen = select(TRANSCRIPTS, "endpoint")
    async with plain_endpoint(tmp_path / "data") as (port, ask):
        outcomes = await asyncio.to_thread(
            check, chosen, EndpointDoor(("127.0.0.1", port)), ask=ask, stretch=PATIENT
        )
    assert told(outcomes) == ""
    assert passed(outcomes)
    assert skipped(outcomes) == {one.name for one in chosen if one.needs & {"tls", "slow"}}


async def test_our_endpoint_keeps_to_every_transcript_by_tls_with_a_join_token(tmp_path: Path) -> None:
    chosen = select(TRANSCRIPTS, "endpoint")
    async with Endpoint(EndpointConfig(data=tmp_path / "data")) as endpoint:
        token = (await endpoint.grant(MAC)).token
        door = await asyncio.to_thread(
            EndpointDoor.tls,
            ("127.0.0.1", endpoint.agent_port),
            digest=endpoint.ca_digest,
            token=token,
            mac=MAC,
        )
        try:
            outcomes = await asyncio.to_thread(check, chosen, door, tls=True, stretch=PATIENT)
        finally:
            door.close()
    assert told(outcomes) == ""
    assert skipped(outcomes) == {one.name for one in chosen if one.needs & {"plaintext", "slow", "ask"}}


async def agent_outcomes(
    *, tls: bool, only: tuple[str, ...] = (), plan_safe: bool = False
) -> tuple[list[Outcome], PlanningDisk]:
    door, disk = AgentDoor(("127.0.0.1", 0), tls=tls, patience=DEADLINE, plan_safe=plan_safe), PlanningDisk()
    try:
        async with real_agent(door.address[1], digest=door.digest or None, disk=disk):
            chosen = select(TRANSCRIPTS, "agent", only=only)
            return await asyncio.to_thread(check, chosen, door, tls=tls, stretch=PATIENT), disk
    finally:
        door.close()


async def test_our_agent_keeps_to_every_transcript_and_is_never_told_to_erase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[bytes] = []
    real: Callable[..., None] = Wire.send

    def listen(wire: Wire, data: bytes, **options: float) -> None:
        sent.append(data)
        real(wire, data, **options)

    monkeypatch.setattr(Wire, "send", listen)
    outcomes, disk = await agent_outcomes(tls=False)
    assert told(outcomes) == ""
    # Plans claim no disk: then there is nothing for which a second one would be refused.
    assert skipped(outcomes) == {"task-second-refused", "seed-task-error-msg"} | {
        one.transcript.name for one in outcomes if one.transcript.needs
    }
    assert disk.plans > 8
    assert disk.erased == []
    lines = b"".join(sent).split(b"\n")
    assert sum(b"decom" in line for line in lines) >= disk.plans
    for line in lines:
        check_harmless(line.decode("utf-8", "replace"))


async def test_our_agent_enrols_with_the_kit_and_keeps_to_it_by_tls() -> None:
    outcomes, disk = await agent_outcomes(tls=True, only=("seed-*", "task-*", "handshake-*", "early-*"))
    assert told(outcomes) == ""
    assert sum(one.status == "pass" for one in outcomes) > 30
    assert disk.erased == []


async def test_an_agent_that_does_not_say_that_it_plans_is_sent_no_plan() -> None:
    """To an agent of the seed, disk_erase means erase, whatever stands beside it."""

    def forget(message: dict[str, object]) -> dict[str, object]:
        params = message["params"]
        assert isinstance(params, dict)
        return {**message, "params": {k: v for k, v in params.items() if k != "capabilities"}}

    fault = Fault(said=when(lambda m: m.get("method") == "handshake", forget))
    door, disk = AgentDoor(("127.0.0.1", 0), patience=DEADLINE), PlanningDisk()
    try:
        async with (
            relay(door.address[1], fault, tested_dials=True) as port,
            real_agent(port, disk=disk),
        ):
            chosen = select(TRANSCRIPTS, "agent", only=("task-*", "seed-task-*", "cancel-finished"))
            outcomes = await asyncio.to_thread(check, chosen, door, stretch=PATIENT)
    finally:
        door.close()
    assert {one.status for one in outcomes} == {"skip"}
    assert all("capability plan" in one.message for one in outcomes)
    assert (disk.plans, disk.erased) == (0, [])


async def test_a_certificate_of_the_endpoint_is_used_as_it_is(tmp_path: Path) -> None:
    async with Endpoint(EndpointConfig(data=tmp_path / "data")) as endpoint:
        address = ("127.0.0.1", endpoint.agent_port)
        token = (await endpoint.grant(MAC)).token
        enrolled = await asyncio.to_thread(
            EndpointDoor.tls, address, digest=endpoint.ca_digest, token=token, mac=MAC
        )
        assert enrolled._keys is not None
        folder = Path(enrolled._keys.name)
        credential = load_credential(folder / "certificate.pem", folder / "key.pem")
        assert credential.node.startswith("kit-")
        door = await asyncio.to_thread(
            EndpointDoor.tls, address, ca=endpoint.ca_file, credential=credential, mac=MAC
        )
        chosen = select(TRANSCRIPTS, "endpoint", only=("seed-*",))
        outcomes = await asyncio.to_thread(check, chosen, door, tls=True, stretch=PATIENT)
        enrolled.close()
    assert told(outcomes) == ""
    assert sum(one.status == "pass" for one in outcomes) > 8


def test_a_request_has_a_key_that_nobody_else_can_read(tmp_path: Path) -> None:
    request, key = new_request(tmp_path)
    assert "BEGIN CERTIFICATE REQUEST" in request
    assert key.stat().st_mode & 0o777 == 0o600
