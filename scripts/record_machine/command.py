"""The command: read everything, take out what names the machine, write the folder."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import secrets
import shutil
import sys
import time
from typing import Any, Dict, List, Optional

from record_machine.drives import read_drives
from record_machine.found import FORMAT, FormatError, Json, Recording, text_of
from record_machine.scrub import scrub
from record_machine.smbios import read_dmi
from record_machine.tree import read_proc, read_sysfs, read_udev

DESCRIPTION = """Record what a machine's disks, controllers, cards and firmware say of themselves, for tests
to replay. It only reads. Serial numbers, WWNs, MAC addresses, UUIDs, the host's name, labels and mount points
are replaced, each by the same made-up one everywhere. Look through the folder before you give it away."""
TOTAL_MOST = 4 << 20


def main(words: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="record-machine", description=DESCRIPTION)
    parser.add_argument(
        "folder", help="where to write it; must not be there yet. Its name is the recording's"
    )
    parser.add_argument("--note", default="", help="a line about the machine, for the manifest")
    parser.add_argument(
        "--scrub", action=argparse.BooleanOptionalAction, default=True, help="replace names (default)"
    )
    given = parser.parse_args(words)
    try:
        record(given.folder, given.note, scrubbed=given.scrub)
    except FormatError as error:
        print(f"record-machine: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("record-machine: interrupted", file=sys.stderr)
        return 130
    return 0


def record(folder: str, note: str, *, scrubbed: bool) -> None:
    """Raises FormatError with the line to be shown; the folder is then not there."""
    if os.geteuid() != 0:
        raise FormatError("needs root: drives answer nobody else (sudo scripts/record-machine ...)")
    if os.path.lexists(folder):
        raise FormatError(f"{folder} is there already; name another folder or remove it")
    one = Recording()
    for read in (read_sysfs, read_proc, read_udev, read_drives, read_dmi):
        read(one)
    replaced = 0
    if scrubbed:
        names = scrub(one, secrets.token_bytes(32))
        replaced = len(names.words)
        texts = rendered(one, manifest(one, names.text(note), scrubbed=True, replaced=replaced))
        left = names.left_in("\n".join(texts.values()))
        if left:
            raise FormatError(
                f"{len(left)} names would still be in it ({left[0]!r}, ...): nothing was written"
            )
    else:
        texts = rendered(one, manifest(one, note, scrubbed=False, replaced=0))
    if sum(map(len, texts.values())) > TOTAL_MOST:
        raise FormatError(f"it is larger than {TOTAL_MOST >> 20} MiB: nothing was written")
    write(folder, texts)
    print(f"{folder}: {len(one.drives)} drives, {len(one.udev)} devices, {replaced} names replaced")
    for what in [*one.missing, *one.cut]:
        print(f"  not in it: {what}")


def manifest(one: Recording, note: str, *, scrubbed: bool, replaced: int) -> Json:
    os_release = text_of("/etc/os-release", 4096) or ""
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', os_release, re.MULTILINE)
    return {
        "format": FORMAT,
        "note": note,
        "recorded": time.strftime("%Y-%m-%d", time.gmtime()),
        # What stands behind the numbers may name whoever built it.
        "kernel": re.sub(r"(?<=\d)[^\d.].*", "", platform.release()) if scrubbed else platform.release(),
        "system": found.group(1) if found else "",
        "machine": platform.machine(),
        "scrubbed": scrubbed,
        "names_replaced": replaced,
        "missing": one.missing,
        "cut": one.cut,
    }


def rendered(one: Recording, about: Json) -> Dict[str, str]:
    """File contents by name."""
    texts = {
        "manifest.json": pretty(about),
        "sysfs.json": pretty({"files": sysfs(one.files), "bytes": one.blobs, "links": one.links}),
        "udev.json": pretty(one.udev),
        "dmi.json": pretty(one.dmi),
    }
    texts.update({f"drives/{name}.json": pretty(entry) for name, entry in one.drives.items()})
    for path, text in one.files.items():
        if path.startswith("/proc/"):
            texts["proc/" + path.rsplit("/", 1)[1]] = text + "\n"
    return texts


def sysfs(files: Dict[str, str]) -> Dict[str, str]:
    return {path: text for path, text in files.items() if not path.startswith("/proc/")}


def pretty(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True) + "\n"


def write(folder: str, texts: Dict[str, str]) -> None:
    """All of it or nothing: written beside, then renamed."""
    beside = f"{folder.rstrip('/')}.new-{os.getpid()}"
    try:
        for name, text in texts.items():
            path = os.path.join(beside, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(text)
        os.rename(beside, folder)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise FormatError(f"{folder} cannot be written: {error.strerror}") from error
