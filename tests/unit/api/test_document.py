"""The OpenAPI document is one, and says what the door does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
from fastapi.openapi.models import OpenAPI

from fakes.operator_door import Door
from teeth.api.app import operator_app
from teeth.api.bells import Bells
from teeth.paths import find_checkout

VERBS = {"get", "post", "delete", "put", "patch"}


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, verbs in document["paths"].items():
        yield from ((path, verb, operation) for verb, operation in verbs.items() if verb in VERBS)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


async def test_the_document_is_valid(door: Door) -> None:
    document = door.document
    OpenAPI.model_validate(document)
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    found = set(references(document))
    assert len(found) > 10
    assert found <= {f"#/components/schemas/{name}" for name in schemas}
    assert "HTTPValidationError" not in schemas  # the framework's own shape of a refusal
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids)) > 15


async def test_every_operation_needs_the_token_and_promises_one_shape_of_refusal(door: Door) -> None:
    for path, verb, operation in operations(door.document):
        assert operation["security"], (path, verb)
        for status, response in operation["responses"].items():
            if status >= "400":
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (path, verb, status)


async def test_every_address_is_in_the_manual(door: Door) -> None:
    manual = (find_checkout().root / "docs/operator.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| `((?:GET|POST|DELETE) .*?)` \|", manual, re.MULTILINE)
    listed = set()
    for cell in cells:
        last = verb = ""
        for word in re.sub(r"[`,]", " ", cell).split():
            if word.isupper() and "/" not in word:
                verb = word.lower()
                continue
            base = last.rpartition("/")[0] if not word.startswith("/v1") else ""
            last = base + word if not word.startswith("/v1") else word
            listed.add((re.sub(r"/[A-Z]+", "/{}", last), verb))
    served = {(re.sub(r"\{\w+\}", "{}", path), verb) for path, verb, _ in operations(door.document)}
    assert listed == served


async def test_everything_that_is_served_is_in_the_document(door: Door) -> None:
    app = operator_app(door.endpoint, Bells())
    listed = {(path, verb) for path, verb, _ in operations(door.document)}
    assert {path for path, _ in listed} >= {
        "/v1/nodes", "/v1/nodes/{name}", "/v1/nodes/{name}/inventory", "/v1/nodes/{name}/logs",
        "/v1/nodes/{name}/logs/follow", "/v1/nodes/{name}/status", "/v1/tasks", "/v1/tasks/{task_id}",
        "/v1/tasks/{task_id}/cancel", "/v1/tasks/{task_id}/settle", "/v1/tasks/{task_id}/release",
        "/v1/tasks/{task_id}/watch", "/v1/grants", "/v1/grants/{grant_id}", "/v1/images",
        "/v1/images/{name}",
    }  # fmt: skip
    assert app.openapi()["paths"] == door.document["paths"]
    for path in ("/docs", "/redoc"):  # they would fetch scripts from elsewhere
        assert (await door.client.get(path)).status_code == 404
