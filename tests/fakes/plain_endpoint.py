"""The real endpoint with its plain-text listener, and an operator who asks it for tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from teeth.conformance.asking import Ask
from teeth.service import Endpoint, EndpointConfig


@contextlib.asynccontextmanager
async def plain_endpoint(data: Path) -> AsyncIterator[tuple[int, Ask]]:
    """Its port on 127.0.0.1, and what asks it: for a status at once, for everything else as a task."""
    loop = asyncio.get_running_loop()
    async with Endpoint(EndpointConfig(data=data, plaintext=("127.0.0.1", 0))) as endpoint:

        def ask(node: str, method: str, task_id: str, params: dict[str, Any]) -> None:
            async def do() -> None:
                if method == "status":
                    await endpoint.call(node, method)
                else:
                    await endpoint.run_task(node, method, params, task_id=task_id)

            asyncio.run_coroutine_threadsafe(do(), loop).result(20)

        assert endpoint.plaintext_port is not None
        yield endpoint.plaintext_port, ask
