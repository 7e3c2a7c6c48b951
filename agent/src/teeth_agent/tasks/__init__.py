"""One module per wire method: reads its params, does the work, returns its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from teeth_agent.reporter import Reporter
from teeth_agent.tasks.context import TaskContext
from teeth_protocol import methods

TaskFunction = Callable[[Mapping[str, Any], TaskContext, Reporter], dict[str, Any]]

# The wire methods that ``load`` has a function for.
SERVED = (methods.DISK_ERASE, methods.CACHE_IMAGES, methods.PREPARE_IMAGE, methods.RUN_IMAGE)


def load(method: str) -> TaskFunction | None:
    """The function behind a wire method, None if this agent has none.

    Imported only when asked for: what a machine does not need before it has dialled home must not delay
    its dialling.
    """
    match method:
        case methods.DISK_ERASE:
            from teeth_agent.tasks.disk_erase import run
        case methods.CACHE_IMAGES:
            from teeth_agent.tasks.cache_images import run
        case methods.PREPARE_IMAGE:
            from teeth_agent.tasks.prepare_image import run
        case methods.RUN_IMAGE:
            from teeth_agent.tasks.run_image import run
        case _:
            return None
    return run
