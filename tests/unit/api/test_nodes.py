"""Nodes, their facts and their logs at the operator's door."""

from __future__ import annotations

import asyncio

import pytest

from fakes.operator_door import Door
from teeth_protocol.errors import ProblemError


async def test_a_node_that_comes_and_goes(door: Door) -> None:
    assert (await door.client.get("/v1/nodes")).json() == {"nodes": [], "next": None}
    async with door.agent(methods=("decom.disk_erase",)):
        (node,) = (await door.client.get("/v1/nodes")).json()["nodes"]
        assert (node["id"], node["connected"], node["held"]) == ("node-1", True, False)
        assert (node["agent"], node["boot_id"], node["macs"]) == (
            "test",
            "boot-node-1",
            ["52:54:00:00:00:01"],
        )
        assert node["methods"] == ["decom.disk_erase"]
        assert node["address"].startswith("127.0.0.1:")
        made = (await door.client.post("/v1/tasks", json=door.order())).json()
        assert (await door.client.get("/v1/nodes/node-1")).json()["open_tasks"] == [made["task_id"]]
    await door.away("node-1")
    node = (await door.client.get("/v1/nodes/node-1")).json()
    assert (node["connected"], node["address"], node["methods"]) == (False, None, None)


async def test_a_node_by_id_by_its_beginning_and_by_mac(door: Door) -> None:
    async with door.agent("alpha-1"), door.agent("alpha-2"), door.agent("alpha"):
        for name, found in {
            "alpha-1": "alpha-1", "alpha": "alpha", "alpha-2": "alpha-2", "52:54:00:00:00:02": "alpha-2",
            "52-54-00-00-00-03": "alpha",
        }.items():  # fmt: skip
            response = await door.client.get(f"/v1/nodes/{name}")
            assert response.json()["id"] == found
        ambiguous = await door.client.get("/v1/nodes/alp")
        assert ambiguous.status_code == 409
        assert "alpha, alpha-1, alpha-2" in ambiguous.json()["error"]["msg"]
        unknown = await door.client.get("/v1/nodes/alfa-2")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "node_unknown")
        assert unknown.json()["error"]["hint"].startswith("near to it: alpha-2")
        for mark in ("%25", "_lpha", "52:54:00:00:00:0"):
            assert (await door.client.get(f"/v1/nodes/{mark}")).status_code == 404


async def test_nodes_come_in_pages(door: Door) -> None:
    async with door.agent("a"), door.agent("b"), door.agent("c"):
        first = (await door.client.get("/v1/nodes?limit=2")).json()
        assert ([node["id"] for node in first["nodes"]], first["next"]) == (["a", "b"], "b")
        rest = (await door.client.get("/v1/nodes", params={"limit": 2, "after": first["next"]})).json()
        assert ([node["id"] for node in rest["nodes"]], rest["next"]) == (["c"], None)


async def test_inventory_and_status(door: Door) -> None:
    async with door.agent() as dialled:
        dialled.agent.answers["status"] = lambda _: {"uptime": 3}
        await door.inventoried("node-1")
        assert (await door.client.get("/v1/nodes/node-1/inventory")).json()["inventory"] == {"disks": []}
        assert (await door.client.get("/v1/nodes/node/status")).json() == {
            "id": "node-1",
            "status": {"uptime": 3},
        }

        def refuse(_: object) -> dict[str, object]:
            raise ProblemError("busy", "not now")

        dialled.agent.answers["status"] = refuse
        refused = await door.client.get("/v1/nodes/node/status")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "refused")
        assert "not now" in refused.json()["error"]["msg"]
    await door.away("node-1")
    gone = await door.client.get("/v1/nodes/node-1/status")
    assert (gone.status_code, gone.json()["error"]["code"]) == (409, "node_not_connected")


async def test_the_log_in_pages_and_from_a_time_on(door: Door) -> None:
    async with door.agent() as dialled:
        for number in range(5):
            await door.logged(dialled, f"event {number}", token="hush")
    get = door.client.get
    page = (await get("/v1/nodes/node-1/logs?limit=2")).json()
    assert [line["record"]["event"] for line in page["logs"]] == ["event 3", "event 4"]
    assert page["logs"][0]["record"]["token"] == "[redacted]"
    behind = (await get("/v1/nodes/node-1/logs", params={"after": page["next"]})).json()
    assert behind == {"logs": [], "next": page["next"]}
    forward = (await get("/v1/nodes/node-1/logs?after=0&limit=2")).json()
    assert [line["record"]["event"] for line in forward["logs"]] == ["event 0", "event 1"]
    later = (await get("/v1/nodes/node-1/logs", params={"since": page["logs"][1]["received"]})).json()
    assert [line["record"]["event"] for line in later["logs"]] == ["event 4"]


async def test_a_followed_log_goes_on(door: Door) -> None:
    async with door.agent() as dialled:
        await door.logged(dialled, "before")
        async with door.events("/v1/nodes/node-1/logs/follow") as events, asyncio.timeout(10):
            await door.logged(dialled, "one")
            first = await anext(events)
            assert (first.name, first.data["record"]["event"]) == ("log", "one")
        await door.logged(dialled, "two")
        headers = {"last-event-id": first.id}
        async with door.events("/v1/nodes/node-1/logs/follow", headers) as events, asyncio.timeout(10):
            assert (await anext(events)).data["record"]["event"] == "two"


async def test_forgetting_needs_the_whole_id(door: Door) -> None:
    async with door.agent():
        pass
    await door.away("node-1")
    assert (await door.client.delete("/v1/nodes/node")).status_code == 404
    assert (await door.client.delete("/v1/nodes/node-1")).json() == {"done": True}
    assert (await door.client.get("/v1/nodes/node-1")).status_code == 404


@pytest.mark.parametrize(("force", "status"), [(False, 409), (True, 200)])
async def test_a_node_with_open_tasks_is_forgotten_by_force_only(
    door: Door, force: bool, status: int
) -> None:
    async with door.agent():
        await door.client.post("/v1/tasks", json=door.order())
        response = await door.client.delete("/v1/nodes/node-1", params={"force": force})
        assert response.status_code == status
