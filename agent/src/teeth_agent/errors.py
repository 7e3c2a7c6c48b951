"""The agent's own error tree: each ends as one problem (stable code + human message) on the wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from teeth_image.errors import ImageError


class AgentError(Exception):
    """A refusal or failure with a stable ``code`` for programs and a message for people.

    ``detail`` is what must still get home although the task failed: JSON values, or None.
    """

    code = "agent_error"

    def __init__(
        self, message: str, *, code: str | None = None, detail: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.detail = detail
        if code is not None:
            self.code = code


class ParamsError(AgentError):
    """A command's params do not have the shape its method asks for; the message names the path."""

    code = "bad_params"


class ToolError(AgentError):
    """An external tool could not be started, ran too long, or ended with a status nobody expected."""

    code = "tool_failed"


class DeviceError(AgentError):
    """A block device refused, vanished, or gave back something other than what was written."""

    code = "device_failed"


class Cancelled(AgentError):
    """The task was told to stop and stopped at a safe point."""

    code = "cancelled"


@contextmanager
def image_errors() -> Iterator[None]:
    """What the shared package says of an image becomes this agent's own error, with the same code."""
    try:
        yield
    except ImageError as error:
        raise AgentError(str(error), code=error.code) from error
