"""Every message by its method. Imports them all: for the endpoint, for tests and for the schemas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from teeth_protocol import methods
from teeth_protocol.shape import Forms
from teeth_protocol.wire import decom, erase, machine, session, standbye, tasks

Shape = type[Any] | Forms[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """``params`` and ``result`` of a command; ``outcome``: a task's result, as its last status carries it."""

    params: Shape
    result: Shape
    outcome: Shape | None = None


def _task(params: Shape, outcome: Shape) -> Shapes:
    return Shapes(params=params, result=tasks.Accepted, outcome=outcome)


SHAPES: Mapping[str, Shapes] = {
    methods.PING: Shapes(params=session.Echo, result=session.Echo),
    methods.HANDSHAKE: Shapes(params=session.Handshake, result=session.Welcome),
    methods.ENROLL: Shapes(params=session.ENROLL, result=session.ENROLLED),
    methods.LOG: Shapes(params=session.Log, result=session.Nothing),
    methods.TASK_STATUS: Shapes(params=tasks.TASK_STATUS, result=tasks.TASK_STATUS_ANSWER),
    methods.STATUS: Shapes(params=session.Nothing, result=session.Status),
    methods.INVENTORY: Shapes(params=session.Nothing, result=machine.Inventory),
    methods.CANCEL_TASK: Shapes(params=tasks.CancelTask, result=tasks.TaskState),
    methods.DISK_ERASE: _task(erase.DiskErase, erase.ERASE_RESULT),
    methods.FIRMWARE_SECURE: _task(decom.FirmwareSecure, decom.FirmwareResult),
    methods.QC: _task(decom.QualityCheck, decom.Checked),
    methods.CACHE_IMAGES: _task(standbye.CacheImages, standbye.Cached),
    methods.PREPARE_IMAGE: _task(standbye.PrepareImage, standbye.Prepared),
    methods.RUN_IMAGE: _task(standbye.RunImage, standbye.Leaving),
}
