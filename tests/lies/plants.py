"""Weaknesses to be put into the product, one at a time: a campaign that does not find them finds nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from unittest import mock

from teeth_agent.erase import canary, record


@contextmanager
def _no_canaries() -> Iterator[None]:
    """Canaries are planted and never looked for."""
    with mock.patch.object(canary.Canaries, "survivors", return_value=()):
        yield


@contextmanager
def _no_proof() -> Iterator[None]:
    """Whatever was found out, all proofs hold."""
    with mock.patch.object(record.Proof, "missing", return_value=[]):
        yield


PLANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "": nullcontext,
    "no-canaries": _no_canaries,
    "no-proof": _no_proof,
}
