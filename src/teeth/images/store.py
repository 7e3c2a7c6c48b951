"""The store: ``DATA/images/sha256-HEX/`` for each image, named by the digest of what is served of it.

In each lie ``image`` (what is served), ``manifest`` (signed, see docs/images.md) and ``about.json`` (what
people and commands want to know). A folder is complete or it is not there, and what is in it never changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teeth import signing
from teeth.errors import TeethError, UsageError
from teeth.files import write_durably
from teeth_image.errors import ImageError
from teeth_image.manifest import ImageManifest, signed_bytes

FOLDER, CONTENT, MANIFEST, ABOUT = "images", "image", "manifest", "about.json"
PRIVATE_KEY, PUBLIC_KEY = "images.key", "images.pub"
_ID = re.compile(r"sha256-[0-9a-f]{64}")
_NAME = re.compile(r"(?!sha256-)[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_WORK = ".adding-"
_SHORTEST = 8  # hex digits by which an image may be named


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """One image. Sizes in bytes, digests as ``sha256:HEX``, ``added`` in epoch seconds.

    ``boot``: the firmware modes in which a disk starts; ``notes``: what could not be found out, and what was
    wrong with an image that was added by ``force``.
    """

    id: str
    name: str
    kind: str
    format: str
    compression: str
    architecture: str
    size: int
    digest: str
    raw_size: int
    raw_digest: str
    manifest_size: int
    manifest_digest: str
    key: str
    added: float
    source: str
    boot: tuple[str, ...] = ()
    kernel: str = ""
    notes: tuple[str, ...] = ()

    def params(self, bases: Sequence[str]) -> dict[str, Any]:
        """The ``image`` member of a prepare_image, to be fetched from one of ``bases`` (``http://HOST:PORT``)."""
        # The manifest of an image that is removed and added again may differ: its address differs with it.
        version = self.manifest_digest.removeprefix("sha256:")[:16]
        paths = [f"{base.rstrip('/')}/images/{self.id}" for base in bases]
        return {
            "id": self.id,
            "name": self.name,
            "urls": paths,
            "size": self.size,
            "digest": self.digest,
            "format": self.format,
            "kind": self.kind,
            "compression": self.compression,
            "raw_size": self.raw_size,
            "manifest": {
                "urls": [f"{path}/manifest?v={version}" for path in paths],
                "size": self.manifest_size,
                "digest": self.manifest_digest,
            },
        }


def check_name(name: str) -> str:
    """Raises UsageError for what may be no image's name."""
    if not _NAME.fullmatch(name):
        hint = "1-128 of A-Z a-z 0-9 . _ + -, beginning with a letter or digit, not with sha256-"
        raise UsageError(f"{name[:128]!r} is no name for an image", hint=hint)
    return name


def signing_key(data: Path) -> Ed25519PrivateKey:
    """The store's own key, made if there is none. Raises TeethError for a file that is none."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    return signing.signing_key(
        data / PRIVATE_KEY,
        data / PUBLIC_KEY,
        owner="the image store",
        hint="put the backup back: machines that are told to trust it take no image that another key signed",
    )


class ImageStore:
    """The images of an endpoint's data folder. What is added or removed is seen at the next call."""

    def __init__(self, data: Path) -> None:
        self.folder = data / FOLDER
        self._known: dict[str, StoredImage] = {}  # of a folder that never changes

    def listing(self) -> list[StoredImage]:
        """Every image, by name."""
        try:
            names = [entry.name for entry in os.scandir(self.folder) if _ID.fullmatch(entry.name)]
        except FileNotFoundError:
            names = []
        found = [one for name in names if (one := self.get(name)) is not None]
        return sorted(found, key=lambda one: (one.name, one.id))

    def get(self, identity: str) -> StoredImage | None:
        """By its whole id."""
        if not _ID.fullmatch(identity) or not (self.folder / identity / CONTENT).is_file():
            self._known.pop(identity, None)
            return None
        if identity not in self._known:
            with contextlib.suppress(OSError, ValueError, TypeError):  # just removed, or not ours
                self._known[identity] = _read(self.folder / identity / ABOUT)
        return self._known.get(identity)

    def find(self, name: str) -> StoredImage:
        """By name, id or the beginning of its digest. Raises UsageError for none and for several."""
        images = self.listing()
        found = [one for one in images if name in (one.name, one.id, one.digest)]
        short = name.removeprefix("sha256").lstrip("-:")
        if not found and re.fullmatch(f"[0-9a-f]{{{_SHORTEST},64}}", short):
            found = [one for one in images if one.id.startswith(f"sha256-{short}")]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{name!r} is the beginning of several images' digests")
        hint = "teeth image list shows what there is" if images else "teeth image add FILE adds one"
        raise UsageError(f"there is no image {name[:128]!r}", hint=hint)

    def content(self, name: str) -> Path | None:
        """For the boot door: the file of the image with this id."""
        return self._file(name, CONTENT)

    def manifest(self, name: str) -> Path | None:
        """For the boot door: the manifest of the image with this id."""
        return self._file(name, MANIFEST)

    def remove(self, image: StoredImage) -> None:
        """It is gone at once; machines that are fetching it get the rest of it."""
        with self.changing():
            work = self.folder / f"{_WORK}gone-{image.id}"
            shutil.rmtree(work, ignore_errors=True)
            try:
                (self.folder / image.id).rename(work)
            except FileNotFoundError as error:
                raise UsageError(f"there is no image {image.name!r} any more") from error
            shutil.rmtree(work, ignore_errors=True)

    @contextlib.contextmanager
    def workplace(self) -> Iterator[Path]:
        """A folder for an image that is being added, gone at the end whatever happens in between.

        What an add that was killed left behind is swept away first.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        with self.changing():
            self._sweep()
            work = Path(tempfile.mkdtemp(prefix=_WORK, dir=self.folder))
            lock = os.open(work / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield work
        finally:
            os.close(lock)
            shutil.rmtree(work, ignore_errors=True)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """One who adds or removes at a time."""
        lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def require_free(self, name: str) -> None:
        """Raises UsageError when another image has this name."""
        other = next((one for one in self.listing() if one.name == name), None)
        if other is not None:
            hint = f"choose another --name, or: teeth image remove {name}"
            raise UsageError(f"there is an image {name!r} already ({other.id[:19]})", hint=hint)

    def publish(self, work: Path, image: StoredImage) -> StoredImage:
        """Make what lies in ``work`` (content and manifest, synced) an image of the store, in one step.

        Returns the one that is there already when its content is the same.
        """
        with self.changing():
            for one in self.listing():
                if (one.raw_digest, one.kind, one.format) == (image.raw_digest, image.kind, image.format):
                    return one
            self.require_free(image.name)
            write_durably(work / ABOUT, json.dumps(asdict(image), indent=2).encode(), mode=0o644)
            ready = work / "ready"
            ready.mkdir(mode=0o755)
            for name in (CONTENT, MANIFEST, ABOUT):
                (work / name).rename(ready / name)
            _sync(ready)
            ready.rename(self.folder / image.id)
            _sync(self.folder)
        return image

    def _file(self, identity: str, name: str) -> Path | None:
        if not _ID.fullmatch(identity):
            return None
        path = self.folder / identity / name
        return path if path.is_file() else None

    def _sweep(self) -> None:
        for left in self.folder.glob(f"{_WORK}*"):
            lock = os.open(left / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            except BlockingIOError:
                continue
            finally:
                os.close(lock)


def verify(image: StoredImage, store: ImageStore) -> ImageManifest:
    """The image's manifest, its signature checked. Raises TeethError when it is not what was signed."""
    path = store.folder / image.id / MANIFEST
    try:
        manifest = ImageManifest.parse(path.read_bytes())
    except (OSError, ImageError) as error:
        raise TeethError(f"the manifest of {image.name} cannot be read: {error}") from error
    if manifest.key is None or manifest.signature is None:
        raise TeethError(f"the manifest of {image.name} is not signed")
    if not signing.is_signed(manifest.key, manifest.signature, signed_bytes(manifest)):
        raise TeethError(f"the manifest of {image.name} is not what was signed")
    return manifest


def _read(path: Path) -> StoredImage:
    about = json.loads(path.read_bytes())
    return StoredImage(**{**about, "boot": tuple(about["boot"]), "notes": tuple(about["notes"])})


def _sync(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
