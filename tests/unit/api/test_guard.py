"""Who comes in at the operator's door, and what is refused there."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from fakes.operator_door import Door, open_door
from teeth.api import guard
from teeth.api.credentials import DOOR_FILE, TOKEN_FILE, ensure_token, read_door, read_token
from teeth.api.door import operator_door
from teeth.errors import TeethError, UsageError
from teeth.service import Endpoint, EndpointConfig

# What only asks, asks one endpoint.
pytestmark = pytest.mark.asyncio(loop_scope="module")
LIMIT = (1 << 20) + (64 << 10)
TASKS = "/v1/tasks"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("door")) as opened:
        yield opened


def error(response: httpx.Response) -> dict[str, str]:
    """The refusal, which is one line and says something."""
    body = response.json()
    assert list(body) == ["error"]
    assert sorted(body["error"]) == ["code", "hint", "msg"]
    assert body["error"]["msg"]
    assert "\n" not in body["error"]["msg"] + body["error"]["hint"]
    found: dict[str, str] = body["error"]
    return found


@pytest.mark.parametrize("path", ["/v1/nodes", "/openapi.json", "/", "/v1/tasks/t-1/watch"])
@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer wrong", "Basic dG9rZW4=", "bearer \xff", "Bearer " + "x" * 9000]
)
async def test_nothing_is_served_without_the_token(shared: Door, path: str, value: str | None) -> None:
    headers = {} if value is None else {"authorization": value.encode("latin-1")}
    async with httpx.AsyncClient(base_url=shared.url, trust_env=False) as stranger:
        response = await stranger.get(path, headers=headers)  # type: ignore[arg-type]
    assert response.status_code == 401
    assert error(response)["code"] == "wrong_token"
    assert response.headers["www-authenticate"] == "Bearer"


async def test_the_token_in_another_place_is_no_token(shared: Door) -> None:
    async with httpx.AsyncClient(base_url=shared.url, trust_env=False) as stranger:
        stranger.cookies.set("token", shared.token)
        response = await stranger.get("/v1/nodes", params={"token": shared.token})
    assert response.status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200), ("localhost", 200), ("LOCALHOST:99", 200), ("[::1]:8473", 200),
        ("127.9.9.9", 200), ("evil.example", 421), ("evil.example:8473", 421), ("192.0.2.1", 421),
        ("127.0.0.1.evil.example", 421), ("localhost.evil.example:80", 421), ("0.0.0.0", 421),
    ],
)  # fmt: skip
async def test_only_loopback_names_are_answered(shared: Door, host: str, status: int) -> None:
    response = await shared.client.get("/v1/nodes", headers={"host": host})
    assert response.status_code == status
    if status != 200:
        assert error(response)["code"] == "wrong_host"


async def test_no_other_origin_is_allowed(shared: Door) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for response in (
        await shared.client.options(TASKS, headers=headers),
        await shared.client.get("/v1/nodes", headers=headers),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(shared: Door) -> None:
    response = await shared.client.post(TASKS, content=b"x" * (LIMIT + 1))
    assert (response.status_code, error(response)["code"]) == (413, "too_large")


async def test_a_body_without_an_end_is_refused_at_the_limit(shared: Door) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 64 << 20:
            sent += 1 << 16
            yield b"x" * (1 << 16)

    try:
        response = await shared.client.post(TASKS, content=endless())
    except httpx.TransportError:  # it hung up while we were still talking
        pass
    else:
        assert response.status_code == 413
    assert sent < 32 << 20


async def test_a_body_that_does_not_come_is_given_up(shared: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_BODY_TIMEOUT", 0.05)
    host, _, port = shared.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {TASKS} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {shared.token}\r\n"
    writer.write(f"{head}content-length: 10\r\n\r\n{{".encode())
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "line 1 column 2"),
        (b'{"a":1,"a":2}', 400, "stands twice"),
        (b"[" * 1000, 400, "nested deeper"),
        (b'{"params":' + b"[" * 17 + b"]" * 17 + b"}", 400, "nested deeper"),
        (b'{"a":NaN}', 400, "the request's body"),
        (b'{"a":1e400}', 400, "the request's body"),
        (b"[]", 400, "not a JSON object"),
        (b"\xff\xfe", 400, "invalid UTF-8"),
        (b'{"a":"\\ud800"}', 400, "surrogate"),
        (b"{" + b",".join(b'"k%d":0' % n for n in range(20_000)) + b"}", 400, "more than"),
        (b"{}", 422, "body.node: field required"),
        (b'{"node":1,"method":"a.b"}', 422, "body.node"),
        (b'{"node":"n","method":"a b"}', 422, "body.method"),
        (b'{"node":"n","method":"a.b","params":[]}', 422, "body.params"),
        (b'{"node":"n","method":"a.b","more":1}', 422, "body.more"),
        (b'{"node":"n","method":"a.b","task_id":"a b"}', 422, "body.task_id"),
        (b'{"node":"n","method":"a.b"}', 404, "there is no node 'n'"),
    ],
)
async def test_every_bad_body_is_one_line(shared: Door, body: bytes, status: int, words: str) -> None:
    response = await shared.client.post(TASKS, content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    assert words in error(response)["msg"]


async def test_a_body_that_is_no_json_by_its_type_is_not_read_as_json(shared: Door) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = await shared.client.post(TASKS, content=b'{"node":"n"}', headers={"content-type": kind})
        assert response.status_code == 422
        assert "application/json" in error(response)["msg"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("PUT", "/v1/nodes", 405, "method_not_allowed"),
        ("GET", "/v1/nodes?limit=0", 422, "bad_request"),
        ("GET", "/v1/nodes?limit=ten", 422, "bad_request"),
        ("GET", "/v1/nodes/" + "x" * 200, 422, "bad_request"),
        ("GET", "/v1/tasks?state=lost", 422, "bad_request"),
        ("GET", "/v1/tasks/a%20b", 422, "bad_request"),
        ("GET", "/v1/tasks/t-1?after=-1", 422, "bad_request"),
        ("GET", "/v1/tasks/t-1?after=99999999999999999999", 422, "bad_request"),
        ("GET", "/v1/nodes/..%2f..%2fetc", 404, "not_found"),
    ],
)
async def test_every_bad_address_is_one_line(
    shared: Door, method: str, path: str, status: int, code: str
) -> None:
    response = await shared.client.request(method, path)
    assert (response.status_code, error(response)["code"]) == (status, code)


async def test_what_fails_inside_is_said_without_its_words(
    shared: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("the secret is correct-horse")

    monkeypatch.setattr(shared.endpoint, "look", broken)
    with caplog.at_level(logging.CRITICAL):
        response = await shared.client.get("/v1/nodes")
    assert response.status_code == 500
    assert error(response)["msg"] == "the endpoint failed: RuntimeError"


# --- the door and its files


async def test_its_files_are_the_owners_and_the_address_goes_when_it_closes(tmp_path: Path) -> None:
    tokens = []
    for _ in range(2):
        async with Endpoint(EndpointConfig(data=tmp_path)) as endpoint:
            async with operator_door(endpoint, ("127.0.0.1", 0)) as url:
                assert json.loads((tmp_path / DOOR_FILE).read_text()) == {"url": url}
                assert read_door(tmp_path) == url
                for name in (DOOR_FILE, TOKEN_FILE):
                    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
            assert read_door(tmp_path) is None
            tokens.append(read_token(tmp_path / TOKEN_FILE))
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
async def test_it_opens_on_loopback_only(tmp_path: Path, host: str) -> None:
    async with Endpoint(EndpointConfig(data=tmp_path)) as endpoint:
        with pytest.raises(UsageError, match="loopback only"):
            async with operator_door(endpoint, (host, 0)):
                pass
        assert not (tmp_path / TOKEN_FILE).exists()


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [("x" * 43, 0o644, "read by others"), ("", 0o600, "holds no operator token")],
)
async def test_a_token_that_cannot_be_trusted_is_refused(
    tmp_path: Path, content: str, mode: int, words: str
) -> None:
    (tmp_path / TOKEN_FILE).write_text(content)
    (tmp_path / TOKEN_FILE).chmod(mode)
    with pytest.raises(TeethError, match=words):
        ensure_token(tmp_path)


async def test_the_token_is_in_no_log(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await door.client.get("/v1/nodes", headers={"authorization": f"Bearer {door.token}x"})
        await door.client.get(f"/v1/nodes/{door.token}")
    for path in (tmp_path / "endpoint.log", tmp_path / "wire.jsonl"):
        assert door.token not in path.read_text()
    assert "operator request refused" in (tmp_path / "endpoint.log").read_text()
