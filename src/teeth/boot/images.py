"""Images that the boot door offers, with what an agent must know to trust them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teeth.errors import UsageError

# What of an image's manifest goes over the wire; the rest (layout, packages) is for people.
_WIRE = ("id", "name", "kind", "size", "digest", "format", "compression", "raw_size", "raw_digest")
_NEEDED = ("id", "size", "digest", "format")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One image on this host: its file and its manifest."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.manifest["id"])

    def params(self, base_url: str) -> dict[str, Any]:
        """The ``image`` member of a prepare_image command, fetched from the boot door at ``base_url``."""
        known = {name: self.manifest[name] for name in _WIRE if self.manifest.get(name) is not None}
        return {**known, "urls": [f"{base_url}/images/{self.id}"]}


def load_image(folder: Path, *, name: str = "disk.raw.zst") -> ImageFile:
    """The image in a folder with ``manifest.json`` and the file it describes.

    Raises UsageError when something is missing or the file's size is not the manifest's.
    """
    path = folder / name
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise UsageError(f"no image in {folder}: {Path(error.filename).name} is missing") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"the image in {folder} cannot be read: {error}") from error
    missing = [key for key in _NEEDED if key not in manifest] if isinstance(manifest, dict) else list(_NEEDED)
    if missing:
        raise UsageError(f"{folder / 'manifest.json'} lacks {', '.join(missing)}")
    if size != manifest["size"]:
        raise UsageError(f"{path} has {size} bytes, its manifest says {manifest['size']}")
    return ImageFile(path=path, manifest=manifest)
