"""Every erase that ends is certified, at once or as soon as it can be."""

from __future__ import annotations

import logging

from teeth.endpoint.certify import CertificateBook
from teeth.endpoint.events import Subscription, TaskChanged
from teeth.endpoint.logs import note
from teeth.endpoint.stores import Stores
from teeth_protocol.methods import DISK_ERASE

_log = logging.getLogger(__name__)


class Certifier:
    """Keeps the book up to date: ``follow`` as tasks end, ``certify`` whenever somebody asks."""

    def __init__(self, db: Stores, book: CertificateBook) -> None:
        self._db = db
        self._book = book

    async def certify(self) -> None:
        """Issue what is missing. Raises what the store raises; nothing is lost by that, only late."""
        while issued := await self._db.call(self._book.issue_missing):
            note(_log, logging.INFO, "certificates issued", count=issued)

    async def follow(self, watcher: Subscription) -> None:
        """Certify each erase that ends, until the subscription is closed."""
        async for event in watcher:
            if isinstance(event, TaskChanged) and event.task.state.over and event.task.method == DISK_ERASE:
                try:
                    await self.certify()
                except Exception:  # a full disk, say: the endpoint's regular work tries again
                    _log.exception("an erase could not be certified yet")
