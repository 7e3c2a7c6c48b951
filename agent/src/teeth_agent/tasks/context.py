"""What every task may know about the machine it runs on, and what tasks leave for each other."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from teeth_agent.errors import AgentError
from teeth_agent.image.cache.cache import ImageCache
from teeth_agent.image.cache.mounts import SystemMounts
from teeth_agent.image.sharing import Sharing
from teeth_protocol import methods


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDisk:
    """An image that was written to a disk and read back: what run_image may start."""

    image_id: str
    identity: str
    digest: str


class SharedState:
    """Facts that hold for this boot. Any thread may ask and tell.

    A disk's identity is its WWN, where it has none its serial number, else its name and diskseq.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._zero: set[str] = set()
        self._prepared: dict[str, PreparedDisk] = {}

    def mark_zero(self, identity: str) -> None:
        """The whole disk was read back and is zero; nothing has been written since."""
        with self._lock:
            self._zero.add(identity)
            self._prepared.pop(identity, None)

    def is_zero(self, identity: str) -> bool:
        with self._lock:
            return identity in self._zero

    def clear_zero(self, identity: str) -> None:
        """To be called before the first byte is written to the disk."""
        with self._lock:
            self._zero.discard(identity)
            self._prepared.pop(identity, None)

    def set_prepared(self, fact: PreparedDisk) -> None:
        """The disk holds this image, verified. Holds until something else is written to it."""
        with self._lock:
            self._prepared[fact.identity] = fact

    def prepared(self, image_id: str) -> PreparedDisk | None:
        """The disk prepared last with this image."""
        with self._lock:
            found = [fact for fact in self._prepared.values() if fact.image_id == image_id]
        return found[-1] if found else None


class Scope(enum.Enum):
    """What a task will lay hands on, as far as its command tells."""

    NOTHING = "nothing"  # it only looks
    SOME = "some"  # disks that it chooses, and claims once it has
    MACHINE = "machine"


def scope_of(method: str, params: Mapping[str, Any]) -> Scope:
    """Whatever does not plainly say less is after the whole machine."""
    if method in (methods.PREPARE_IMAGE, methods.CACHE_IMAGES):
        return Scope.SOME
    if method == methods.DISK_ERASE:
        if params.get("plan") is True:
            return Scope.NOTHING
        if params.get("allow") or params.get("exclude"):
            return Scope.SOME
    return Scope.MACHINE


@dataclass(slots=True)
class _Holder:
    method: str
    scope: Scope
    devices: set[str] = field(default_factory=set)


class Claims:
    """Which running task has which device: two that would touch one device never run at once.

    A device is named by its identity (see SharedState). Any thread may ask. Every refusal is an
    AgentError(device_busy) that names the other task.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[str, _Holder] = {}

    def enter(self, task_id: str, method: str, scope: Scope) -> None:
        """A task is about to start. Raises AgentError(device_busy) when it and another would surely meet."""
        with self._lock:
            for other, holder in self._holders.items():
                if _meet(scope, holder.scope):
                    raise AgentError(
                        f"task {other} ({holder.method}) is using this machine's disks", code="device_busy"
                    )
            self._holders[task_id] = _Holder(method, scope)

    def claim(self, task_id: str, devices: Iterable[str]) -> None:
        """Before a task touches them, all or none. Raises AgentError(device_busy)."""
        wanted = set(devices)
        with self._lock:
            for other, holder in self._holders.items():
                shared = sorted(wanted & holder.devices)
                if other != task_id and shared:
                    raise AgentError(
                        f"task {other} ({holder.method}) is using {shared[0]}", code="device_busy"
                    )
            if task_id in self._holders:
                self._holders[task_id].devices |= wanted

    def leave(self, task_id: str) -> None:
        """A task is over."""
        with self._lock:
            self._holders.pop(task_id, None)


def _meet(one: Scope, other: Scope) -> bool:
    return Scope.NOTHING not in (one, other) and Scope.MACHINE in (one, other)


def _claim_nothing(devices: Iterable[str]) -> None:
    """The claim of a task that runs alone."""


def _memory_only() -> ImageCache:
    """The cache of a machine without a partition for it."""
    return ImageCache(look=lambda: (), mounts=SystemMounts())


def _wait_for_nothing(seconds: float) -> None:
    """The wait of a task that runs alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """``sysfs_root``: where /sys and /proc are found; ``boot_id``: the kernel's, new at every boot.

    ``claim``: to be called with the identities of all devices before the first of them is changed; raises
    AgentError(device_busy) when another task has one. ``drives_free`` waits so many seconds at most until
    nothing else of this agent is at the drives. ``cache``: this machine's images; ``sharing``: of them,
    those that others may have; ``image_key``: see Config.
    """

    boot_id: str
    sysfs_root: Path = Path("/")
    state: SharedState = field(default_factory=SharedState)
    claim: Callable[[Iterable[str]], None] = _claim_nothing
    drives_free: Callable[[float], object] = _wait_for_nothing
    cache: ImageCache = field(default_factory=_memory_only)
    image_key: str | None = None
    sharing: Sharing = field(default_factory=Sharing)
