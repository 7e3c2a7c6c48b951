"""The two files by which an operator's command finds the door: its token and its address."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path

from teeth.errors import TeethError
from teeth.files import write_durably

TOKEN_FILE = "operator.token"  # noqa: S105 - a file's name
DOOR_FILE = "operator.json"
_TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,128}")
_LISTEN = "0A"  # the kernel's number of that state, include/net/tcp_states.h
_OTHERS = 0o077  # permission bits of group and others


def ensure_token(folder: Path) -> str:
    """The token of an endpoint's data folder, made (0600) at the first start.

    Raises TeethError when the file holds none, or when others than its owner may read it.
    """
    path = folder / TOKEN_FILE
    if not path.exists():
        write_durably(path, f"{secrets.token_urlsafe(_TOKEN_BYTES)}\n".encode(), mode=0o600)
    if path.stat().st_mode & _OTHERS:
        raise TeethError(
            f"{path} can be read by others than its owner",
            hint="remove it: a new token is made at the next start",
        )
    return read_token(path)


def read_token(path: Path) -> str:
    """The token in a file. Raises TeethError with one line that says what to do."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError as error:
        raise TeethError(f"there is no token in {path}", hint="has an endpoint ever run there?") from error
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise TeethError(f"the token in {path} cannot be read: {why}") from error
    if not _TOKEN.fullmatch(token):
        raise TeethError(
            f"{path} holds no operator token", hint="remove it: a new one is made at the next start"
        )
    return token


def write_door(folder: Path, url: str) -> None:
    """Say where the door of this data folder is while it is open."""
    write_durably(folder / DOOR_FILE, json.dumps({"url": url}).encode() + b"\n", mode=0o600)


def read_door(folder: Path) -> str | None:
    """The address of the door of a data folder; None when no endpoint has left one there.

    Raises TeethError for a file that says something else.
    """
    path = folder / DOOR_FILE
    try:
        url = json.loads(path.read_text(encoding="utf-8"))["url"]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TeethError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TeethError(f"{path} does not say where the endpoint is", hint="start the endpoint") from error
    return str(url)


def listeners(port: int, proc: Path = Path("/proc/net")) -> set[int]:
    """The users (uid) whose processes listen on this port of loopback, as far as the kernel tells."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            address, _, hexadecimal = fields[1].partition(":")
            # Addresses are in the machine's byte order: 127.x.y.z ends in 7F; all zeros is every address.
            here = address.endswith("7F") or not address.strip("0") or address.endswith("00000001000000")
            if fields[3] == _LISTEN and int(hexadecimal, 16) == port and here:
                found.add(int(fields[7]))
    return found


def remove_door(folder: Path) -> None:
    (folder / DOOR_FILE).unlink(missing_ok=True)
