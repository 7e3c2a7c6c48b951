"""Opening the operator's door beside a running endpoint."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncIterator

from teeth.api.app import operator_app
from teeth.api.bells import Bells
from teeth.api.credentials import ensure_token, remove_door, write_door
from teeth.api.guard import Guard
from teeth.endpoint.httpserver import listening_socket, serve
from teeth.errors import UsageError
from teeth.service import Address, Endpoint


@contextlib.asynccontextmanager
async def operator_door(endpoint: Endpoint, address: Address) -> AsyncIterator[str]:
    """Serve the operator's door at ``address`` while the block runs; yields its ``http://HOST:PORT``.

    Token and address lie in the endpoint's data folder. Raises UsageError for any address but a loopback one:
    there is no TLS here; TeethError when the port is taken.
    """
    _require_loopback(address[0])
    folder = endpoint.config.data
    token = ensure_token(folder)
    with contextlib.closing(listening_socket(*address, "operators")) as sock:
        host, port = sock.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        bells = Bells()
        async with serve(Guard(operator_app(endpoint, bells), token=token), sock, purpose="operators"):
            write_door(folder, url)
            try:
                async with bells.hung(endpoint):
                    yield url
            finally:
                remove_door(folder)


def _require_loopback(host: str) -> None:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise UsageError(
            f"the operator's door has no TLS and opens on loopback only, not on {host}",
            hint="take 127.0.0.1 and reach it from elsewhere through ssh -L",
        )
