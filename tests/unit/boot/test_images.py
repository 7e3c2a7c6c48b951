from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from teeth.boot.images import load_image
from teeth.errors import UsageError

MANIFEST: dict[str, Any] = {
    "id": "5f0c", "name": "debian", "size": 4, "digest": "sha256:" + "0" * 64, "format": "raw",
    "compression": "zstd", "raw_size": 100, "raw_digest": None, "packages": ["many"],
}  # fmt: skip


def write(folder: Path, manifest: object, content: bytes = b"data") -> Path:
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "disk.raw.zst").write_bytes(content)
    return folder


def test_an_image_becomes_what_the_agent_must_know(tmp_path: Path) -> None:
    image = load_image(write(tmp_path, MANIFEST))
    assert image.params("http://10.0.2.2:80") == {
        "id": "5f0c", "name": "debian", "size": 4, "digest": "sha256:" + "0" * 64, "format": "raw",
        "compression": "zstd", "raw_size": 100, "urls": ["http://10.0.2.2:80/images/5f0c"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("manifest", "words"),
    [({**MANIFEST, "size": 5}, "has 4 bytes"), ({"id": "x"}, "lacks size, digest, format"), ([], "lacks id")],
)
def test_an_image_that_is_not_its_manifest_is_refused(tmp_path: Path, manifest: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_image(write(tmp_path, manifest))


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"manifest\.json is missing"):
        load_image(tmp_path)
