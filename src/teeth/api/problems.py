"""What the door says instead: ``{"error": {"code", "msg", "hint"}}``, one clear line each."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from teeth.errors import TeethError, UsageError

_SHOWN = 200  # letters of a value that somebody sent, as far as it is said again


class ProblemBody(BaseModel):
    """``code`` for programs, ``msg`` and ``hint`` for people; ``hint`` may be empty."""

    code: str
    msg: str
    hint: str


class ErrorBody(BaseModel):
    error: ProblemBody


class ApiError(HTTPException):
    """A request that is refused."""

    def __init__(self, status: int, code: str, msg: str, *, hint: str = "") -> None:
        super().__init__(status)
        self.code = code
        self.msg = msg
        self.hint = hint


def quoted(value: str) -> str:
    """What somebody sent, short enough and printable, for a message."""
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")


def refusal(
    status: int, code: str, msg: str, hint: str = "", headers: dict[str, str] | None = None
) -> Response:
    body = {"error": {"code": code, "msg": msg, "hint": hint}}
    return JSONResponse(body, status_code=status, headers=headers)


def answer_problems(app: FastAPI) -> None:
    """Give ``app`` one shape for everything that it refuses."""

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error, ApiError):
            return refusal(error.status_code, error.code, error.msg, error.hint)
        code, msg = _PLAIN.get(error.status_code, ("bad_request", "the request cannot be read"))
        headers = dict(error.headers) if error.headers else None  # 405 says what is allowed
        return refusal(error.status_code, code, msg, "see /openapi.json", headers)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return refusal(422, "bad_request", _first(error.errors()), "see /openapi.json")

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, TeethError)
        if isinstance(error, UsageError):
            return refusal(400, "bad_request", error.message, error.hint)
        return refusal(409, getattr(error, "code", "") or "refused", error.message, error.hint)

    async def failed(_: Request, error: Exception) -> Response:
        return refusal(500, "internal", f"the endpoint failed: {type(error).__name__}", "its log says more")

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(TeethError, refused)
    app.add_exception_handler(Exception, failed)


_PLAIN = {
    404: ("not_found", "there is nothing at this address"),
    405: ("method_not_allowed", "this address does not take this method"),
}


def _first(errors: Any) -> str:
    """The first thing that is wrong with a request, by its place; what was sent is not said again."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"]) or "request"
    msg = "expected a JSON object, sent as application/json" if place == "body" else str(first["msg"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place}: {msg[:1].lower()}{msg[1:]}{more}"
