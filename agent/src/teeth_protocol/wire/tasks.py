"""What is said of a task, whatever its method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from teeth_protocol.shape import REQUIRED, Forms, Range, Text
from teeth_protocol.wire.words import Eta, Id, Percent, Word

_STATES = Text(words="one of running, error, complete")
Seq = Annotated[int, Range(least=0, most=2**53)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Work goes on. ``eta`` in seconds, None when not known. ``seq`` None: the agent knows the seed alone."""

    task_id: Id
    state: Annotated[Literal["running"], _STATES, REQUIRED] = "running"
    seq: Seq | None = None
    percent: Percent | None = None
    eta: Eta | None = None
    step: Word = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A point of the work that the endpoint must have heard of, and may have to answer, before it goes on."""

    task_id: Id
    state: Annotated[Literal["running"], _STATES, REQUIRED] = "running"
    phase: Annotated[str, Text(most=64)]
    seq: Seq | None = None
    percent: Percent | None = None
    eta: Eta | None = None
    step: Word = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The end, without success. ``detail``: what there is to say beside it, such as every unit's record."""

    task_id: Id
    state: Annotated[Literal["error"], REQUIRED] = "error"
    msg: Annotated[str, Text(least=0, most=4096, cut=True)]
    code: Word = "unspecified"
    seq: Seq | None = None
    detail: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """The end, with success."""

    task_id: Id
    state: Annotated[Literal["complete"], REQUIRED] = "complete"
    seq: Seq | None = None
    percent: Percent | None = None
    eta: Eta | None = None
    result: Mapping[str, Any] | None = None


TaskStatus = Running | Phase | Failed | Complete
TASK_STATUS: Forms[TaskStatus] = Forms(
    title="TaskStatus",
    text="Progress, a phase, or the end.",
    cases=(("state", "error", Failed), ("state", "complete", Complete), ("phase", None, Phase)),
    otherwise=Running,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    """The answer to the phase ``prepared``. ``retry_after``: not yet, ask again in so many seconds."""

    go: bool
    retry_after: Annotated[float, Range(least=0, most=300)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What became of a status."""

    verdict: Literal["applied", "repeated", "stale"] | None = None


TASK_STATUS_ANSWER: Forms[Go | Heard] = Forms(
    title="TaskStatusAnswer",
    text="To the phase prepared: whether to go on. To everything else: what became of it.",
    cases=(("go", None, Go),),
    otherwise=Heard,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTask:
    """The task stops at its next safe point."""

    task_id: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A task as the agent has it now."""

    task_id: Id
    state: Literal["running", "error", "complete"]
    percent: Percent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A task command is accepted, or was before: the task's present state. A refusal is an error response."""

    task_id: Id
    state: Literal["running", "error", "complete"]
    percent: Percent
