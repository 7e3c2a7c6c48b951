"""ssh's way into a network namespace: standard input and output to a machine's port, by its DHCP lease.

python -m teeth.lab.keep.dial NAMESPACE LEASES MAC PORT
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from teeth.errors import TeethError
from teeth.lab.netns import connect

_SECONDS = 15.0
_BLOCK = 65536


def read_leases(path: Path) -> Mapping[str, str]:
    """Address by MAC, the newest last lease of each; empty when none was given yet (dnsmasq(8): the lines are
    expiry, MAC, address, name, client id)."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    fields = [line.split() for line in lines]
    return {one[1].lower(): one[2] for one in fields if len(one) >= 4 and "." in one[2]}


def pump(connection: socket.socket) -> None:
    """Both directions until each has ended."""

    def outward() -> None:
        while data := os.read(0, _BLOCK):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    # A daemon: once the machine has hung up nobody waits for what would be typed.
    threading.Thread(target=outward, daemon=True).start()
    while data := connection.recv(_BLOCK):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def main() -> None:
    namespace, leases, mac, port = sys.argv[1:]
    address = read_leases(Path(leases)).get(mac)
    try:
        if address is None:
            raise TeethError(f"{mac} has no address yet")
        try:
            connection = connect(namespace, (address, int(port)), timeout=_SECONDS)
        except OSError as error:
            raise TeethError(f"{address}:{port} in {namespace}: {error.strerror or error}") from error
        connection.settimeout(None)
        with connection:
            pump(connection)
    except (TeethError, OSError) as error:
        sys.exit(f"teeth: {error}")


if __name__ == "__main__":
    main()
