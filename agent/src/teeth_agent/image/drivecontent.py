"""What a config drive holds, as files: OpenStack's layout (config-2) or NoCloud's (CIDATA)."""

from __future__ import annotations

import json
from typing import Any

from teeth_agent.image.params import ConfigDrive

# By these labels cloud-init and its like find the drive; NoCloud's in capitals, as FAT has it.
LABELS = {"openstack": "config-2", "nocloud": "CIDATA"}
_FOLDERS = {"openstack": ("openstack", "openstack/latest", "openstack/content"), "nocloud": ()}
_HEADER = "#cloud-config\n"
_ARCHIVE = "#cloud-config-archive\n"


def label(drive: ConfigDrive) -> str:
    return LABELS[drive.layout]


def folders(drive: ConfigDrive) -> tuple[str, ...]:
    """Parents first."""
    return _FOLDERS[drive.layout]


def layout(drive: ConfigDrive) -> dict[str, bytes]:
    """The drive's files by name. Raises nothing: ``drive`` is checked already."""
    return _nocloud(drive) if drive.layout == "nocloud" else _openstack(drive)


def _openstack(drive: ConfigDrive) -> dict[str, bytes]:
    content = {f"openstack/content/{index:04}": one.content for index, one in enumerate(drive.files)}
    meta_data = dict(drive.meta_data)
    if drive.files:
        given = meta_data.get("files")
        meta_data["files"] = [
            *(given if isinstance(given, list) else []),
            *({"path": one.path, "content_path": f"/content/{n:04}"} for n, one in enumerate(drive.files)),
        ]
    files = {"openstack/latest/meta_data.json": _json(meta_data)}
    if drive.user_data is not None:
        files["openstack/latest/user_data"] = drive.user_data.encode()
    for name, value in (("vendor_data", drive.vendor_data), ("network_data", drive.network_data)):
        if value is not None:
            files[f"openstack/latest/{name}.json"] = _json(value)
    return files | content


def _nocloud(drive: ConfigDrive) -> dict[str, bytes]:
    """Its meta-data has names of its own; JSON is YAML. There is no place for ``files``."""
    said = dict(drive.meta_data)
    meta_data = {"instance-id": said.get("uuid")}
    for ours, theirs in (("hostname", "local-hostname"), ("public_keys", "public-keys")):
        if ours in said:
            meta_data[theirs] = said[ours]
    files = {
        "meta-data": _json(meta_data | said),
        # Without it, even empty, it is no NoCloud drive.
        "user-data": (drive.user_data or "").encode(),
    }
    if drive.vendor_data is not None:
        files["vendor-data"] = _vendor_text(drive.vendor_data).encode()
    if drive.network_data is not None:
        network = drive.network_data
        files["network-config"] = network.encode() if isinstance(network, str) else _json(network)
    return files


def _vendor_text(value: Any) -> str:
    """OpenStack's {"cloud-init": ...} as NoCloud's text: a document, or an archive."""
    if isinstance(value, dict) and "cloud-init" in value:
        value = value["cloud-init"]
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _ARCHIVE + _json(value).decode()
    return _HEADER + _json(value).decode()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()
