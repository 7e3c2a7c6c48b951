"""How many images leave at the same time: a fleet is served whole images, some machines after others."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

# Machines that were refused together must not come back together.
_WAIT = (3, 20)
_draw = random.SystemRandom().randint


class Busy(Exception):
    """All places are taken; ``retry_after`` in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many images are on their way")
        self.retry_after = retry_after


class Transfers:
    """Places for transfers of images, ``most`` at a time. For one event loop."""

    def __init__(self, most: int, *, draw: Callable[[int, int], int] = _draw) -> None:
        self.most = most
        self.running = 0
        self._draw = draw

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold one while the block runs. Raises Busy."""
        if self.running >= self.most:
            raise Busy(self._draw(*_WAIT))
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
