"""Runs inside the system that was just started, by cloud-init: tells the endpoint that it did start.

Standard library only and no import of ours: the text of this file travels alone, in the config drive's
vendor data. Reads facts that only this start of this system can give, and posts them once, with retries,
to the one-time address it was given, trusting the one CA it was given.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import time
import urllib.parse
from typing import Any

_MOST = 4096  # bytes of any one file that are reported
_SPENT = 900.0  # seconds; a network that is not up by then will not come up by itself
_LONGEST_PAUSE = 15.0


def read(path: str) -> str | None:
    """The first 4 KiB of a file as text, None when it cannot be read."""
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 - nothing but builtins where it costs boot time
            return stream.read(_MOST).decode("utf-8", "replace")
    except OSError:
        return None


def collect(files: list[str]) -> dict[str, Any]:
    """What this system is: its name, this boot, its kernel, and ``files`` as far as they are there."""
    system = os.uname()
    return {
        "hostname": (read("/etc/hostname") or system.nodename).strip() or system.nodename,
        "boot_id": (read("/proc/sys/kernel/random/boot_id") or "").strip(),
        "cmdline": (read("/proc/cmdline") or "").strip(),
        "kernel": system.release,
        "uptime": float((read("/proc/uptime") or "0").split()[0]),
        "files": {path: read(path) for path in files},
    }


def post(url: str, ca: str, body: bytes) -> int:
    """One attempt: the HTTP status. Raises OSError or http.client.HTTPException when there is no answer."""
    parts = urllib.parse.urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=ca)
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=20, context=context)
    try:
        connection.request("POST", parts.path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


def main(config: dict[str, Any]) -> int:
    """Post until it is acknowledged (0), refused (1) or 15 minutes are gone (1)."""
    # Collected once: a repetition must be the same report, byte for byte.
    body = json.dumps(collect(config["files"])).encode()
    start = time.monotonic()
    pause = 1.0
    while True:
        try:
            status = post(config["url"], config["ca"], body)
            said = f"HTTP status {status}"
        except (OSError, http.client.HTTPException) as error:
            status = 0
            # The class only: the text of some errors quotes the address, and the address is a secret.
            said = getattr(error, "strerror", None) or type(error).__name__
        if status == 200:
            print("teeth: landing reported")
            return 0
        if 400 <= status < 500 or time.monotonic() - start > _SPENT:
            print(f"teeth: the landing could not be reported: {said}", file=sys.stderr)
            return 1
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
