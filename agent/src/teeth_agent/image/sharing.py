"""Which of its cached images this machine gives to others, and for how long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from teeth_agent.errors import AgentError
from teeth_agent.image.chunks import ChunkDigests
from teeth_agent.image.held import HeldImage, VerifiedChunks

if TYPE_CHECKING:
    from teeth_agent.image.share import ImageShare

_log = logging.getLogger(__name__)

# The open file of the image of this digest ("sha256:HEX"), None if it is not held whole any more.
Lend = Callable[[str], AbstractContextManager[int | None]]


class Sharing:
    """Made once for a boot; any thread may use it. ``address``: see ImageShare, None if there is none."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._server: ImageShare | None = None
        self._guard = threading.Lock()
        self._images: dict[str, VerifiedChunks] = {}

    def share(self, images: Mapping[str, ChunkDigests], lend: Lend) -> str:
        """Give these images (by digest) and no others from now on; returns ``http://HOST:PORT``.

        Only with the digests of their chunks, and only sha256: by that name others ask. Raises
        AgentError(share_failed).
        """
        # An HTTP server is not needed before a machine has dialled home, and takes long to import.
        from teeth_agent.image.share import ImageShare

        if self._address is None:
            raise AgentError("this machine has no address to share images at", code="share_failed")
        with self._guard:
            server = self._server = self._server or ImageShare(self._address)
            self._images = {
                # What was verified in this boot stays so.
                digest: self._images.get(digest) or VerifiedChunks(chunks)
                for digest, chunks in images.items()
                if digest.startswith("sha256:")
            }

        @contextmanager
        def find(name: str) -> Iterator[HeldImage | None]:
            digest = f"sha256:{name}"
            with self._guard:
                chunks = self._images.get(digest)
            if chunks is None:
                yield None
                return
            with lend(digest) as descriptor:
                yield None if descriptor is None else HeldImage(descriptor=descriptor, chunks=chunks)

        return server.open(find)

    def close(self) -> None:
        """Share nothing any more: before this machine's disks are changed or it leaves. Waits a little for
        the files to be let go."""
        with self._guard:
            self._images = {}
            server = self._server
        if server is not None and not server.close():
            _log.warning("a transfer of a shared image does not end")
