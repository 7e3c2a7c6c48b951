"""The wire's methods, spelt as the contract spells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PING = "ping"
HANDSHAKE = "handshake"
ENROLL = "enroll"
LOG = "log"
TASK_STATUS = "task_status"
STATUS = "status"
INVENTORY = "inventory"
CANCEL_TASK = "cancel_task"
DISK_ERASE = "decom.disk_erase"
FIRMWARE_SECURE = "decom.firmware_secure"
QC = "decom.qc"
CACHE_IMAGES = "standbye.cache_images"
PREPARE_IMAGE = "standbye.prepare_image"
RUN_IMAGE = "standbye.run_image"

BOTH = "both"
AGENT = "agent"
ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """``asked_by``: which side says it. ``task``: it takes a ``task_id``, and goes on after its answer.

    ``destructive``: a machine that does it twice, or to the wrong device, has lost something.
    ``served``: this code's agent has it; the other names are known, and answered with unknown_method.
    """

    name: str
    asked_by: str
    task: bool = False
    destructive: bool = False
    before_handshake: bool = False
    served: bool = True


_ALL = (
    Method(name=PING, asked_by=BOTH, before_handshake=True),
    Method(name=HANDSHAKE, asked_by=AGENT, before_handshake=True),
    Method(name=ENROLL, asked_by=AGENT, before_handshake=True),
    Method(name=LOG, asked_by=AGENT),
    Method(name=TASK_STATUS, asked_by=AGENT),
    Method(name=STATUS, asked_by=ENDPOINT),
    Method(name=INVENTORY, asked_by=ENDPOINT),
    Method(name=CANCEL_TASK, asked_by=ENDPOINT),
    Method(name=DISK_ERASE, asked_by=ENDPOINT, task=True, destructive=True),
    Method(name=FIRMWARE_SECURE, asked_by=ENDPOINT, task=True, destructive=True, served=False),
    Method(name=QC, asked_by=ENDPOINT, task=True, served=False),
    Method(name=CACHE_IMAGES, asked_by=ENDPOINT, task=True),
    Method(name=PREPARE_IMAGE, asked_by=ENDPOINT, task=True, destructive=True),
    Method(name=RUN_IMAGE, asked_by=ENDPOINT, task=True, destructive=True),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}

# What may be said before the handshake is done.
UNAUTHENTICATED = frozenset(method.name for method in _ALL if method.before_handshake)
TASKS = tuple(method.name for method in _ALL if method.task and method.served)
