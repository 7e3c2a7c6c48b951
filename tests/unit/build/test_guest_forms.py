"""A guest's disk in other forms, and root archives: made when they are missing or stale, and only then."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from teeth.build.guest import DISK, MANIFEST, RAW, GuestManifest, guest_folder, guest_key
from teeth.build.guest_forms import FORMS, build_form, form_folder
from teeth.build.guest_root import ROOT, RootManifest, read_root_manifest, root_folder, root_key
from teeth.errors import TeethError, UsageError
from teeth.paths import Paths, find_checkout
from teeth.proc import run

CONTENT = b"".join(bytes([n % 251]) * 4096 for n in range(64)) + bytes(1 << 20)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(root=tmp_path)


def put_disk(paths: Paths, release: str, key: str = "k") -> GuestManifest:
    folder = guest_folder(paths, release)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RAW).write_bytes(CONTENT)
    (folder / DISK).write_bytes(b"disk")
    manifest = GuestManifest(
        id="x", name="n", size=4, digest="d", format="raw", compression="zstd", raw_size=len(CONTENT),
        raw_digest=f"sha256:{hashlib.sha256(CONTENT).hexdigest()}", min_disk=9, sector_size=512, root_uuid="u",
        kernel_version="k", kernel_arguments="a", partitions=[], packages={}, key=key,
    )  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest)))
    return manifest


def unpacked(path: Path, form: str, scratch: Path) -> bytes:
    if form == "gzip":
        return gzip.decompress(path.read_bytes())
    if form == "xz":
        return lzma.decompress(path.read_bytes())
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, scratch])
    return scratch.read_bytes()


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_is_the_same_disk(paths: Paths, tmp_path: Path, form: str) -> None:
    disk = put_disk(paths, "bookworm")
    manifest, made = build_form(paths, "bookworm", form)
    name, kind, compression = FORMS[form]
    file = form_folder(paths, "bookworm", form) / name
    assert made
    assert (manifest.format, manifest.compression, manifest.size) == (kind, compression, file.stat().st_size)
    assert manifest.digest == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert manifest.id != disk.id
    assert unpacked(file, form, tmp_path / "raw") == CONTENT
    assert not (paths.build / "work" / "guest").exists()


def test_a_form_is_made_anew_only_for_another_disk(paths: Paths) -> None:
    put_disk(paths, "bookworm")
    first = build_form(paths, "bookworm", "gzip")
    assert build_form(paths, "bookworm", "gzip") == (first[0], False)
    put_disk(paths, "bookworm", key="other")
    assert build_form(paths, "bookworm", "gzip")[1]
    (form_folder(paths, "bookworm", "gzip") / FORMS["gzip"][0]).write_bytes(b"half")
    assert build_form(paths, "bookworm", "gzip")[1]


def test_what_cannot_be_made_is_one_line(paths: Paths) -> None:
    with pytest.raises(TeethError, match="no disk of trixie"):
        build_form(paths, "trixie", "gzip")
    with pytest.raises(UsageError, match="no form 'vhd'"):
        build_form(paths, "trixie", "vhd")


def test_releases_have_folders_and_keys_of_their_own() -> None:
    real = find_checkout()
    assert guest_folder(real) == guest_folder(real, "trixie") == real.guest
    assert guest_folder(real, "bookworm") == real.guests / "bookworm-disk"
    keys = {make(real, release) for make in (guest_key, root_key) for release in ("trixie", "bookworm")}
    assert len(keys) == 4
    with pytest.raises(UsageError, match="no guest of 'woody'"):
        guest_key(real, "woody")


def test_half_a_root_archive_is_none(paths: Paths) -> None:
    folder = root_folder(paths, "bookworm")
    folder.mkdir(parents=True)
    manifest = RootManifest(
        id="x", name="n", kind="root", size=4, digest="d", format="tar", compression="zstd", raw_size=9,
        raw_digest="r", kernel_version="k", packages={}, key="k",
    )  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest)))
    assert read_root_manifest(folder) is None
    (folder / ROOT).write_bytes(b"root")
    assert read_root_manifest(folder) == manifest
    (folder / MANIFEST).write_text(json.dumps(asdict(replace(manifest, size=5))))
    assert read_root_manifest(folder) is None
