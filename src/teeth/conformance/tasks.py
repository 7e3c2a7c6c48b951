"""What an agent says of its tasks, over all its connections: the seed's rules for task_status."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from teeth.conformance.pattern import show
from teeth.conformance.wrong import Wrong

_TERMINAL = ("error", "complete")


@dataclass(slots=True)
class Tasks:
    """What an agent said of its tasks, over all its connections: task id -> its last word."""

    ended: dict[str, str] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)

    def said(self, params: dict[str, Any]) -> None:
        """Raises Wrong for a status that is not whole, or a word after the last one."""
        task_id = str(params.get("task_id"))
        _check_status(params)
        words = json.dumps(params)
        if task_id in self.acknowledged:
            raise Wrong(f"it said more of task {task_id} after its end was acknowledged: {show(params)}")
        if task_id in self.ended and words != self.ended[task_id]:
            raise Wrong(
                f"it gave task {task_id} another end",
                (f"first: {self.ended[task_id]}", f"then:  {words}"),
            )
        if params.get("state") in _TERMINAL:
            self.ended[task_id] = words

    def answered(self, params: dict[str, Any]) -> None:
        if params.get("state") in _TERMINAL:
            self.acknowledged.add(str(params.get("task_id")))


def _check_status(params: dict[str, Any]) -> None:
    """What the seed says of every task_status."""
    state = params.get("state")
    if not isinstance(params.get("task_id"), str) or state not in ("running", *_TERMINAL):
        raise Wrong(f"it sent a task_status without a task_id or a state: {show(params)}")
    if state == "running" and not {"eta", "percent"} <= set(params):
        raise Wrong(f"it sent a running status without eta and percent: {show(params)}")
    if state == "error" and (not isinstance(params.get("msg"), str) or not params["msg"]):
        raise Wrong(f"it sent an error status without a msg that a person can read: {show(params)}")
