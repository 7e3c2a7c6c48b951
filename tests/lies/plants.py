"""Weaknesses to be put into the product, one at a time: a campaign that does not find them finds nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from unittest import mock

from teeth_agent.erase import canary, expect, hidden, readback, record, unitrun

_YES = property(lambda self: True)


@contextmanager
def _no_proof() -> Iterator[None]:
    """Whatever was found out, all proofs hold."""
    with mock.patch.object(record.Proof, "missing", return_value=[]):
        yield


@contextmanager
def _no_reading() -> Iterator[None]:
    """Neither canaries nor the read-back are looked at: the drive's own word is believed."""
    with (
        mock.patch.object(unitrun.UnitRun, "_count_survivors", _count_none),
        mock.patch.object(readback.Readback, "holds", _YES),
        mock.patch.object(expect.Reading, "holds", _YES),
        mock.patch.object(canary, "look_again", return_value=_NOTHING_CAME),
    ):
        yield


@contextmanager
def _no_second_look() -> Iterator[None]:
    """Nothing is written to an erased drive to see what comes back with it."""
    with mock.patch.object(canary, "look_again", return_value=_NOTHING_CAME):
        yield


@contextmanager
def _no_opening() -> Iterator[None]:
    """Hidden ends and detached namespaces are left alone, and no proof asks for them."""
    with (
        mock.patch("teeth_agent.erase.reach._open_ends", return_value=[]),
        mock.patch("teeth_agent.erase.reach.attach_detached", return_value=[]),
        mock.patch.object(hidden.Hidden, "holds", _YES),
    ):
        yield


@contextmanager
def _no_rescue() -> Iterator[None]:
    """What an interrupted erase has left is not looked for when the agent starts."""
    with mock.patch("lies.agent.look_over", return_value=[]):
        yield


def _count_none(run: unitrun.UnitRun, planted: list[canary.Canaries]) -> None:
    run._proof.survived = 0


_NOTHING_CAME = canary.SecondLook(written=1, neighbours=0, returned=())
PLANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "": nullcontext,
    "no-proof": _no_proof,
    "no-reading": _no_reading,
    "no-second-look": _no_second_look,
    "no-opening": _no_opening,
    "no-rescue": _no_rescue,
}
