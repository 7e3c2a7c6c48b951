"""One connection as the kit sees it: what is owed, what came, and the rules that hold for every message.

These rules are checked in every transcript, whatever it is about: every command has exactly one answer, an
answer belongs to a command, the envelope is whole, nothing follows a fatal_error, a task that is over stays
over.
"""

from __future__ import annotations

import collections
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from teeth.conformance import safety
from teeth.conformance.strict import kind_of, read_line
from teeth.conformance.tasks import Tasks
from teeth.conformance.wire import End, Wire
from teeth.conformance.wrong import Skipped, Wrong

UNAUTHENTICATED_LINE = 4 << 10
LINES = {"agent": 256 << 10, "endpoint": 1 << 20}
EARLY = frozenset({"handshake", "enroll", "ping"})
_REMEMBERED = 12  # last messages, shown with a failure
Holds = Callable[[dict[str, Any]], bool]  # the transcript will answer this command itself
Answer = Callable[
    [str, dict[str, Any]], dict[str, Any]
]  # (method, params) -> {"result": ...} or {"error": ...}


@dataclass(slots=True)
class Message:
    """One message of the peer. ``kind``: method, result, error, fatal_error."""

    kind: str
    value: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.value.get("id", ""))


class Conversation:
    """``side``: whom we talk with. ``holds``: commands that the transcript answers; ``answer`` does the rest.

    ``plan_safe``: an agent that may be sent plans whatever its handshake says.
    """

    def __init__(
        self,
        wire: Wire,
        side: str,
        *,
        holds: Holds,
        answer: Answer,
        tasks: Tasks,
        plan_safe: bool = False,
    ) -> None:
        self.wire = wire
        self.side = side
        self.inbox: list[Message] = []
        self.ready = False
        self.fatal: str | None = None
        self.ended = False
        self.piece = 0  # bytes written at a time, 0: all at once
        self.mute = False  # the kit answers nothing
        self.past: collections.deque[str] = collections.deque(maxlen=_REMEMBERED)
        self.owed: collections.Counter[str] = collections.Counter()
        self.hello: dict[str, Any] = {}
        self.last_asked = ""  # id of our last command
        self._asked: dict[str, str] = {}  # id -> method of every command of ours
        self._unended = b""  # of a line that we send piece by piece
        self._later: list[str] = []  # the kit's answers that wait for that line's end
        self._theirs: dict[str, Message] = {}  # their commands that have no answer yet
        self._holds = holds
        self._answer = answer
        self._tasks = tasks
        self._plan_safe = plan_safe

    @property
    def open(self) -> bool:
        return not self.ended and self.fatal is None

    # --- out

    def send_line(self, text: str) -> None:
        """One line as it stands. Raises Skipped, HarmfulError, Wrong."""
        self.send_bytes(text.encode() + b"\n")

    def send_bytes(self, data: bytes) -> None:
        if self.side == "agent" and safety.is_task(data.decode("utf-8", "replace")):
            self._require_plans()
        self.past.append(f"> {_clip(data)}")
        self._note_sent(data)
        self.wire.send(data, piece=self.piece)
        while self._later and not self._unended:
            self.send_line(self._later.pop(0))

    def _require_plans(self) -> None:
        named = self.hello.get("capabilities")
        if not self._plan_safe and not (isinstance(named, list) and safety.CAPABILITY in named):
            raise Skipped(
                f"the agent does not name the capability {safety.CAPABILITY}: to it, a plan may be an erase"
            )

    def _note_sent(self, data: bytes) -> None:
        """Keep the books of what we asked and answered; broken lines are nobody's command."""
        *lines, self._unended = (self._unended + data).split(b"\n")
        for line in lines:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if not isinstance(value, dict) or not isinstance(value.get("id"), str):
                continue
            if "method" in value:
                self.owed[value["id"]] += 1
                self._asked[value["id"]] = str(value["method"])
                self.last_asked = value["id"]
            elif "result" in value or "error" in value:
                self._note_answer(value)

    def _note_answer(self, value: dict[str, Any]) -> None:
        command = self._theirs.pop(value["id"], None)
        if command is None or "result" not in value:
            return
        if command.value["method"] == "handshake":
            self.ready = True
        if command.value["method"] == "task_status":
            self._tasks.answered(command.value.get("params") or {})

    # --- in

    def pump(self, deadline: float) -> bool:
        """Take in one message or the end of the stream. False when neither came before the deadline."""
        if self.ended:
            return False
        came = self.wire.receive(deadline, LINES[self.side] if self.ready else UNAUTHENTICATED_LINE)
        if came is None:
            return False
        if isinstance(came, End):
            self.ended = True
            self.wire.close()  # TLS waits for both sides to say so
            self.past.append("< (the connection is closed)")
            if came.unended.strip():
                raise Wrong(f"it closed in the middle of a line: {_clip(came.unended)}")
            return True
        self.past.append(f"< {_clip(came.data)}")
        value = read_line(came.data)
        self._take(Message(kind_of(value), value))
        return True

    def pump_for(self, seconds: float) -> None:
        """Take in whatever comes for so long, or to the end of the stream."""
        deadline = time.monotonic() + seconds
        while self.pump(deadline):
            pass

    def _take(self, message: Message) -> None:
        if self.fatal is not None:
            raise Wrong("it spoke on after its fatal_error")
        if message.kind == "fatal_error":
            self.fatal = message.value["fatal_error"]
        elif message.kind == "method":
            self._take_command(message)
        else:
            self._take_answer(message)
        self.inbox.append(message)

    def _take_answer(self, message: Message) -> None:
        if message.id not in self._asked:
            raise Wrong(f"it answered {message.id!r}, which was never asked")
        if self.owed[message.id] == 0:
            raise Wrong(f"it answered {self._asked[message.id]} ({message.id!r}) twice")
        self.owed[message.id] -= 1
        if self._asked[message.id] == "handshake" and message.kind == "result":
            self.ready = True

    def _take_command(self, message: Message) -> None:
        method = message.value["method"]
        params = message.value.get("params") or {}
        if message.id in self._theirs:
            raise Wrong(f"it used the id {message.id!r} again before it was answered")
        if not self.ready and method not in EARLY:
            raise Wrong(f"it said {method} before the handshake was done")
        self._theirs[message.id] = message
        if method == "handshake":
            self.hello = params
        if method == "task_status":
            self._tasks.said(params)
        if not self.mute and not self._holds(message.value):
            answer = {"version": "v1", "id": message.id, **self._answer(method, params)}
            text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
            if self._unended:
                self._later.append(text)  # not into the middle of the transcript's line
            else:
                self.send_line(text)


def _clip(data: bytes, most: int = 240) -> str:
    text = data.decode("utf-8", "backslashreplace").replace("\n", "\\n").replace("\r", "\\r")
    return text if len(text) <= most else f"{text[:most]}... ({len(data)} bytes)"
