"""The operator's door as an application."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer

from teeth import __version__
from teeth.api.bells import Bells
from teeth.api.certificates import Certificates
from teeth.api.grants import Grants
from teeth.api.nodes import Nodes
from teeth.api.problems import ErrorBody, answer_problems
from teeth.api.tasks import Tasks
from teeth.service import Endpoint

_ABOUT = """Nodes, tasks, boot grants, images and certificates of one endpoint.

Every refusal is `{"error": {"code", "msg", "hint"}}`."""
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in (
        (400, "the request asks for what cannot be"),
        (401, "the token is missing or wrong"),
        (404, "there is no such thing"),
        (408, "the request took too long to arrive"),
        (409, "it cannot be done as things are"),
        (413, "the request is too large"),
        (421, "it was asked for under a name that is not of loopback"),
        (422, "the request is not of the shape below"),
        (500, "the endpoint failed"),
        (503, "too many watch already"),
    )
}


def operator_app(endpoint: Endpoint, bells: Bells) -> FastAPI:
    """The application without its guard. The token's scheme stands in it for those who read the document."""
    app = FastAPI(
        title="teeth",
        summary="The operator's door of an endpoint",
        description=_ABOUT,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        responses=_REFUSALS,
        dependencies=[Security(HTTPBearer(auto_error=False, description="the operator token"))],
        generate_unique_id_function=lambda route: f"{route.tags[0]}_{route.name}",
    )
    answer_problems(app)
    for handlers in (
        Nodes(endpoint, bells),
        Tasks(endpoint, bells),
        Grants(endpoint),
        Certificates(endpoint),
    ):
        app.include_router(handlers.router())
    return app
