"""Which members of a message are secret, and how they are kept out of everything that is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"
# A config drive carries users' passwords and keys; its parts are named too, should one travel alone.
SECRET_FIELDS = frozenset(
    {
        "config_drive", "meta_data", "user_data", "vendor_data", "network_data", "token", "password",
        "passphrase", "private_key", "secret", "landing_url", "content_b64",
    }
)  # fmt: skip
# The kernel command line is a fact worth keeping (a landing reports it); the token on it is not.
_IN_TEXT = re.compile(r"(teeth\.token=|/landing/)[A-Za-z0-9_-]+")
# An image's address may carry a user's password in front of its host, or a signature in its query. An address
# is taken whole: however many stand in a text, it is read once.
_URL = re.compile(r"(https?://)([^\s\"']+)")


def redact(value: Any) -> Any:
    """A copy of a JSON value in which every secret member's value is replaced."""
    if isinstance(value, Mapping):
        return {
            key: REDACTED if str(key).lower() in SECRET_FIELDS and member is not None else redact(member)
            for key, member in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(member) for member in value]
    if isinstance(value, str):
        shown = _IN_TEXT.sub(rf"\1{REDACTED}", value)
        return _URL.sub(_bare, shown) if "://" in shown else shown
    return value


def _bare(url: re.Match[str]) -> str:
    """An address without user and query."""
    rest, mark, fragment = url[2].partition("#")
    rest, question, query = rest.partition("?")
    host, slash, path = rest.partition("/")
    _, at, host = host.rpartition("@")
    user = f"{REDACTED}@" if at else ""
    return f"{url[1]}{user}{host}{slash}{path}{question}{REDACTED if query else ''}{mark}{fragment}"
