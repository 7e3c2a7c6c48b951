"""What the tasks of standbye are told: the wire's types, checked for what they mean, as records."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from teeth_agent.errors import ParamsError
from teeth_protocol.fields import FieldError
from teeth_protocol.shape import read
from teeth_protocol.wire import standbye as wire

_HINTS = ("serial", "wwn", "name", "model", "by_path", "hctl", "size", "rotational")
# What an image of each kind may be.
_FORMATS = {"disk": ("raw", "qcow2"), "root": ("raw", "tar")}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestSpec:
    """Where an image's manifest is, and what it must be: ``size`` in bytes, ``digest`` as of an image."""

    urls: tuple[str, ...]
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """One image: where it is, and what it must be. ``size`` and ``raw_size`` in bytes.

    ``digest`` is ``sha256:hex`` or ``sha512:hex`` of what is fetched, ``raw_digest`` of what comes out of
    the decompression (for ``qcow2``: of the disk that it describes); the latter is checked when given, at
    the price of one more digest over every byte. ``chunks`` covers all of ``size``. ``kind`` is ``disk``
    (``raw`` or ``qcow2``) or ``root`` (``raw`` or ``tar``). There are ``peers`` only with ``manifest`` or
    ``chunks``; ``proxy`` is for ``urls`` and the manifest's, never for ``peers``.
    """

    id: str
    name: str
    urls: tuple[str, ...]
    size: int
    digest: str
    compression: str
    raw_size: int | None
    raw_digest: str | None
    format: str = "raw"
    kind: str = "disk"
    chunks: wire.Chunks | None = None
    manifest: ManifestSpec | None = None
    peers: tuple[str, ...] = ()
    proxy: str | None = None

    @property
    def known_raw_size(self) -> int | None:
        """Bytes that come out in the end, where that is known before the first is read."""
        return self.size if self.compression == "none" and self.format != "qcow2" else self.raw_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """One condition on the root disk: ``getattr(disk, key) op value``."""

    key: str
    op: str
    value: str | int | bool

    def __str__(self) -> str:
        return f"{self.key} {self.op} {self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveFile:
    """A file that the system's first boot puts at ``path``."""

    path: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ConfigDrive:
    """The config drive's content: secret, so it has no repr that a log could catch."""

    meta_data: Mapping[str, Any]
    user_data: str | None
    vendor_data: Any
    network_data: Any
    files: tuple[DriveFile, ...]
    layout: str = "openstack"
    filesystem: str = "vfat"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheParams:
    """``images`` in their priority; ``deadline`` in seconds from now."""

    images: tuple[ImageSpec, ...]
    share: bool
    deadline: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareParams:
    """``skip``: a disk for which all hints of one of them hold is never the root disk.

    ``grow`` is ``none``, ``partition`` or ``filesystem``; ``deadline`` in seconds from now.
    """

    image: ImageSpec
    hints: tuple[Hint, ...]
    skip: tuple[tuple[Hint, ...], ...] = ()
    grow: Literal["none", "partition", "filesystem"] = "none"
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParams:
    """``boot`` is ``auto`` (kexec if viable, else reboot), ``kexec`` (that or fail) or ``reboot``."""

    image_id: str
    config_drive: ConfigDrive
    boot: str


def read_cache(params: Mapping[str, Any]) -> CacheParams:
    """Raises ParamsError naming the path."""
    said = _read(wire.CacheImages, params)
    images = tuple(_image(image, f"params.images[{index}]") for index, image in enumerate(said.images))
    names = [image.id for image in images]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ParamsError(f"params.images[{index}].id: {name} is named twice")
    return CacheParams(images=images, share=said.share, deadline=said.deadline)


def read_prepare(params: Mapping[str, Any]) -> PrepareParams:
    """Raises ParamsError naming the path."""
    said = _read(wire.PrepareImage, params)
    return PrepareParams(
        image=_image(said.image, "params.image"),
        hints=_hints(said.root_disk, "params.root_disk"),
        skip=tuple(_hints(one, f"params.skip[{index}]") for index, one in enumerate(said.skip)),
        grow=said.grow,
        deadline=said.deadline,
    )


def read_run(params: Mapping[str, Any]) -> RunParams:
    """Raises ParamsError naming the path, never the value: it may be a secret."""
    said = _read(wire.RunImage, params)
    drive = said.config_drive
    if drive.layout == "nocloud" and drive.files:
        raise ParamsError(
            "params.config_drive.files: NoCloud has no files, user_data's write_files makes them"
        )
    return RunParams(
        image_id=said.image_id,
        config_drive=ConfigDrive(
            meta_data=drive.meta_data,
            user_data=drive.user_data,
            vendor_data=_plain(drive.vendor_data),
            network_data=_plain(drive.network_data),
            files=tuple(
                DriveFile(path=file.path, content=base64.b64decode(file.content_b64)) for file in drive.files
            ),
            layout=drive.layout,
            filesystem=drive.filesystem,
        ),
        boot=said.boot,
    )


def _read(kind: type[_T], params: Mapping[str, Any]) -> _T:
    try:
        # Whoever took the task has read its id; without one these are only its params.
        return read(kind, {"task_id": "-", **params})
    except FieldError as error:
        raise ParamsError(str(error)) from error


def _image(image: wire.Image, path: str) -> ImageSpec:
    _check_urls(image, path)
    _check_shape(image, path)
    return ImageSpec(
        id=image.id,
        name=image.name,
        urls=image.urls,
        size=image.size,
        digest=image.digest.lower(),
        compression=image.compression,
        raw_size=image.raw_size,
        raw_digest=None if image.raw_digest is None else image.raw_digest.lower(),
        format=image.format,
        kind=image.kind,
        chunks=image.chunks,
        manifest=None if image.manifest is None else _manifest(image.manifest),
        peers=image.peers,
        proxy=image.proxy,
    )


def _manifest(manifest: wire.Manifest) -> ManifestSpec:
    return ManifestSpec(urls=manifest.urls, size=manifest.size, digest=manifest.digest.lower())


def _check_shape(image: wire.Image, path: str) -> None:
    """What one member says about another."""
    if image.format not in _FORMATS[image.kind]:
        allowed = " or ".join(_FORMATS[image.kind])
        raise ParamsError(f"{path}.format: expected {allowed} for an image of kind {image.kind}")
    plain = image.compression == "none" and image.format != "qcow2"
    if plain and image.raw_size not in (None, image.size):
        raise ParamsError(f"{path}.raw_size: differs from size although nothing is compressed")
    if image.chunks is not None:
        expected = -(-image.size // image.chunks.size)
        if len(image.chunks.digests) != expected:
            raise ParamsError(
                f"{path}.chunks.digests: expected {expected} for {image.size} bytes in chunks of "
                f"{image.chunks.size}"
            )
    if image.peers and image.manifest is None and image.chunks is None:
        raise ParamsError(f"{path}.peers: expected only with a manifest or chunks, by which they are checked")


def _check_urls(image: wire.Image, path: str) -> None:
    lists = {"urls": image.urls, "peers": image.peers, "manifest.urls": ()}
    if image.manifest is not None:
        lists["manifest.urls"] = image.manifest.urls
    for name, urls in lists.items():
        for index, url in enumerate(urls):
            if not _has_a_host(url):
                raise ParamsError(f"{path}.{name}[{index}]: expected an http or https URL")
    if image.proxy is not None and not _has_a_host(image.proxy):
        raise ParamsError(f"{path}.proxy: expected an http or https URL")


def _has_a_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _hints(disk: wire.RootDisk, path: str) -> tuple[Hint, ...]:
    said = {key: value for key in sorted(_HINTS) if (value := getattr(disk, key)) is not None}
    if not said:
        raise ParamsError(f"{path}: expected at least one hint")
    return tuple(
        Hint(key=key, op="==", value=value)
        if isinstance(value, str | int)
        else Hint(key=key, op=value.op, value=value.value)
        for key, value in said.items()
    )


def _plain(value: Any) -> Any:
    """A list of the wire's is read as a tuple; what the config drive holds is JSON again."""
    return list(value) if isinstance(value, tuple) else value
