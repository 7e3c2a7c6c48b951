"""What prepare_image and run_image are told, read strictly from the wire's JSON into typed records."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from teeth_agent.errors import AgentError, ParamsError
from teeth_protocol.fields import FieldError, Fields

# Mirrors of one image: more than a handful is a mistake, and each costs its own retries.
_MAX_URLS = 16
_MAX_URL = 4096
_MAX_FILES = 256
_DIGEST_HEX = {"sha256": 64, "sha512": 128}
_COMPRESSIONS = ("none", "zstd", "gzip", "xz")
_OPERATORS = ("==", "!=", ">=", "<=", ">", "<")
# What each hint is compared as. A hint that is not known is refused, never ignored: it was meant to
# keep the image off some disk.
HINT_KINDS: Mapping[str, type] = {
    "serial": str,
    "wwn": str,
    "name": str,
    "model": str,
    "by_path": str,
    "hctl": str,
    "size": int,
    "rotational": bool,
}

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
    return _strictly(_prepare, params)


def read_run(params: Mapping[str, Any]) -> RunParams:
    """Raises ParamsError naming the path, never the value: it may be a secret."""
    return _strictly(_run, params)


def _strictly(reader: Callable[[Fields], _T], params: Mapping[str, Any]) -> _T:
    try:
        return reader(Fields(params))
    except FieldError as error:
        raise ParamsError(str(error)) from error


def _prepare(params: Fields) -> PrepareParams:
    image = params.object("image")
    assert image is not None
    return PrepareParams(image=_image(image), hints=_hints(params))


def _image(image: Fields) -> ImageSpec:
    declared = image.choice("format", ("raw", "qcow2"))
    if declared != "raw":
        raise AgentError(f"{image.path}.format: {declared} images cannot be written yet", code="image_format")
    spec = ImageSpec(
        id=image.text("id", max_length=128),
        name=image.text("name", "", max_length=256),
        urls=_urls(image),
        size=image.integer("size", least=1),
        digest=_digest(image, "digest"),
        compression=image.choice("compression", _COMPRESSIONS, "none"),
        raw_size=image.integer("raw_size", None, least=1),
        raw_digest=_digest(image, "raw_digest") if image.raw("raw_digest") is not None else None,
    )
    if spec.compression == "none" and spec.raw_size not in (None, spec.size):
        raise FieldError(f"{image.path}.raw_size: differs from size although nothing is compressed")
    return spec


def _urls(image: Fields) -> tuple[str, ...]:
    urls = image.texts("urls", most=_MAX_URLS)
    if not urls:
        raise FieldError(f"{image.path}.urls: expected at least one")
    for index, url in enumerate(urls):
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            good = False
        # Neither a space nor a line end may get into the request line.
        if not good or len(url) > _MAX_URL or re.search(r"[^\x21-\x7e]", url):
            raise FieldError(f"{image.path}.urls[{index}]: expected an http or https URL")
    return tuple(urls)


def _digest(image: Fields, name: str) -> str:
    text = str(image.text(name, max_length=256)).lower()
    algorithm, _, value = text.partition(":")
    if _DIGEST_HEX.get(algorithm) != len(value) or not re.fullmatch(r"[0-9a-f]+", value):
        raise FieldError(f"{image.path}.{name}: expected sha256:HEX or sha512:HEX")
    return text


def _hints(params: Fields) -> tuple[Hint, ...]:
    hints = params.object("root_disk")
    assert hints is not None
    if not hints.names():
        raise FieldError(f"{hints.path}: expected at least one hint")
    return tuple(_hint(hints, key) for key in sorted(hints.names()))


def _hint(hints: Fields, key: str) -> Hint:
    path = f"{hints.path}.{key}"
    kind = HINT_KINDS.get(key)
    if kind is None:
        raise FieldError(f"{path}: not a hint; there are {', '.join(HINT_KINDS)}")
    value, op, where = hints.raw(key), "==", path
    if isinstance(value, Mapping):
        condition = Fields(value, path)
        op, value, where = condition.choice("op", _OPERATORS), condition.raw("value"), f"{path}.value"
    if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or _negative(value))):
        words = {str: "a string", int: "a whole number of bytes", bool: "true or false"}[kind]
        raise FieldError(f"{where}: expected {words}")
    if kind is not int and op not in ("==", "!="):
        raise FieldError(f"{path}.op: {op} needs a number")
    assert isinstance(value, str | int)
    return Hint(key=key, op=op, value=value)


def _negative(value: object) -> bool:
    return isinstance(value, int) and value < 0


def _run(params: Fields) -> RunParams:
    drive = params.object("config_drive")
    assert drive is not None
    return RunParams(
        image_id=params.text("image_id", max_length=128),
        config_drive=_config_drive(drive),
        boot=params.choice("boot", ("auto", "kexec", "reboot"), "auto"),
    )


def _config_drive(drive: Fields) -> ConfigDrive:
    meta_data = drive.object("meta_data")
    assert meta_data is not None
    # The config drive's readers take it for the instance's identity and refuse a drive without one.
    meta_data.text("uuid", max_length=256)
    user_data = drive.raw("user_data")
    if user_data is not None and not isinstance(user_data, str):
        raise FieldError(f"{drive.path}.user_data: expected a string")
    return ConfigDrive(
        meta_data={name: meta_data.raw(name) for name in meta_data.names()},
        user_data=user_data,
        vendor_data=_json(drive, "vendor_data"),
        network_data=_json(drive, "network_data"),
        files=_files(drive),
    )


def _json(drive: Fields, name: str) -> Any:
    value = drive.raw(name)
    if value is not None and not isinstance(value, Mapping | str | list):
        raise FieldError(f"{drive.path}.{name}: expected an object, a list or a string")
    return value


def _files(drive: Fields) -> tuple[DriveFile, ...]:
    files = []
    for index, item in enumerate(drive.items("files", [], most=_MAX_FILES)):
        one = Fields(item, f"{drive.path}.files[{index}]")
        path = one.text("path", max_length=4096)
        if not path.startswith("/") or "\0" in path:
            raise FieldError(f"{one.path}.path: expected an absolute path")
        content = one.raw("content_b64")
        if not isinstance(content, str):
            raise FieldError(f"{one.path}.content_b64: expected base64 text")
        try:
            files.append(DriveFile(path=path, content=base64.b64decode(content, validate=True)))
        except ValueError as error:  # binascii.Error is one; letters beyond ASCII raise a plain one
            # Not the cause's own text: it may quote what it could not read.
            raise FieldError(f"{one.path}.content_b64: expected base64 text") from error
    return tuple(files)
