"""What a recording holds, and how one reads without ever failing."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any, Dict, List, Optional

FORMAT = 1
FILE_MOST = 4096  # an attribute is a page at the most
TOOL_MOST = 256 * 1024
TOOL_SECONDS = 60
DEVICES_MOST = 256
Json = Dict[str, Any]


class FormatError(Exception):
    """What the person who runs this is told, in one line."""


class Recording:
    """``files`` text, ``blobs`` hex and ``links`` targets, each by absolute path; ``udev`` a record a device;
    ``drives`` what each answered; ``dmi`` structures. ``missing`` and ``cut``: what could not be had.
    """

    def __init__(self) -> None:
        self.files: Dict[str, str] = {}
        self.blobs: Dict[str, str] = {}
        self.links: Dict[str, str] = {}
        self.udev: List[Json] = []
        self.drives: Dict[str, Json] = {}
        self.dmi: List[Json] = []
        self.missing: List[str] = []
        self.cut: List[str] = []

    def lacks(self, what: str) -> None:
        if what not in self.missing:
            self.missing.append(what)


def names(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def text_of(path: str, most: int) -> Optional[str]:
    data = bytes_of(path, most)
    return None if data is None else data.decode(errors="replace").rstrip("\n")


def bytes_of(path: str, most: int) -> Optional[bytes]:
    try:
        with open(path, "rb") as stream:
            return stream.read(most)
    except OSError:
        return None


def tool(one: Recording, words: List[str], most: int = TOOL_MOST) -> Optional[str]:
    """What a program prints, None with a note when it is not there, hangs or prints too much."""
    if shutil.which(words[0]) is None:
        one.lacks(f"{words[0]} is not installed")
        return None
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=TOOL_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        one.lacks(f"{' '.join(words)}: {type(error).__name__}")
        return None
    if len(done.stdout) > most:
        one.cut.append(f"{' '.join(words)}: {len(done.stdout)} bytes, left out")
        return None
    return done.stdout.decode(errors="replace")


def sparse(data: bytes) -> Json:
    """Bytes as rows of 32 in hex by their offset; rows of zeroes are left out."""
    rows = {}
    for at in range(0, len(data), 32):
        if any(data[at : at + 32]):
            rows[f"{at:04x}"] = data[at : at + 32].hex()
    return {"length": len(data), "rows": rows}


def dense(data: Json) -> bytes:
    """What ``sparse`` was given."""
    found = bytearray(data["length"])
    for at, row in data["rows"].items():
        found[int(at, 16) : int(at, 16) + len(row) // 2] = bytes.fromhex(row)
    return bytes(found)
