"""Which source an image is taken from: the cache if it is there, else peers and servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from teeth_agent.errors import AgentError
from teeth_agent.image.fetch import Fetch
from teeth_agent.image.params import ImageSpec
from teeth_agent.image.source import Deadline, Source, SourceCache
from teeth_image.errors import ImageError
from teeth_image.manifest import ImageManifest


@contextmanager
def open_source(image: ImageSpec, cache: SourceCache | None, *, deadline: Deadline) -> Iterator[Source]:
    """The image's bytes; stopped when the block is left. Raises AgentError if its manifest cannot be had.

    The manifest, if the image has one, is fetched first: see ``Source.manifest``.
    """
    manifest = read_manifest(image, _manifest_bytes(image, cache, deadline))
    network = Fetch(image, manifest=manifest, deadline=deadline)
    try:
        if cache is None:
            yield network
            return
        with cache.source(image, manifest, network, deadline) as cached:
            yield cached or network
    finally:
        network.stop()


def fetch_manifest(image: ImageSpec, *, deadline: Deadline) -> bytes | None:
    """The image's manifest as its digest says; None for an image without. Raises as fetching does."""
    manifest = image.manifest
    if manifest is None:
        return None
    fetch = Fetch(
        ImageSpec(
            id=image.id,
            name=image.name,
            urls=manifest.urls,
            size=manifest.size,
            digest=manifest.digest,
            compression="none",
            raw_size=None,
            raw_digest=None,
            proxy=image.proxy,
        ),
        deadline=deadline,
    )
    try:
        return b"".join(bytes(block) for block in fetch)
    except AgentError as error:
        raise AgentError(f"the manifest of image {image.id}: {error}", code=error.code) from error
    finally:
        fetch.stop()


def read_manifest(image: ImageSpec, data: bytes | None) -> ImageManifest | None:
    """The manifest, which is of this image. Raises AgentError(image_manifest)."""
    if data is None:
        return None
    try:
        manifest = ImageManifest.parse(data)
        manifest.check(
            size=image.size,
            digest=image.digest,
            format=image.format,
            kind=image.kind,
            compression=image.compression,
            raw_size=image.raw_size,
            raw_digest=image.raw_digest,
        )
    except ImageError as error:
        raise AgentError(str(error), code=error.code) from error
    return manifest


def _manifest_bytes(image: ImageSpec, cache: SourceCache | None, deadline: Deadline) -> bytes | None:
    kept = cache.manifest(image) if cache is not None else None
    return fetch_manifest(image, deadline=deadline) if kept is None else kept
