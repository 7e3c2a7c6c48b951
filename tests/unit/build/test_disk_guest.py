"""When the guest image is built anew and when it is left alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from teeth.build.guest import DISK, MANIFEST, RAW, GuestManifest, build_guest, guest_key, read_manifest
from teeth.errors import TeethError
from teeth.paths import Paths, find_checkout


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A checkout of its own with what the guest is made from."""
    real, copy = find_checkout(), Paths(root=tmp_path)
    for element in ("teeth-debian", "teeth-guest"):
        shutil.copytree(real.elements / element, copy.elements / element)
    copy.recipes.mkdir()
    shutil.copy(real.recipes / "guest.yaml", copy.recipes)
    return copy


def manifest(key: str) -> GuestManifest:
    return GuestManifest(
        id="x", name="n", size=4, digest="d", format="raw", compression="zstd", raw_size=8, raw_digest="r",
        min_disk=9, sector_size=512, root_uuid="u", kernel_version="k", kernel_arguments="a", partitions=[],
        packages={}, key=key,
    )  # fmt: skip


def put(folder: Path, content: GuestManifest) -> None:
    folder.mkdir(parents=True)
    (folder / DISK).write_bytes(b"disk")
    (folder / RAW).write_bytes(b"rawdisk!")
    (folder / MANIFEST).write_text(json.dumps(asdict(content)))


def test_an_image_of_the_same_inputs_is_left_alone(paths: Paths) -> None:
    present = manifest(guest_key(paths))
    put(paths.guest, present)
    said: list[str] = []
    assert build_guest(paths, say=said.append) == (present, False)
    assert said == []


def test_changed_inputs_change_the_key(paths: Paths) -> None:
    before = guest_key(paths)
    assert guest_key(paths) == before
    (paths.elements / "teeth-guest" / "package-installs.yaml").write_text("bash:\n")
    assert guest_key(paths) != before


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / DISK).write_bytes(b"dis"),
        lambda folder: (folder / DISK).unlink(),
        lambda folder: (folder / RAW).unlink(),
        lambda folder: (folder / MANIFEST).write_text("{"),
        lambda folder: (folder / MANIFEST).write_text('{"id": "x"}'),
        lambda folder: (folder / MANIFEST).write_text("[]"),
    ],
)
def test_half_an_image_is_none(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    folder = tmp_path / "guest"
    put(folder, manifest("k"))
    assert read_manifest(folder) == manifest("k")
    damage(folder)
    assert read_manifest(folder) is None


def test_a_failed_build_leaves_the_old_image_and_nothing_else(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(paths.guest, manifest("older"))
    (paths.recipes / "guest.yaml").write_text("- imagename: guest\n  elements: [no-such-element]\n")
    with pytest.raises(TeethError, match="no-such-element"):
        build_guest(paths)
    assert read_manifest(paths.guest) == manifest("older")
    assert not (paths.build / "work" / "guest").exists()
