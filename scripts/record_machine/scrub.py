"""Takes from a recording what names the machine and tells of its content."""

from __future__ import annotations

import json
import re
import socket
from typing import Any, Callable, Iterator, List

from record_machine.found import Json, Recording, dense, sparse
from record_machine.names import Names

UUID = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-f])", re.IGNORECASE)
MAC = re.compile(r"(?<![0-9a-f:])[0-9a-f]{2}(?::[0-9a-f]{2}){5}(?![0-9a-f:])", re.IGNORECASE)
# WWNs and their like, after what announces them.
NAMED = re.compile(r"(?:0x|naa\.|eui\.|uuid\.)([0-9a-f]{16}(?:[0-9a-f]{16})?)(?![0-9a-f])", re.IGNORECASE)
PORTAL = re.compile(r"ip-[^ ]*?-iscsi-.*?-lun")
SERIAL_KEYS = re.compile(r"(?:^|_)(?:SERIAL_SHORT|SCSI_SERIAL|IDENT_SERIAL)$")
VIRTIO_BLOCK = re.compile(r"/virtio\d+/block/")  # udev gives these no short form
CONTENT = re.compile(
    r"^(?:ID_FS_|ID_PART_|DM_|MD_|LVM_|DEVLINKS|UDISKS_|SYSTEMD_|CURRENT_TAGS|TAGS|ID_NET_NAME)"
)
KEPT = re.compile(
    r"^(?:ID_FS_(?:TYPE|USAGE|VERSION)|ID_PART_(?:TABLE_TYPE|ENTRY_(?:TYPE|NUMBER|OFFSET|SIZE|SCHEME)))$"
)
SMART_LEFT_OUT = {"wwn", "eui64", "nguid", "local_time", "logical_unit_id"}  # numbers that name, and the hour
ORDINARY = {"localhost", "debian", "ubuntu", "fedora", "teeth", "none"}
POINTS = {"/", "/boot", "/boot/efi", "/efi", "/home", "/opt", "/srv", "/tmp", "/usr", "/var", "/var/log"}


def scrub(one: Recording, key: bytes) -> Names:
    """Change ``one`` in place; the words that were replaced, frozen."""
    names = Names(key)
    _learn(one, names)
    names.freeze()
    mappers = _mappers(one)
    points: List[str] = []
    for entry in one.udev:
        entry["devpath"] = names.text(entry["devpath"])
        entry["properties"] = {
            name: PORTAL.sub("ip-192.0.2.1:3260-iscsi-iqn.2000-01.org.example:d-lun", names.text(value))
            for name, value in entry["properties"].items()
            if KEPT.match(name) or not CONTENT.match(name)
        }
    one.files = {names.text(path): names.text(mappers(text)) for path, text in one.files.items()}
    one.files["/proc/self/mountinfo"] = _mounts(one.files.get("/proc/self/mountinfo", ""), points)
    one.links = {names.text(path): names.text(target) for path, target in one.links.items()}
    one.blobs = {names.text(path): names.raw(bytes.fromhex(data)).hex() for path, data in one.blobs.items()}
    for entry in one.drives.values():
        _scrub_drive(entry, names)
    for structure in one.dmi:
        structure["strings"] = [names.text(text) for text in structure["strings"]]
        structure["bytes"] = names.raw(_without_uuid(structure)).hex()
    return names


def _learn(one: Recording, names: Names) -> None:
    for entry in one.udev:
        wanted = [key for key in entry["properties"] if SERIAL_KEYS.search(key)]
        wanted += ["ID_SERIAL"] if VIRTIO_BLOCK.search(entry["devpath"]) else []
        for key in wanted:
            names.add(entry["properties"].get(key, ""))
    _learn_firmware(one, names)
    for entry in one.drives.values():
        for word in _names_of_drive(entry):
            names.add(word)
    host = socket.gethostname()
    if host.lower() not in ORDINARY:
        names.add(host)
    text = json.dumps([one.udev, one.files, one.links, one.drives])
    for pattern, keep in ((UUID, 0), (MAC, len("52:54:00")), (NAMED, 0)):
        for found in sorted(set(pattern.findall(text))):
            names.add(found, keep)


def _learn_firmware(one: Recording, names: Names) -> None:
    for path, text in one.files.items():
        if path.endswith("/serial") or re.search(r"dmi/id/\w*(?:serial|asset_tag)$", path):
            names.add(text)
    for structure in one.dmi:
        for number in structure["serials"]:
            names.add("".join(structure["strings"][number - 1 : number]))


def _names_of_drive(entry: Json) -> Iterator[str]:
    """From a drive's own answers."""
    yield str((entry.get("smart") or {}).get("serial_number", ""))
    for answer in entry.get("scsi", ()):
        cdb, data = bytes.fromhex(answer["cdb"]), dense(answer["data"])
        if cdb[0] == 0x12 and cdb[1] == 1 and cdb[2] == 0x80 and len(data) > 4:
            yield data[4 : 4 + data[3]].decode("latin-1")
        elif cdb[0] == 0x12 and cdb[1] == 1 and cdb[2] == 0x83:
            yield from (name.hex() for name in _designators(data))
        elif is_identify(cdb) and len(data) == 512:
            yield swapped(data)[20:40].decode("latin-1")  # words 10-19, ACS-3 7.12.7.10
            yield swapped(data)[216:224].hex()  # words 108-111: the WWN
    for answer in entry.get("nvme", ()):
        data = dense(answer["data"])
        if len(data) < 1024 or answer["opcode"] != 0x06:
            continue
        if answer["cdw10"] == 1:
            yield data[4:24].decode("latin-1")
            # SUBNQN: what stands before the last colon names who gave the name.
            yield data[768:1024].split(b"\0")[0].decode("latin-1").rpartition(":")[2]
        elif answer["cdw10"] in (0, 0x11):
            yield from (part.hex() for part in (data[104:120], data[120:128]))  # NGUID, EUI64


def _designators(page: bytes) -> Iterator[bytes]:
    """NAA and EUI designators of page 0x83; SPC-4 7.8.5."""
    at = 4
    while at + 4 <= len(page):
        kind, size = page[at + 1] & 0x0F, page[at + 3]
        if kind in (2, 3) and size in (8, 12, 16):
            yield page[at + 4 : at + 4 + size]
        at += 4 + size


def is_identify(cdb: bytes) -> bool:
    """Whether a CDB is ATA PASS-THROUGH (16) with IDENTIFY DEVICE."""
    return len(cdb) == 16 and cdb[0] == 0x85 and cdb[14] == 0xEC


def swapped(data: bytes) -> bytes:
    """ATA keeps strings as words of which the second byte comes first."""
    return bytes(data[at ^ 1] for at in range(len(data)))


def _scrub_drive(entry: Json, names: Names) -> None:
    for answer in [*entry.get("scsi", ()), *entry.get("nvme", ())]:
        data = dense(answer["data"])
        if is_identify(bytes.fromhex(answer.get("cdb", ""))) and len(data) == 512:
            answer["data"] = sparse(_checked(swapped(names.raw(swapped(data)))))
        else:
            answer["data"] = sparse(names.raw(data))
    if entry.get("smart"):
        entry["smart"] = _walk(entry["smart"], names.text)


def _checked(identify: bytes) -> bytes:
    """With the checksum of word 255 made anew, where there is one (ACS-3 7.12.7.120)."""
    if identify[510] != 0xA5:
        return identify
    return identify[:511] + bytes([-sum(identify[:511]) & 0xFF])


def _walk(value: Any, text: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _walk(part, text) for key, part in value.items() if key not in SMART_LEFT_OUT}
    if isinstance(value, list):
        return [_walk(part, text) for part in value]
    return text(value) if isinstance(value, str) else value


def _without_uuid(structure: Json) -> bytes:
    """The system structure's UUID is little-endian in part, and so never looks like itself: zeroes."""
    body = bytes.fromhex(structure["bytes"])
    return body[:8] + bytes(16) + body[24:] if structure["type"] == 1 and len(body) >= 24 else body


def _mappers(one: Recording) -> Callable[[str], str]:
    """Names of mapped devices, often those of people and projects, by number instead."""
    found = sorted({text for path, text in one.files.items() if path.endswith("/dm/name")}, key=len)
    table = {name: f"mapped{number}" for number, name in enumerate(found)}
    one.files.update({path: "scrubbed" for path in one.files if path.endswith("/dm/uuid")})
    one.files.update({path: table[text] for path, text in one.files.items() if path.endswith("/dm/name")})
    if not found:
        return lambda text: text
    pattern = re.compile(
        "/dev/mapper/(" + "|".join(re.escape(name) for name in reversed(found)) + r")(?=\s|$)"
    )
    return lambda text: pattern.sub(lambda match: f"/dev/mapper/{table[match.group(1)]}", text)


def _mounts(text: str, points: List[str]) -> str:
    """Mounts of block devices only, without options; mount points that are not everybody's by number."""
    lines = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        head, tail = left.split(), right.split()
        if len(head) < 6 or len(tail) < 2 or not (tail[1].startswith("/dev/") or head[2][:2] != "0:"):
            continue
        if head[4] not in POINTS and head[4] not in points:
            points.append(head[4])
        point = head[4] if head[4] in POINTS else f"/mnt/{points.index(head[4])}"
        source = tail[1] if tail[1].startswith("/dev/") else "none"
        lines.append(f"{head[0]} {head[1]} {head[2]} / {point} rw - {tail[0]} {source} rw")
    return "\n".join(lines)
