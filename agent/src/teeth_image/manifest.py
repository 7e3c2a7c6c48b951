"""An image's manifest: the digests of its chunks, and who vouches for them.

The file is JSON: ``{"manifest": {...}, "key": BASE64, "signature": BASE64}``, the last two only when it is
signed: the 32 bytes of an Ed25519 public key and the 64 of its signature (RFC 8032) over ``signed_bytes``.
Reading is strict: a member that nobody knows is refused, for somebody meant something by it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, ClassVar, Literal

from teeth_image.errors import ImageError
from teeth_protocol import strictjson
from teeth_protocol.fields import FieldError
from teeth_protocol.shape import NOT_NULL, Items, Range, Text, kind_of, read

# Two lists of 2^18 digests and one of lengths are 38 MB of JSON, and at most 200 MB of memory while they are
# read: an image of 1 TiB in chunks of 4 MiB. One of 20 GiB has less than 1 MB.
MAX_BYTES = 64 << 20
MAX_CHUNKS = 1 << 18
CHUNK_SIZE = 4 << 20
_MAX_VALUES = 3 * MAX_CHUNKS + 64
_CONTEXT = b"teeth-image-manifest/1\n"
_KEY, _SIGNATURE = 32, 64

Sha256 = Annotated[str, Text(pattern="[0-9a-f]{64}", words="64 hex digits")]
# "" for a chunk that is all zeros: nothing is to be read for it.
Sha256OrZeros = Annotated[str, Text(least=0, pattern="(?:[0-9a-f]{64})?", words='64 hex digits or ""')]
Digest = Annotated[
    str,
    Text(pattern="sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", words="sha256:HEX or sha512:HEX, lower case"),
]
# The largest integer that RFC 8785 writes.
Size = Annotated[int, Range(least=1, most=2**53 - 1)]
# A chunk is what is verified, and so held, at once.
ChunkSize = Annotated[int, Range(least=64 << 10, most=64 << 20)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is signed. Sizes in bytes.

    ``size``, ``digest`` and ``chunks`` (sha256 of each ``chunk_size`` bytes) are of what is fetched. The
    ``raw_`` ones are of the decompressed bytes, for qcow2 of the disk that it describes; in ``raw_chunks``,
    "" stands for a chunk of zeros. ``frames``: the compressed length of each zstd frame, where frame i
    holds raw chunk i exactly.
    """

    CLOSED: ClassVar[str] = "not a member of a manifest of version 1"

    version: Annotated[int, Range(least=1, most=1)] = 1
    name: Annotated[str, Text(most=256, pattern="[^\\x00-\\x1f\\x7f]+", words="a line of text")]
    kind: Literal["disk", "root"]
    format: Literal["raw", "qcow2", "tar"]
    compression: Literal["none", "zstd", "gzip", "xz"]
    architecture: Literal["x86_64", "aarch64", "any"]
    size: Size
    digest: Digest
    raw_size: Annotated[Size | None, NOT_NULL] = None
    raw_digest: Annotated[Digest | None, NOT_NULL] = None
    chunk_size: ChunkSize = CHUNK_SIZE
    chunks: Annotated[tuple[Sha256, ...], Items(least=1, most=MAX_CHUNKS)]
    raw_chunk_size: Annotated[ChunkSize | None, NOT_NULL] = None
    raw_chunks: Annotated[tuple[Sha256OrZeros, ...] | None, Items(least=1, most=MAX_CHUNKS), NOT_NULL] = None
    frames: Annotated[tuple[Size, ...] | None, Items(least=1, most=MAX_CHUNKS), NOT_NULL] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    CLOSED: ClassVar[str] = "not a member of a manifest file"

    manifest: Contents
    key: Annotated[Annotated[str, Text(most=64)] | None, NOT_NULL] = None
    signature: Annotated[Annotated[str, Text(most=128)] | None, NOT_NULL] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageManifest(Contents):
    """A manifest with the raw bytes of key and signature, both None if it is not signed.

    Nothing here verifies the signature: that is for whoever has the means, with ``signed_bytes``.
    """

    key: bytes | None = field(default=None)
    signature: bytes | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, data: bytes) -> ImageManifest:
        """Raises ImageError(image_manifest) for what is not a manifest that agrees with itself."""
        if len(data) > MAX_BYTES:
            raise _wrong(f"it has {len(data)} bytes, at most {MAX_BYTES} are allowed")
        try:
            found = read(_File, strictjson.loads(data, max_values=_MAX_VALUES), "file")
        except (FieldError, strictjson.JsonError) as error:
            raise _wrong(str(error)) from error
        if (found.key is None) != (found.signature is None):
            raise _wrong("key and signature belong together")
        return cls.of(
            found.manifest,
            key=None if found.key is None else _decode("key", found.key, _KEY),
            signature=None if found.signature is None else _decode("signature", found.signature, _SIGNATURE),
        )

    @classmethod
    def of(
        cls, contents: Contents, *, key: bytes | None = None, signature: bytes | None = None
    ) -> ImageManifest:
        """Raises ImageError(image_manifest) if the contents do not agree with themselves."""
        values = {one.name: getattr(contents, one.name) for one in fields(Contents)}
        made = cls(**values, key=key, signature=signature)
        _check_whole(made)
        return made

    def signed(self, *, key: bytes, signature: bytes) -> ImageManifest:
        """This manifest with raw key and signature over ``signed_bytes(self)``."""
        return replace(self, key=key, signature=signature)

    def dumps(self) -> bytes:
        """The file. ``parse`` gives the same manifest back."""
        whole: dict[str, object] = {"manifest": kind_of(Contents).write(self)}
        if self.key is not None and self.signature is not None:
            whole["key"] = base64.b64encode(self.key).decode()
            whole["signature"] = base64.b64encode(self.signature).decode()
        return _canonical(whole)

    @property
    def key_digest(self) -> str | None:
        """How a key is named: ``sha256:HEX`` of its raw bytes. None without one."""
        return None if self.key is None else "sha256:" + hashlib.sha256(self.key).hexdigest()

    def check(
        self,
        *,
        size: int,
        digest: str,
        format: str,
        kind: str,
        compression: str,
        raw_size: int | None = None,
        raw_digest: str | None = None,
    ) -> None:
        """It is of this image. Raises ImageError(image_manifest) naming what differs.

        ``raw_size`` and ``raw_digest`` count only where both sides say them.
        """
        pairs: tuple[tuple[str, object, object], ...] = (
            ("size", size, self.size),
            ("digest", digest.lower(), self.digest),
            ("format", format, self.format),
            ("kind", kind, self.kind),
            ("compression", compression, self.compression),
            ("raw_size", raw_size, self.raw_size),
            ("raw_digest", raw_digest.lower() if raw_digest else None, self.raw_digest),
        )
        for name, wanted, found in pairs:
            if wanted is not None and found is not None and wanted != found:
                # Digests of different kinds cannot be compared.
                if name.endswith("digest") and len(str(wanted)) != len(str(found)):
                    continue
                raise _wrong(f"its {name} is {found}, the image's is {wanted}")

    def chunk_length(self, index: int) -> int:
        """Of chunk ``index`` of what is fetched, in bytes."""
        return min(self.chunk_size, self.size - index * self.chunk_size)

    def raw_chunk_length(self, index: int) -> int:
        """Of raw chunk ``index``, in bytes; only with ``raw_chunks``."""
        assert self.raw_size is not None
        assert self.raw_chunk_size is not None
        return min(self.raw_chunk_size, self.raw_size - index * self.raw_chunk_size)


def signed_bytes(manifest: Contents) -> bytes:
    """What the signature is over: a word on what it is, and the contents as RFC 8785 writes them."""
    return _CONTEXT + _canonical(kind_of(Contents).write(manifest))


def _check_whole(one: ImageManifest) -> None:
    if len(one.chunks) != -(-one.size // one.chunk_size):
        raise _wrong(f"{len(one.chunks)} chunks of {one.chunk_size} bytes are not {one.size} bytes")
    if one.compression == "none" and one.format != "qcow2" and one.raw_size not in (None, one.size):
        raise _wrong(f"not compressed, but raw_size is {one.raw_size} and size {one.size}")
    if (one.raw_chunks is None) != (one.raw_chunk_size is None):
        raise _wrong("raw_chunks and raw_chunk_size belong together")
    if one.raw_chunks is not None and one.raw_chunk_size is not None:
        count = -(-(one.raw_size or 0) // one.raw_chunk_size)
        if len(one.raw_chunks) != count:
            raise _wrong(f"{len(one.raw_chunks)} raw_chunks do not fit raw_size {one.raw_size}")
    if one.frames is not None:
        _check_frames(one, one.frames)


def _check_frames(one: ImageManifest, frames: tuple[int, ...]) -> None:
    if one.compression != "zstd" or one.raw_chunks is None:
        raise _wrong("frames are of zstd and need raw_chunks")
    if len(frames) != len(one.raw_chunks):
        raise _wrong(f"{len(frames)} frames for {len(one.raw_chunks)} raw chunks")
    if sum(frames) > one.size:
        raise _wrong("the frames are longer than the image")


def _canonical(value: object) -> bytes:
    """RFC 8785 for what a manifest can hold: ASCII names, texts in UTF-8, integers up to 2^53."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _decode(name: str, text: str, length: int) -> bytes:
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong(f"{name}: not base64") from error
    if len(found) != length or base64.b64encode(found).decode() != text:
        raise _wrong(f"{name}: not the base64 text of {length} bytes")
    return found


def _wrong(what: str) -> ImageError:
    return ImageError(f"the image's manifest: {what}", code="image_manifest")
