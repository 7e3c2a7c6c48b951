"""Each erase that ends is certified, whatever its end; the certificates are fetched and verified offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fakes.erase_records import failed, purged, result
from fakes.operator_door import Door, open_door
from fakes.wire_agent import Dialled
from teeth.certificate.chain import verify_chain
from teeth.certificate.seal import read_public_key
from teeth.endpoint.certify import PUBLIC_KEY, signing_key
from teeth.endpoint.taskstate import TaskState
from teeth.errors import TeethError


async def erase(door: Door, machine: Dialled, task_id: str, state: str, **members: Any) -> None:
    """An erase that ends like this."""
    params = members.pop("params", {})
    await door.client.post("/v1/tasks", json=door.order(task_id=task_id, params=params))
    await door.reached(task_id, TaskState.ACCEPTED)
    await machine.status(task_id, state, **members)
    await door.reached(task_id, TaskState.COMPLETE, TaskState.ERROR)


async def listed(door: Door, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await door.client.get("/v1/certificates", params=query)).json()[
        "certificates"
    ]
    return found


async def chain(door: Door) -> list[dict[str, Any]]:
    """Every certificate's body, its signature and its place checked by the key that the door gives."""
    pem = (await door.client.get("/v1/certificate-key")).json()["pem"]
    lines = [
        (await door.client.get(f"/v1/certificates/{one['sequence']}")).json()["sealed"].encode()
        for one in await listed(door)
    ]
    return [dict(one.body) for one in verify_chain(lines, read_public_key(pem.encode(), "key"))]


async def test_every_drive_of_every_erase_has_a_certificate(door: Door) -> None:
    async with door.agent() as machine:
        await door.inventoried("node-1")
        await erase(door, machine, "t-1", "complete", result=result(purged("A"), purged("B")))
        await erase(
            door,
            machine,
            "t-2",
            "error",
            code="erase_incomplete",
            msg="no",
            detail=result(purged("C"), failed("D")),
        )
        await erase(door, machine, "t-3", "error", code="no_disk", msg="this machine shows no disk")
        await erase(door, machine, "t-4", "complete", params={"plan": True}, result={"plan": {}})
    found = [(one["task_id"], one["serial"], one["outcome"], one["grade"]) for one in await listed(door)]
    assert found == [
        ("t-1", "A", "purged", "purge"), ("t-1", "B", "purged", "purge"), ("t-2", "C", "purged", "purge"),
        ("t-2", "D", "failed", None), ("t-3", None, "failed", None),
    ]  # fmt: skip
    bodies = await chain(door)
    assert [body["task"]["task_id"] for body in bodies] == ["t-1", "t-1", "t-2", "t-2", "t-3"]
    assert bodies[0]["machine"]["boot_id"] == "boot-node-1"
    assert bodies[0]["machine"]["macs"] == ["52:54:00:00:00:01"]
    assert bodies[3]["task"]["code"] == "erase_incomplete"
    assert bodies[4]["record"] is None
    assert [one["serial"] for one in await listed(door, serial="D")] == ["D"]
    assert len(await listed(door, task="t-2", node="node-1")) == 2


async def test_a_claim_without_proof_is_certified_as_a_failure(door: Door) -> None:
    unproven = purged("LIAR", proof=None)
    async with door.agent() as machine:
        await erase(door, machine, "t-1", "complete", result=result(unproven))
    (one,) = await listed(door)
    assert (one["outcome"], one["grade"]) == ("failed", None)
    (body,) = await chain(door)
    assert body["doubts"] == ["there is no proof"]
    assert body["record"]["outcome"] == "purged"


async def test_pages_and_what_there_is_not(door: Door) -> None:
    async with door.agent() as machine:
        await erase(door, machine, "t-1", "complete", result=result(*(purged(str(n)) for n in range(5))))
    page = (await door.client.get("/v1/certificates", params={"limit": 2})).json()
    assert ([one["serial"] for one in page["certificates"]], page["next"]) == (["0", "1"], 2)
    rest = (await door.client.get("/v1/certificates", params={"limit": 3, "after": 2})).json()
    assert ([one["serial"] for one in rest["certificates"]], rest["next"]) == (["2", "3", "4"], None)
    missing = await door.client.get("/v1/certificates/6")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "certificate_unknown")
    assert (await door.client.get("/v1/certificates/0")).status_code == 422


async def test_an_endpoint_that_stopped_too_early_makes_up_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_door(tmp_path) as door, door.agent() as machine:
        # The store fails for the certificates alone, as long as this endpoint lives.
        book = door.endpoint._certificates

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(book, "issue_missing", full)
        await erase(door, machine, "t-1", "complete", result=result(purged("A")))
    monkeypatch.undo()
    async with open_door(tmp_path) as door:
        assert [one["serial"] for one in await listed(door)] == ["A"]
        assert len(await chain(door)) == 1


async def test_the_chain_goes_on_over_restarts_and_the_key_stays(tmp_path: Path) -> None:
    keys = set()
    for number in (1, 2):
        async with open_door(tmp_path) as door:
            if number == 1:
                async with door.agent() as machine:
                    await erase(door, machine, "t-1", "complete", result=result(purged("A")))
            else:
                async with door.agent("node-2") as machine:
                    order = door.order(node="node-2", task_id="t-2")
                    await door.client.post("/v1/tasks", json=order)
                    await door.reached("t-2", TaskState.ACCEPTED)
                    await machine.status("t-2", "complete", result=result(purged("B")))
            assert len(await chain(door)) == number
            keys.add((tmp_path / "data" / PUBLIC_KEY).read_text())
    assert len(keys) == 1
    assert (tmp_path / "data/certificates.key").stat().st_mode & 0o777 == 0o600


def test_a_broken_signing_key_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "certificates.key").write_text("nonsense")
    with pytest.raises(TeethError, match="cannot be read"):
        signing_key(tmp_path)
    assert (tmp_path / "certificates.key").read_text() == "nonsense"


async def test_no_secret_of_the_command_is_in_a_certificate(door: Door) -> None:
    async with door.agent() as machine:
        record = purged("A", note={"password": "correct-horse"})
        await erase(door, machine, "t-1", "complete", result=result(record))
    text = json.dumps(await chain(door))
    assert "correct-horse" not in text
