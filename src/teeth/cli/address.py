"""HOST:PORT on the command line."""

from __future__ import annotations

import click

Address = tuple[str, int]


class _AddressType(click.ParamType[Address]):
    """HOST:PORT, with an IPv6 host in brackets; port 0 takes any free one."""

    name = "host:port"

    def convert(
        self, value: str | Address, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        if isinstance(value, tuple):
            return value
        host, _, port = value.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            self.fail(f"{value!r} is not HOST:PORT", param, ctx)
        return host, int(port)


ADDRESS = _AddressType()


def shown(host: str, port: int | None) -> str:
    """As it is written, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
