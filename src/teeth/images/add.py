"""Adding an image: read once, looked at, packed, signed, and only then there."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from teeth.images import origin, qcow2, spool, unpack
from teeth.images.errors import BadImage, plain_errors
from teeth.images.look import Look, look_at
from teeth.images.pack import LEVEL, Packed, pack
from teeth.images.store import CONTENT, MANIFEST, ImageStore, StoredImage, check_name, signing_key
from teeth.signing import public_raw
from teeth_image.manifest import CHUNK_SIZE, Contents, ImageManifest, signed_bytes
from teeth_image.qcow2 import MAGIC as QCOW2

MAX_SIZE = 64 << 30
Step = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be added. ``source``: a path or a URL; ``digest`` of what lies there, as it lies there.

    ``kind``, ``architecture``: what it must be. ``force``: keep it although it would not start. ``max_size``
    in bytes, of what is fetched and of the disk that it becomes.
    """

    source: str
    name: str | None = None
    kind: str | None = None
    architecture: str | None = None
    digest: str | None = None
    force: bool = False
    max_size: int = MAX_SIZE
    level: int = LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """``fresh``: False when the same content was there before, under the name that ``image`` says."""

    image: StoredImage
    fresh: bool


def add(order: Order, data: Path, *, progress: origin.Progress, say: Step = lambda _: None) -> Added:
    """Add one image to the store of ``data``. Raises TeethError in one line, and then nothing is kept."""
    name = check_name(order.name or default_name(order.source))
    if order.digest is not None:
        origin.check_digest(order.digest)
    if not origin.is_url(order.source):
        next(origin.file_blocks(Path(order.source), lambda *_: None))  # what is not there makes no folders
    store, key = ImageStore(data), signing_key(data)
    with plain_errors(origin.shown(order.source)), store.workplace() as work:
        raw = work / "raw"
        with (work / CONTENT).open("xb") as stream:
            packed = pack(_chunks(order, work, raw, progress), stream, level=order.level)
            stream.flush()
            os.fsync(stream.fileno())
        say("looking at what is in it")
        found = look_at(raw, kind=order.kind, architecture=order.architecture)
        _require_startable(found, order)
        manifest = _contents(name, found, packed)
        signed = ImageManifest.of(manifest, key=public_raw(key), signature=key.sign(signed_bytes(manifest)))
        text = signed.dumps()
        _write(work / MANIFEST, text)
        (work / CONTENT).chmod(0o644)
        raw.unlink()
        made = _about(order, name, found, packed, text, signed.key_digest or "")
        image = store.publish(work, made)
    return Added(image=image, fresh=image is made)


def default_name(source: str) -> str:
    """Of the file, without what says how it is packed."""
    path = urlsplit(source).path if origin.is_url(source) else source
    name = Path(path).name
    for ending in (".zst", ".gz", ".xz", ".raw", ".img", ".qcow2", ".tar"):
        name = name.removesuffix(ending)
    return name


def _chunks(order: Order, work: Path, raw: Path, progress: origin.Progress) -> Iterator[bytes]:
    """The raw image in chunks, which lies in ``raw`` when they have ended."""
    blocks = origin.digested(_blocks(order, progress), order.digest, origin.shown(order.source))
    head, blocks = _peek(blocks, unpack.HEAD)
    unpacked = spool.bounded(unpack.unpacked(blocks, unpack.compression_of(head)), order.max_size)
    head, unpacked = _peek(unpacked, 512)
    if not head:
        raise BadImage("the image is empty")
    if head[: len(QCOW2)] != QCOW2:
        yield from spool.spooled(spool.in_chunks(unpacked), raw)
        return
    packed = work / "qcow2"
    for _ in spool.spooled(spool.in_chunks(unpacked), packed):
        pass
    qcow2.to_raw(packed, raw, most=order.max_size)
    packed.unlink()
    yield from spool.read_chunks(raw)


def _blocks(order: Order, progress: origin.Progress) -> Iterator[bytes]:
    if origin.is_url(order.source):
        vouched = order.digest is not None
        return origin.Download(order.source, most=order.max_size, vouched=vouched, progress=progress).blocks()
    return origin.file_blocks(Path(order.source), progress)


def _peek(blocks: Iterator[bytes], count: int) -> tuple[bytes, Iterator[bytes]]:
    """At least ``count`` bytes of the front (fewer where there are no more), and all of it again."""
    first: list[bytes] = []
    while sum(map(len, first)) < count and (block := next(blocks, None)) is not None:
        first.append(block)
    return b"".join(first)[:count], itertools.chain(first, blocks)


def _require_startable(found: Look, order: Order) -> None:
    if not found.problems:
        return
    if not order.force:
        raise BadImage(
            f"{origin.shown(order.source)} would not start: {'; '.join(found.problems)}",
            hint="--force keeps it all the same",
        )
    found.notes[:0] = [f"added by force: {problem}" for problem in found.problems]


def _contents(name: str, found: Look, packed: Packed) -> Contents:
    return Contents(
        name=name,
        kind=found.kind,  # type: ignore[arg-type]
        format=found.format,  # type: ignore[arg-type]
        compression="zstd",
        architecture=found.architecture,  # type: ignore[arg-type]
        size=packed.size,
        digest=f"sha256:{packed.digest}",
        raw_size=packed.raw_size,
        raw_digest=f"sha256:{packed.raw_digest}",
        chunk_size=CHUNK_SIZE,
        chunks=packed.chunks,
        raw_chunk_size=CHUNK_SIZE,
        raw_chunks=packed.raw_chunks,
        frames=packed.frames,
    )


def _about(order: Order, name: str, found: Look, packed: Packed, manifest: bytes, key: str) -> StoredImage:
    return StoredImage(
        id=f"sha256-{packed.digest}",
        name=name,
        kind=found.kind,
        format=found.format,
        compression="zstd",
        architecture=found.architecture,
        size=packed.size,
        digest=f"sha256:{packed.digest}",
        raw_size=packed.raw_size,
        raw_digest=f"sha256:{packed.raw_digest}",
        manifest_size=len(manifest),
        manifest_digest=f"sha256:{hashlib.sha256(manifest).hexdigest()}",
        key=key,
        added=time.time(),
        source=origin.shown(order.source),
        boot=found.boot,
        kernel=found.kernel,
        notes=tuple(found.notes),
    )


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
