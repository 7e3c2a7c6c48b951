"""What must hold, looked at whenever something is said, kept or done, and once more at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from teeth.endpoint.events import TaskChanged
from teeth.endpoint.identity import PeerIdentity
from teeth.endpoint.taskstate import Task, TaskState, json_digest
from teeth_protocol import methods

if TYPE_CHECKING:
    from sim.machine import Machine
    from sim.world import World

FORGED = "forged"
_ENDS = ("complete", "error")
_TASKS = (methods.DISK_ERASE, methods.PREPARE_IMAGE, methods.RUN_IMAGE)


class Checks:
    """Collects what does not hold as (invariant, one line)."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.violations: list[tuple[str, str]] = []
        self.watched: dict[str, int] = {}  # task -> newest revision that a watcher saw
        self._percents: dict[str, float] = {}
        self._commands: dict[tuple[int, bool, str], tuple[str, Mapping[str, Any]]] = {}
        self._ends_seen: dict[str, str] = {}
        self._ends_said: dict[tuple[str, str], str] = {}  # (boot, task) -> the agent's last word on it
        self._acked: dict[str, tuple[int, str]] = {}  # task -> what was acknowledged: seq, an end's digest
        self.accepted: dict[str, str] = {}  # tasks that an operator was told of -> method
        self.messages = 0

    def broken(self, invariant: str, line: str) -> None:
        if len(self.violations) < 20:
            self.violations.append((invariant, line))
        self._world.trace("BROKEN", f"{invariant}: {line}")

    # --- the endpoint's disk

    def kept(self, old: Task | None, new: Task) -> None:
        """A task's row is being written."""
        self._world.trace("keep", f"{new.task_id} {new.state} {new.percent:g}% seq {new.seq} {new.code}")
        if new.code == FORGED:
            self._authority(new)
        if old is None:
            return
        if old.state.over:
            self.broken("one end", f"{old.task_id} was {old.state} and became {new.state}")
        if new.percent < old.percent:
            self.broken("progress", f"{old.task_id} went from {old.percent:g} to {new.percent:g}")
        if new.seq < old.seq or new.revision <= old.revision:
            self.broken("order", f"{old.task_id} went back in seq or revision")
        if new.state is TaskState.QUEUED and old.state is not TaskState.QUEUED:
            self.broken("one way", f"{old.task_id} was {old.state} and is queued again")

    def _authority(self, task: Task) -> None:
        if self._world.forged_is_legal(task):
            return
        self.broken("authority", f"{task.task_id} became {task.state} by a stranger's word")

    # --- the wire, at the endpoint's side

    def said(self, session: int, node: str, outgoing: bool, message: Mapping[str, Any]) -> None:
        self.messages += 1
        if self._world.tracing:
            arrow = ">" if outgoing else "<"
            self._world.trace("wire", f"#{session} {arrow} {json.dumps(message, sort_keys=True)}")
        identity = message.get("id")
        if not isinstance(identity, str):
            return
        method = message.get("method")
        if isinstance(method, str):
            params = message.get("params")
            shown: Mapping[str, Any] = params if isinstance(params, Mapping) else {}
            self._commands[(session, outgoing, identity)] = (method, shown)
            if outgoing:
                self._commanded(session, method, shown)
            elif method == methods.TASK_STATUS and shown.get("state") in _ENDS:
                self._ended(session, shown)
            elif method == methods.ENROLL and node:
                self._world.happened("renewal")
            return
        asked = self._commands.pop((session, not outgoing, identity), None)
        if asked is None or "result" not in message:
            return
        if outgoing and asked[0] == methods.TASK_STATUS:
            self._acknowledged(asked[1], message["result"])
        elif not outgoing and asked[0] in _TASKS:
            self._accepted(session, asked[1])

    def _commanded(self, session: int, method: str, params: Mapping[str, Any]) -> None:
        identity = self._world.endpoint.identities.get(session)
        if identity is None and method != methods.PING:
            self.broken("authority", f"a stranger was told {method}")
        if method in _TASKS and params.get("plan") is not True:
            for other in self._world.endpoint.disk.tasks.values():
                doubt = other.state is TaskState.UNKNOWN and other.params.get("plan") is not True
                if doubt and other.task_id != params["task_id"]:
                    self.broken("held", f"{params['task_id']} was sent while {other.task_id} is unknown")

    def _ended(self, session: int, status: Mapping[str, Any]) -> None:
        """An agent repeats an end word for word; only one that could not keep it may not know it any more."""
        identity = self._world.endpoint.identities.get(session)
        if identity is None or status.get("code") == FORGED or self._world.counts["journal_full"]:
            return
        said = json.dumps(status)
        first = self._ends_said.setdefault((identity.boot_id, str(status.get("task_id"))), said)
        if said != first:
            self.broken("word for word", f"{status.get('task_id')} ended as {first} and then as {said}")

    def _acknowledged(self, status: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """The endpoint is about to say that it has this: then it is on its disk."""
        kept = self._world.endpoint.disk.tasks.get(str(status.get("task_id")))
        if kept is None:
            self.broken("acknowledged", f"{status.get('task_id')}: acknowledged and not kept")
        elif status.get("state") in _ENDS:
            digest = json_digest(dict(status))
            if result.get("verdict") in ("applied", "repeated"):
                self._acked[kept.task_id] = (int(status.get("seq", 0)), digest)
            if kept.final_digest != digest and result.get("verdict") != "stale":
                self.broken("acknowledged", f"{kept.task_id}: an end was acknowledged and is not kept")
        elif result.get("verdict") == "applied" and kept.seq < int(status.get("seq", 0)):
            self.broken("acknowledged", f"{kept.task_id}: seq {status.get('seq')} acknowledged and not kept")
        elif result.get("verdict") == "applied":
            self._acked.setdefault(kept.task_id, (0, ""))
            if not self._acked[kept.task_id][1]:
                self._acked[kept.task_id] = (int(status.get("seq", 0)), "")

    def still_kept(self) -> None:
        """What was acknowledged is on the endpoint's disk, whatever happened to its process."""
        for task_id, (seq, digest) in self._acked.items():
            kept = self._world.endpoint.disk.tasks.get(task_id)
            if kept is None or kept.seq < seq or (digest and kept.final_digest != digest):
                self.broken("acknowledged", f"{task_id}: seq {seq} was acknowledged and is lost")

    def _accepted(self, session: int, params: Mapping[str, Any]) -> None:
        """The agent has said that it took a task: then it is in its journal, as long as it is that boot."""
        identity: PeerIdentity | None = self._world.endpoint.identities.get(session)
        memory = self._world.machine.memory
        if identity is None or identity.boot_id != memory.boot_id or session in self._world.hostile_sessions:
            return
        task_id = params.get("task_id")
        known = any(json.loads(line)["task_id"] == task_id for line in memory.journal)
        if not known:
            self.broken("journal", f"{task_id}: accepted and not in the agent's journal")

    # --- effects

    def effect(self, machine: Machine, task_id: str, drives: list[str]) -> None:
        if machine.effects[task_id] > 1:
            self.broken("doubled", f"{task_id} was carried out {machine.effects[task_id]} times")
        for drive in drives:
            other = machine.at_work.get(drive)
            if other is not None:
                self.broken("exclusive", f"{task_id} and {other} are both at drive {drive}")
        if task_id not in self._world.asked:
            self.broken("authority", f"{task_id} was carried out and nobody asked for it")

    # --- watchers

    def watched_event(self, event: TaskChanged) -> None:
        task, seen = event.task, self.watched[event.task_id]
        if task.revision < seen:  # a new watcher begins with what is on disk, which is no older
            self.broken("watch", f"{task.task_id}: revision {task.revision} was shown after {seen}")
        if task.percent < self._percents.get(task.task_id, 0.0):
            self.broken("watch", f"{task.task_id}: progress went backwards before a watcher's eyes")
        self.watched[event.task_id] = max(seen, task.revision)
        self._percents[task.task_id] = task.percent
        if task.state.over:
            end = f"{task.state} {task.final_digest} {task.code}"
            if self._ends_seen.setdefault(task.task_id, end) != end:
                self.broken("watch", f"{task.task_id}: a second end was shown")

    # --- the end

    def conclude(self) -> int:
        """After the quiet time: the number of tasks that were lost."""
        lost = 0
        self.still_kept()
        for task_id in self.accepted:
            task = self._world.endpoint.disk.tasks.get(task_id)
            if task is not None and task.state.over and task_id not in self._ends_seen:
                self.broken("watch", f"{task_id} is over and its watcher was never shown that")
            if task is None:
                lost += 1
                self.broken("lost", f"{task_id} was accepted and is not there")
            elif self._world.waits_for_holder(task):
                continue
            elif not task.state.over and task.state is not TaskState.UNKNOWN:
                lost += 1
                self.broken("lost", f"{task_id} is {task.state} and nothing happens any more")
            elif task.state is TaskState.UNKNOWN and self._world.agent_has(task_id):
                lost += 1
                self.broken("lost", f"{task_id} is unknown although its agent has it")
        return lost
