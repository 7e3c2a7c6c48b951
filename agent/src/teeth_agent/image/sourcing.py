"""Which source an image is taken from: the cache if it is there, else peers and servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from teeth_agent.image.fetch import Fetch
from teeth_agent.image.params import ImageSpec
from teeth_agent.image.source import Deadline, Source, SourceCache


@contextmanager
def open_source(image: ImageSpec, cache: SourceCache | None, *, deadline: Deadline) -> Iterator[Source]:
    """The image's bytes; stopped when the block is left. Raises AgentError if its manifest cannot be had.

    The manifest, if the image has one, is fetched first: see ``Source.manifest``.
    """
    network = Fetch(image, deadline=deadline)
    try:
        if cache is None:
            yield network
            return
        with cache.source(image, network.manifest, network) as cached:
            yield cached or network
    finally:
        network.stop()
