"""Tasks at the operator's door: asked once, seen to their end, never with a secret."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fakes.operator_door import ERASE, IMAGE, PREPARE, RUN, Door
from teeth.api import bells
from teeth.endpoint.taskstate import TaskState

SECRET = "correct-horse-battery"
DRIVE = {"meta_data": {"uuid": "u"}, "user_data": f"#cloud-config\npassword: {SECRET}\n"}


async def test_a_task_from_order_to_end(door: Door) -> None:
    async with door.agent() as dialled:
        made = await door.client.post("/v1/tasks", json=door.order(params={"disks": ["S1"]}))
        assert made.status_code == 201
        task = made.json()
        assert (task["state"], task["params"], task["eta"]) == ("queued", {"disks": ["S1"]}, None)
        task_id = task["task_id"]
        assert await dialled.agent.command(ERASE) == {"task_id": task_id, "disks": ["S1"]}
        await dialled.status(
            task_id, "running", seq=1, percent=10, eta=60, step="overwrite", fields={"bytes_per_second": 5}
        )
        await dialled.status(task_id, "complete", seq=2, percent=100, result={"erased": ["S1"]})
    found = (await door.client.get(f"/v1/tasks/{task_id}")).json()
    assert (found["task"]["state"], found["task"]["result"]) == ("complete", {"erased": ["S1"]})
    assert [event["state"] for event in found["events"]] == ["queued", "accepted", "running", "complete"]
    assert (found["events"][2]["fields"], found["events"][2]["eta"]) == ({"bytes_per_second": 5}, 60)


async def test_the_same_id_asks_nothing_twice(door: Door) -> None:
    async with door.agent() as dialled:
        order = door.order(task_id="t-fixed", params={"a": 1})
        answers = [await door.client.post("/v1/tasks", json=order) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [201, 200, 200]
        other = await door.client.post("/v1/tasks", json={**order, "params": {"a": 2}})
        assert (other.status_code, other.json()["error"]["code"]) == (409, "task_exists")
        await door.reached("t-fixed", TaskState.ACCEPTED)
    asked = []
    while not dialled.agent.commands.empty():
        asked.append(dialled.agent.commands.get_nowait()[0])
    assert asked.count(ERASE) == 1


async def test_what_the_node_does_not_serve_is_told_with_what_it_does(door: Door) -> None:
    async with door.agent(methods=(ERASE, PREPARE)):
        response = await door.client.post("/v1/tasks", json=door.order(method="decom.disk_ersae"))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "unknown_method")
    assert response.json()["error"]["hint"] == f"it serves {ERASE}, {PREPARE}"


async def test_a_task_is_never_asked_of_a_guessed_node(door: Door) -> None:
    async with door.agent():
        response = await door.client.post("/v1/tasks", json=door.order(node="node"))
    assert (response.status_code, response.json()["error"]["code"]) == (404, "node_unknown")


async def test_an_image_by_its_id(door: Door) -> None:
    (image,) = (await door.client.get("/v1/images")).json()["images"]
    assert (image["id"], image["params"]["digest"]) == ("i-1", IMAGE["digest"])
    async with door.agent() as dialled:
        order = door.order(method=PREPARE, image="i-1", params={"root_disk": {"serial": "S1"}})
        assert (await door.client.post("/v1/tasks", json=order)).status_code == 201
        params = await dialled.agent.command(PREPARE)
        assert (params["image"], params["root_disk"]) == (image["params"], {"serial": "S1"})
        assert params["image"]["urls"] == [f"{door.endpoint.boot_url}/images/i-1"]
        for change, status, words in (
            ({"image": "i-2"}, 404, "offers no image 'i-2'"),
            ({"method": ERASE}, 400, "image is for"),
            ({"params": {"image": {}}}, 400, "twice"),
            ({"report_files": ["/etc/x"]}, 400, "report_files is for"),
        ):
            refused = await door.client.post("/v1/tasks", json={**order, **change})
            assert refused.status_code == status
            assert words in refused.json()["error"]["msg"]


async def test_run_image_lands_and_keeps_its_secrets(door: Door, tmp_path: Path) -> None:
    order = door.order(method=RUN, params={"image_id": "i-1", "config_drive": DRIVE}, report_files=["/etc/x"])
    async with door.agent() as dialled:
        made = await door.client.post("/v1/tasks", json={**order, "hold": True})
        sent = await dialled.agent.command(RUN)
        assert sent["config_drive"]["user_data"] == DRIVE["user_data"]
        assert "/landing/" in str(sent["config_drive"]["vendor_data"])
        task_id = made.json()["task_id"]
        assert (made.json()["awaits_landing"], made.json()["held"]) == (True, True)
        answer = await dialled.status(task_id, "running", seq=1, phase="prepared")
        assert answer["go"] is False
        released = await door.client.post(f"/v1/tasks/{task_id}/release")
        assert released.json()["held"] is False
        assert (await dialled.status(task_id, "running", seq=2, phase="prepared"))["go"] is True
        shown = [made.text, released.text]
        paths = (f"/v1/tasks/{task_id}", "/v1/tasks", "/v1/nodes/node-1")
        shown += [(await door.client.get(path)).text for path in paths]
    shown += [(tmp_path / name).read_text() for name in ("endpoint.log", "wire.jsonl")]
    assert [text for text in shown if SECRET in text or "/landing/" in text.replace("/landing/[", "")] == []


async def test_a_wrong_config_drive_is_refused(door: Door) -> None:
    async with door.agent():
        response = await door.client.post("/v1/tasks", json=door.order(method=RUN))
    assert (response.status_code, response.json()["error"]["msg"]) == (400, "run_image needs a config_drive")


async def test_params_that_the_wire_does_not_take_are_refused(door: Door) -> None:
    async with door.agent():
        response = await door.client.post("/v1/tasks", json=door.order(params={"a": "x" * (1 << 20)}))
    assert (response.status_code, response.json()["error"]["code"]) == (409, "refused")
    assert "limit" in response.json()["error"]["msg"]


async def test_tasks_are_listed_newest_first_by_filter_and_page(door: Door) -> None:
    async with door.agent("a"), door.agent("b"):
        for number in range(3):
            await door.client.post("/v1/tasks", json=door.order(node="a", task_id=f"t-{number}"))
        await door.client.post("/v1/tasks", json=door.order(node="b", method=PREPARE, task_id="t-b"))
        await door.reached("t-b", TaskState.ACCEPTED)

    async def ids(**query: Any) -> tuple[list[str], str | None]:
        page = (await door.client.get("/v1/tasks", params=query)).json()
        return [task["task_id"] for task in page["tasks"]], page["next"]

    assert await ids() == (["t-b", "t-2", "t-1", "t-0"], None)
    assert await ids(node="a") == (["t-2", "t-1", "t-0"], None)
    assert await ids(method=PREPARE) == (["t-b"], None)
    assert await ids(node="b", state=["accepted", "running"]) == (["t-b"], None)
    assert await ids(state="complete") == ([], None)
    assert await ids(limit=2) == (["t-b", "t-2"], "t-2")
    assert await ids(limit=2, after="t-2") == (["t-1", "t-0"], None)


async def test_a_task_that_was_never_sent_is_cancelled_at_once(door: Door) -> None:
    async with door.agent():
        pass
    await door.away("node-1")
    await door.client.post("/v1/tasks", json=door.order(task_id="t-1"))
    cancelled = await door.client.post("/v1/tasks/t-1/cancel")
    assert (cancelled.json()["state"], cancelled.json()["code"]) == ("error", "cancelled")
    again = await door.client.post("/v1/tasks/t-1/cancel")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "task_finished")
    assert (await door.client.post("/v1/tasks/t-1/release")).status_code == 409


async def test_a_running_task_is_cancelled_by_its_agent_alone(door: Door) -> None:
    async with door.agent() as dialled:
        dialled.agent.answers["cancel_task"] = lambda _: {"state": "cancelling"}
        await door.client.post("/v1/tasks", json=door.order(task_id="t-1"))
        await door.reached("t-1", TaskState.ACCEPTED)
        asked = (await door.client.post("/v1/tasks/t-1/cancel")).json()
        assert asked["state"] == "accepted"
        assert asked["cancel_asked"] is not None
        assert (await dialled.agent.command("cancel_task"))["task_id"] == "t-1"
        await dialled.status("t-1", "error", seq=1, code="cancelled", msg="stopped behind the second unit")
    assert (await door.client.get("/v1/tasks/t-1")).json()["task"]["msg"] == "stopped behind the second unit"


async def test_an_unknown_task_holds_its_node_until_it_is_settled(door: Door) -> None:
    async with door.agent():
        await door.client.post("/v1/tasks", json=door.order(task_id="t-1"))
        await door.reached("t-1", TaskState.ACCEPTED)
        early = await door.client.post("/v1/tasks/t-1/settle", json={"state": "error", "msg": "guess"})
        assert (early.status_code, early.json()["error"]["code"]) == (409, "task_not_unknown")
    await door.away("node-1")
    async with door.again("node-1", "boot-other"):
        await door.reached("t-1", TaskState.UNKNOWN)
        assert (await door.client.get("/v1/nodes/node-1")).json()["held"] is True
        refused = await door.client.post("/v1/tasks", json=door.order())
        assert refused.status_code == 409
        assert "t-1" in refused.json()["error"]["msg"]
        for wrong in ({}, {"state": "running", "msg": "x"}, {"state": "error", "msg": ""}):
            assert (await door.client.post("/v1/tasks/t-1/settle", json=wrong)).status_code == 422
        settled = await door.client.post("/v1/tasks/t-1/settle", json={"state": "error", "msg": "I looked"})
        assert (settled.json()["state"], settled.json()["msg"]) == ("error", "I looked")
        assert (await door.client.get("/v1/nodes/node-1")).json()["held"] is False


@pytest.mark.parametrize("path", ["", "/watch", "/cancel", "/settle", "/release"])
async def test_a_task_that_is_not_there(door: Door, path: str) -> None:
    verb = "GET" if path in ("", "/watch") else "POST"
    body = {"state": "error", "msg": "x"} if path == "/settle" else None
    response = await door.client.request(verb, f"/v1/tasks/t-no{path}", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "task_unknown")


# --- watching


async def test_a_watched_task_is_seen_whole_then_moving_then_whole(door: Door) -> None:
    async with door.agent() as dialled:
        await door.client.post("/v1/tasks", json=door.order(task_id="t-1"))
        await door.reached("t-1", TaskState.ACCEPTED)
        async with door.events("/v1/tasks/t-1/watch") as events, asyncio.timeout(20):
            seen = [await anext(events), await anext(events)]
            await dialled.status("t-1", "running", seq=1, percent=40, step="erase", fields={"unit": "S1"})
            seen.append(await anext(events))
            await dialled.status("t-1", "error", seq=2, code="device_failed", msg="gone")
            seen += [event async for event in events]
    assert [event.name for event in seen] == ["task", "change", "change", "change", "task"]
    assert [event.data["state"] for event in seen] == ["accepted", "accepted", "running", "error", "error"]
    assert (seen[2].data["fields"], seen[2].data["percent"]) == ({"unit": "S1"}, 40)
    assert seen[-1].data["code"] == "device_failed"


async def test_a_watch_goes_on_where_it_was_lost(door: Door) -> None:
    async with door.agent() as dialled:
        await door.client.post("/v1/tasks", json=door.order(task_id="t-1"))
        await door.reached("t-1", TaskState.ACCEPTED)
        await dialled.status("t-1", "running", seq=1, percent=1, step="a")
        async with door.events("/v1/tasks/t-1/watch") as events, asyncio.timeout(20):
            await anext(events)
            last = await anext(events)
        assert last.data["percent"] == 1
        await dialled.status("t-1", "running", seq=2, percent=2, step="b")
        await dialled.status("t-1", "complete", seq=3, result={})
        async with door.events("/v1/tasks/t-1/watch", {"last-event-id": last.id}) as events:
            async with asyncio.timeout(20):
                states = [event.data["state"] async for event in events if event.name == "change"]
    assert states == ["running", "complete"]


async def test_a_reader_that_sleeps_costs_nothing_and_misses_no_end(door: Door) -> None:
    async with door.agent() as dialled, door.sleeper("/v1/tasks/t-1/watch", order="t-1") as reader:
        for seq in range(1, 600):  # 12 MB in all: more than the sockets' buffers take
            await dialled.status("t-1", "running", seq=seq, percent=seq / 20, fields={"s": "y" * 20_000})
        await dialled.status("t-1", "complete", seq=9999, result={"erased": []})
        async with asyncio.timeout(20):
            text = (await reader.read()).decode()
    # What the buffers took, and the newest two hundred that the store keeps of plain progress.
    assert text.count("event: change") < 550
    assert text.count('"state":"complete"') == 2
    assert text.endswith("\r\n0\r\n\r\n")  # the last chunk: it was ended, not cut


async def test_a_silent_stream_says_that_it_lives(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teeth.api.stream.EventStream.heartbeat", 0.01)
    async with door.agent(), door.sleeper("/v1/tasks/t-1/watch", order="t-1") as reader, asyncio.timeout(20):
        assert b": heartbeat" in await reader.readuntil(b": heartbeat\n\n")


async def test_watchers_are_counted(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bells, "_WATCHERS", 1)
    async with door.agent():
        await door.client.post("/v1/tasks", json=door.order(task_id="t-1"))
        async with door.events("/v1/tasks/t-1/watch") as events:
            await anext(events)
            second = await door.client.get("/v1/tasks/t-1/watch")
            assert (second.status_code, second.json()["error"]["code"]) == (503, "too_many_watchers")
        await door.unwatched("/v1/tasks/t-1/watch")
        async with door.events("/v1/tasks/t-1/watch") as events:
            assert (await anext(events)).name == "task"
