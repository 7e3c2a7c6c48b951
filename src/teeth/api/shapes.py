"""The JSON of the operator's door. Times are seconds since the epoch, eta is seconds or null."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from teeth.endpoint.taskstate import TaskState

ID = r"^[A-Za-z0-9._:-]{1,128}$"
_METHOD = r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$"

TaskId = Annotated[str, Field(pattern=ID, description="1-128 of A-Z a-z 0-9 . _ : -")]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", from_attributes=True, frozen=True)


class NodeBrief(Shape):
    """A machine. ``held``: nobody knows what a task did to its drives, so nothing more is done to them until
    a person settles that task.

    ``address``, ``ramdisk`` and ``methods`` are told at the handshake: null while it is not connected, or
    when its agent does not say.
    """

    id: str
    connected: bool
    held: bool
    address: str | None
    agent: str
    ramdisk: str | None
    boot_id: str
    macs: list[str]
    first_seen: float
    last_seen: float
    open_tasks: list[str]
    methods: list[str] | None


class NodePage(Shape):
    """``next``: give it as ``after`` for the rest; null on the last page."""

    nodes: list[NodeBrief]
    next: str | None


class NodeInventory(Shape):
    id: str
    inventory: dict[str, Any] | None


class NodeStatus(Shape):
    """The agent's own answer, of now."""

    id: str
    status: dict[str, Any]


class Record(Shape):
    """One record of a node's log. ``record`` as the agent sent it, secrets taken out."""

    id: int
    received: float
    record: dict[str, Any]


class LogPage(Shape):
    """In order of arrival. ``next``: give it as ``after`` for what comes behind; null while there is none."""

    logs: list[Record]
    next: int | None


class TaskBrief(Shape):
    """``held``: it may prepare but not leave, until it is released."""

    task_id: str
    node: str
    method: str
    state: TaskState
    held: bool
    percent: float
    eta: float | None
    step: str
    phase: str
    code: str
    msg: str
    cancel_asked: float | None
    created: float
    updated: float
    finished: float | None


class TaskFull(TaskBrief):
    """``params`` and ``result`` without secrets; of an ended task, ``result`` is what its agent said last."""

    boot_id: str | None
    awaits_landing: bool
    params: dict[str, Any]
    result: dict[str, Any] | None


class TaskPage(Shape):
    """Newest first. ``next``: give it as ``after`` for older ones; null on the last page."""

    tasks: list[TaskBrief]
    next: str | None


class TaskEvent(Shape):
    """One entry of a task's history. ``fields``: what the method reports beside, such as bytes_per_second."""

    id: int
    task_id: str
    at: float
    state: TaskState
    percent: float
    eta: float | None
    step: str
    phase: str
    code: str
    msg: str
    fields: dict[str, Any]


class TaskHistory(Shape):
    """Of plain progress only the newest entries are kept."""

    task: TaskFull
    events: list[TaskEvent]
    next: int | None


class TaskOrder(Shape):
    """``task_id`` makes the order repeatable: the same id asks nothing twice. ``hold``: prepare, but wait for
    a release. ``image``: the id of an image of this endpoint, for standbye.prepare_image, in place of
    ``params.image``. ``report_files``: what the landed system is to report (standbye.run_image), by
    absolute paths."""

    node: TaskId
    method: Annotated[str, Field(pattern=_METHOD, max_length=64)]
    params: dict[str, Any] = {}
    task_id: TaskId | None = None
    hold: bool = False
    image: Annotated[str, Field(max_length=128)] | None = None
    report_files: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=8)] = []


class Settlement(Shape):
    """What a person says of a task that nobody knows the end of."""

    state: Literal["complete", "error"]
    msg: Annotated[str, Field(min_length=1, max_length=1024, description="why, for those who read it later")]


class GrantOrder(Shape):
    """With both ``mac`` and ``uuid`` (the SMBIOS one) the machine must show both. ``any_machine``: whoever
    asks first, for want of both."""

    mac: Annotated[str, Field(max_length=32)] | None = None
    uuid: Annotated[str, Field(max_length=64)] | None = None
    any_machine: bool = False
    ttl: Annotated[float, Field(gt=0, le=86400, description="seconds")] = 900.0


class GrantFacts(Shape):
    """``node_id`` and ``boot_id``: who used it."""

    id: str
    mac: str | None
    uuid: str | None
    state: Literal["open", "burnt", "expired"]
    created: float
    expires: float
    burnt: float | None
    node_id: str | None
    boot_id: str | None


class GrantMade(GrantFacts):
    """``token`` and the kernel's command line (which holds it) are null unless they were asked for."""

    token: str | None
    kernel_command_line: str | None


class GrantPage(Shape):
    grants: list[GrantFacts]
    next: str | None


class StoredFacts(Shape):
    """What `teeth image add` found. ``boot``: firmware modes (bios, uefi) in which it starts; ``notes``: what
    could not be found out; ``key``: the digest of the key that signed its manifest."""

    name: str
    kind: str
    format: str
    architecture: str
    size: int
    raw_size: int
    raw_digest: str
    boot: list[str]
    kernel: str
    notes: list[str]
    key: str
    added: float
    source: str


class ImageFacts(Shape):
    """``params``: the ``image`` member of a standbye.prepare_image. ``about``: null for an image that the
    endpoint was started with."""

    id: str
    params: dict[str, Any]
    about: StoredFacts | None


class ImageList(Shape):
    images: list[ImageFacts]


class CertificateFacts(Shape):
    """``outcome`` and ``grade`` as the endpoint takes them: what a record does not prove has failed.
    ``serial``: null where no drive's record came home."""

    sequence: int
    task_id: str
    node: str
    serial: str | None
    outcome: str
    grade: str | None
    issued: float
    digest: str


class SealedCertificate(CertificateFacts):
    """``sealed``: the signed line itself; keep it byte for byte."""

    sealed: str


class CertificatePage(Shape):
    """``next``: give it as ``after`` for those behind; null on the last page."""

    certificates: list[CertificateFacts]
    next: int | None


class CertificateKey(Shape):
    """An Ed25519 public key."""

    pem: str


class Done(Shape):
    """It was done, and there is nothing to say of it."""

    done: Literal[True] = True
