"""Boot grants at the operator's door: the token is for the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.operator_door import MAC, Door

UUID = "4c4c4544-0042-3510-8052-b4c04f4d5831"


async def test_a_grant_shows_its_token_only_when_asked(door: Door, tmp_path: Path) -> None:
    plain = (await door.client.post("/v1/grants", json={"mac": MAC.upper()})).json()
    assert (plain["mac"], plain["state"], plain["token"], plain["kernel_command_line"]) == (
        MAC,
        "open",
        None,
        None,
    )
    shown = (await door.client.post("/v1/grants", json={"mac": MAC}, params={"reveal": True})).json()
    token = shown["token"]
    assert f"teeth.token={token}" in shown["kernel_command_line"].split()
    listed = await door.client.get("/v1/grants")
    assert [one["id"] for one in listed.json()["grants"]] == [shown["id"]]  # the unused one was withdrawn
    for text in (listed.text, (tmp_path / "endpoint.log").read_text(), (tmp_path / "wire.jsonl").read_text()):
        assert token not in text
    assert plain["expires"] - plain["created"] == pytest.approx(900, abs=5)


async def test_a_grant_by_uuid_and_for_any_machine(door: Door) -> None:
    both = (await door.client.post("/v1/grants", json={"mac": MAC, "uuid": UUID.upper(), "ttl": 60})).json()
    assert (both["mac"], both["uuid"]) == (MAC, UUID)
    anyone = (await door.client.post("/v1/grants", json={"any_machine": True})).json()
    assert (anyone["mac"], anyone["uuid"]) == (None, None)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422), ({"mac": "52:54"}, 400), ({"uuid": "x"}, 400), ({"mac": MAC, "ttl": 0}, 422),
        ({"mac": MAC, "ttl": 1e9}, 422), ({"mac": MAC, "token": "mine"}, 422),
    ],
)  # fmt: skip
async def test_a_wrong_order_is_refused(door: Door, body: dict[str, object], status: int) -> None:
    response = await door.client.post("/v1/grants", json=body)
    assert response.status_code == status
    assert (await door.client.get("/v1/grants")).json()["grants"] == []


async def test_an_open_grant_is_withdrawn_and_a_used_one_is_not(door: Door) -> None:
    made = (await door.client.post("/v1/grants", json={"mac": "52:54:00:00:00:77"})).json()
    assert (await door.client.delete(f"/v1/grants/{made['id']}")).status_code == 200
    assert (await door.client.delete(f"/v1/grants/{made['id']}")).status_code == 404
    async with door.agent():
        (used,) = (await door.client.get("/v1/grants")).json()["grants"]
        assert (used["state"], used["node_id"]) == ("burnt", "node-1")
        refused = await door.client.delete(f"/v1/grants/{used['id']}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "grant_burnt")


async def test_grants_come_in_pages(door: Door) -> None:
    ids = [
        (await door.client.post("/v1/grants", json={"mac": f"52:54:00:00:00:{n:02x}"})).json()["id"]
        for n in range(3)
    ]
    first = (await door.client.get("/v1/grants?limit=2")).json()
    assert ([one["id"] for one in first["grants"]], first["next"]) == (ids[:0:-1], ids[1])
    rest = (await door.client.get("/v1/grants", params={"after": first["next"]})).json()
    assert ([one["id"] for one in rest["grants"]], rest["next"]) == (ids[:1], None)
