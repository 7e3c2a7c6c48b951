"""What prepare_image and run_image are told: the wire's types, checked for what they mean, as records."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from teeth_agent.errors import AgentError, ParamsError
from teeth_protocol.fields import FieldError
from teeth_protocol.shape import read
from teeth_protocol.wire import standbye as wire

_HINTS = ("serial", "wwn", "name", "model", "by_path", "hctl", "size", "rotational")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """One image: where it is, and what it must be. ``size`` and ``raw_size`` in bytes.

    ``digest`` is ``sha256:hex`` or ``sha512:hex`` of what is fetched, ``raw_digest`` of what comes out of
    the decompression; the latter is checked when given, at the price of one more digest over every byte.
    """

    id: str
    name: str
    urls: tuple[str, ...]
    size: int
    digest: str
    compression: str
    raw_size: int | None
    raw_digest: str | None

    @property
    def known_raw_size(self) -> int | None:
        return self.size if self.compression == "none" else self.raw_size


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareParams:
    image: ImageSpec
    hints: tuple[Hint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParams:
    """``boot`` is ``auto`` (kexec if viable, else reboot), ``kexec`` (that or fail) or ``reboot``."""

    image_id: str
    config_drive: ConfigDrive
    boot: str


def read_prepare(params: Mapping[str, Any]) -> PrepareParams:
    """Raises ParamsError naming the path, or AgentError(image_format) for a format not supported."""
    said = _read(wire.PrepareImage, params)
    return PrepareParams(image=_image(said.image), hints=_hints(said.root_disk))


def read_run(params: Mapping[str, Any]) -> RunParams:
    """Raises ParamsError naming the path, never the value: it may be a secret."""
    said = _read(wire.RunImage, params)
    drive = said.config_drive
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
        ),
        boot=said.boot,
    )


def _read(kind: type[_T], params: Mapping[str, Any]) -> _T:
    try:
        # Whoever took the task has read its id; without one these are only its params.
        return read(kind, {"task_id": "-", **params})
    except FieldError as error:
        raise ParamsError(str(error)) from error


def _image(image: wire.Image) -> ImageSpec:
    if image.format != "raw":
        raise AgentError(
            f"params.image.format: {image.format} images cannot be written yet", code="image_format"
        )
    for index, url in enumerate(image.urls):
        if not _has_a_host(url):
            raise ParamsError(f"params.image.urls[{index}]: expected an http or https URL")
    if image.compression == "none" and image.raw_size not in (None, image.size):
        raise ParamsError("params.image.raw_size: differs from size although nothing is compressed")
    return ImageSpec(
        id=image.id,
        name=image.name,
        urls=image.urls,
        size=image.size,
        digest=image.digest.lower(),
        compression=image.compression,
        raw_size=image.raw_size,
        raw_digest=None if image.raw_digest is None else image.raw_digest.lower(),
    )


def _has_a_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _hints(disk: wire.RootDisk) -> tuple[Hint, ...]:
    said = {key: value for key in sorted(_HINTS) if (value := getattr(disk, key)) is not None}
    if not said:
        raise ParamsError("params.root_disk: expected at least one hint")
    return tuple(
        Hint(key=key, op="==", value=value)
        if isinstance(value, str | int)
        else Hint(key=key, op=value.op, value=value.value)
        for key, value in said.items()
    )


def _plain(value: Any) -> Any:
    """A list of the wire's is read as a tuple; what the config drive holds is JSON again."""
    return list(value) if isinstance(value, tuple) else value
