"""One whole-disk image in the other forms that users have: qcow2, gzip, xz.

Made by the tools that users make theirs with; the disk in each of them is the same, byte for byte.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from dataclasses import asdict
from pathlib import Path

from teeth.build.guest import (
    MANIFEST,
    NAMESPACE,
    RAW,
    GuestManifest,
    guest_folder,
    publish,
    read_manifest,
    work_folder,
)
from teeth.build.guest_tree import Say
from teeth.build.locks import only_one
from teeth.cache import file_digest
from teeth.errors import TeethError, UsageError
from teeth.paths import Paths
from teeth.proc import run

# Form: (file, format, compression).
FORMS = {
    "qcow2": ("disk.qcow2", "qcow2", "none"),
    "gzip": ("disk.raw.gz", "raw", "gzip"),
    "xz": ("disk.raw.xz", "raw", "xz"),
}


def form_folder(paths: Paths, release: str, form: str) -> Path:
    return paths.guests / f"{release}-{form}"


def build_form(
    paths: Paths, release: str, form: str, *, say: Say = lambda _: None
) -> tuple[GuestManifest, bool]:
    """(manifest, whether it was made now) of a release's disk in a form; its disk must have been built.

    Raises UsageError for a form that there is not, TeethError without a disk.
    """
    if form not in FORMS:
        raise UsageError(f"there is no form {form!r}", hint=f"there are {', '.join(sorted(FORMS))}")
    with only_one(paths.cache / "guest.lock", say):
        source, folder = guest_folder(paths, release), form_folder(paths, release, form)
        disk = read_manifest(source)
        if disk is None:
            raise TeethError(f"there is no disk of {release} yet", hint="build it with teeth image guest")
        name = FORMS[form][0]
        present = _present(folder, name)
        if present is not None and (present.key, present.raw_digest) == (disk.key, disk.raw_digest):
            return present, False
        with work_folder(paths) as work:
            _convert(source / RAW, work / name, form)
            manifest = _describe(disk, work / name, form)
            publish(work, folder, (name,), asdict(manifest))
    return manifest, True


def _present(folder: Path, name: str) -> GuestManifest | None:
    try:
        manifest = GuestManifest(**json.loads((folder / MANIFEST).read_text()))
        return manifest if (folder / name).stat().st_size == manifest.size else None
    except (OSError, ValueError, TypeError):
        return None


def _convert(raw: Path, output: Path, form: str) -> None:
    match form:
        case "qcow2":
            run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, output])
        case "gzip":
            _compress(["gzip", "-1", "-n", "-c"], raw, output)
        case _:
            _compress(["xz", "-0", "-T0", "-c"], raw, output)


def _compress(command: list[str], raw: Path, output: Path) -> None:
    # The shell only joins the two files: both names are its arguments, not part of its text.
    run(["sh", "-c", f'{" ".join(command)} <"$1" >"$2"', "sh", raw, output])


def _describe(disk: GuestManifest, path: Path, form: str) -> GuestManifest:
    digest = f"sha256:{file_digest(path)}"
    _, kind, compression = FORMS[form]
    return dataclasses.replace(
        disk,
        id=str(uuid.uuid5(NAMESPACE, digest)),
        name=f"{disk.name}-{form}",
        size=path.stat().st_size,
        digest=digest,
        format=kind,
        compression=compression,
    )
