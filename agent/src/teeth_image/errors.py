"""The one error of this package; each end turns it into its own kind."""

from __future__ import annotations


class ImageError(Exception):
    """What is wrong with an image: a message for people and a stable ``code`` for programs."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code
