"""An endpoint's operator, as far as a transcript needs one: somebody who makes it ask its node."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from teeth.conformance.wrong import Wrong
from teeth.errors import TeethError

_LONGEST = 30.0  # for a request that is still under way when its transcript is over
# Make the endpoint ask its node for something: (node, method, task id, params). May block.
Ask = Callable[[str, str, str, dict[str, Any]], None]


class Asking(threading.Thread):
    """The request to the endpoint, beside the conversation: it may wait for an answer that we give."""

    def __init__(self, ask: Ask, arguments: tuple[str, str, str, dict[str, Any]]) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self._arguments = arguments
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._ask(*self._arguments)
        except Exception as error:  # told in finish(), in the thread that plays
            self.error = error

    def finish(self) -> None:
        self.join(_LONGEST)
        if self.error is not None:
            if isinstance(self.error, TeethError):
                raise Wrong(f"the endpoint could not be asked: {self.error}")
            raise self.error
