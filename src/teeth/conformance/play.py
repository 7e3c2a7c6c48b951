"""Play one transcript: step by step, each with a deadline, to a pass, a skip or the line that went wrong."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any, Protocol

from teeth.conformance import pattern
from teeth.conformance.asking import Ask, Asking
from teeth.conformance.conversation import Conversation, Holds, Message
from teeth.conformance.pattern import Node, PatternError, Scope, show
from teeth.conformance.safety import HarmfulError
from teeth.conformance.template import TemplateError, expand, unescape
from teeth.conformance.transcript import Action, Choice, Expect, Send, Step, Transcript
from teeth.conformance.wrong import Skipped, Wrong

WITHIN = 5.0  # seconds for an answer, unless the transcript says otherwise
_LOOK = 0.2  # seconds between two looks whether what was asked for will ever come
_SWITCHES = frozenset({"drop", "accept", "connect", "on"})
_CLOSING = 5.0  # from a fatal_error to the end of the connection


class Door(Protocol):
    """How a transcript comes by connections."""

    def connect(self, holds: Holds) -> Conversation:
        """A new one. Of an agent: the next that it dials, its handshake said and not yet answered."""

    def hello(self) -> dict[str, Any]:
        """The params of the shortest handshake that this endpoint takes."""

    def welcome(self, hello: dict[str, Any]) -> dict[str, Any]:
        """The result of a handshake, for this agent."""

    def names(self) -> dict[str, str]:
        """``node`` and ``boot``: as whom we talk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """``status``: pass, fail or skip. ``line``, ``step``: where it ended. ``detail``: what came instead."""

    transcript: Transcript
    status: str
    seconds: float
    message: str = ""
    line: int = 0
    step: str = ""
    detail: tuple[str, ...] = ()


def play(transcript: Transcript, door: Door, *, ask: Ask | None = None, stretch: float = 1.0) -> Outcome:
    """``stretch``: all deadlines are so many times as long.

    Never raises for what the peer does. Raises TeethError when there is nobody to talk with.
    """
    player = _Player(transcript, door, ask, stretch)
    started = time.monotonic()
    status, message = "pass", ""
    detail: tuple[str, ...] = ()
    try:
        player.run()
    except Skipped as error:
        status, message = "skip", str(error)
    except Wrong as error:
        status, message = "fail", str(error)
        detail = (*error.detail, *player.failed_asking(), *(f"    {line}" for line in player.past()))
    except (PatternError, TemplateError, HarmfulError) as error:
        status, message = "fail", f"the transcript cannot be played: {error}"
    finally:
        player.close()
    went = status == "pass"
    return Outcome(
        transcript=transcript, status=status, seconds=time.monotonic() - started, message=message,
        detail=detail, line=0 if went else player.step.line, step="" if went else player.step.text,
    )  # fmt: skip


class _Player:
    def __init__(self, transcript: Transcript, door: Door, ask: Ask | None, stretch: float) -> None:
        self._within = WITHIN * stretch
        self._closing = _CLOSING * stretch
        self._stretch = stretch
        self._transcript = transcript
        self._door = door
        self._ask = ask
        self._scope: Scope = {}
        self._lines: dict[str, Conversation] = {}
        self._now = ""
        self._asking: list[Asking] = []
        self._next = 0
        self.step: Step = transcript.steps[0]

    def run(self) -> None:
        names = self._door.names()
        self._scope = {**names, "run": f"{secrets.token_hex(4)}-{self._transcript.name[:60]}"}
        self._connect("first")
        for number, step in enumerate(self._transcript.steps):
            self._next, self.step = number, step
            match step:
                case Send():
                    self._send(step)
                case Expect():
                    self._expect(step)
                case Action():
                    self._act(step)
        self._next = len(self._transcript.steps)
        for name in list(self._lines):
            self._now = name
            self._settle()
        for asking in self._asking:
            asking.finish()

    def past(self) -> list[str]:
        return list(self._talk.past) if self._now in self._lines else []

    def failed_asking(self) -> list[str]:
        return [f"the endpoint could not be asked: {one.error}" for one in self._asking if one.error]

    def close(self) -> None:
        for talk in self._lines.values():
            talk.wire.close()

    @property
    def _talk(self) -> Conversation:
        return self._lines[self._now]

    def _connect(self, name: str) -> None:
        self._lines[name] = self._door.connect(self._holds)
        self._now = name

    def _holds(self, command: dict[str, Any]) -> bool:
        """Whether one of the steps to come on this connection takes this command and answers it."""
        for step in self._transcript.steps[self._next :]:
            if isinstance(step, Action) and step.word in _SWITCHES:
                break
            for choice in step.choices if isinstance(step, Expect) else ():
                if choice.answers and choice.node is not None and self._may_fit(choice.node, command):
                    return True
        return False

    def _may_fit(self, node: Node, command: dict[str, Any]) -> bool:
        try:
            return not pattern.match(node, command, dict(self._scope))
        except PatternError:
            return True  # it tells of something that is not known yet

    # --- sending

    def _send(self, step: Send) -> None:
        text = expand(step.template, self._scope)
        if step.raw:
            self._talk.send_bytes(unescape(text))
        else:
            self._talk.send_line(text)

    # --- expecting

    def _expect(self, step: Expect) -> None:
        within = self._within if step.within is None else step.within * self._stretch
        talk, deadline = self._talk, time.monotonic() + within
        seen = 0
        while True:
            for index in range(seen, len(talk.inbox)):
                choice = self._meets(step, talk.inbox[index])
                if choice is not None:
                    message = talk.inbox.pop(index)
                    self._met(choice, show(message.value))
                    return
            seen = len(talk.inbox)
            if talk.ended:
                self._ended(step)
                return
            now = time.monotonic()
            if not talk.pump(min(deadline, now + _LOOK)) and (now >= deadline or self.failed_asking()):
                raise Wrong(f"nothing that fits came within {within:g} s")

    def _meets(self, step: Expect, message: Message) -> Choice | None:
        """The choice that this message meets. Raises Wrong when it was to meet one, and does not."""
        differences: list[str] = []
        for choice in step.choices:
            if choice.word == "fatal" and message.kind == "fatal_error":
                return choice
            if choice.node is None:
                continue
            found = pattern.match(choice.node, message.value, self._scope)
            if not found:
                return choice
            if self._is_meant(choice, message):
                differences += found
        if message.kind == "fatal_error":
            raise Wrong(f"it ended the connection: {show(message.value)}", tuple(differences))
        if differences:
            raise Wrong("the answer is another one", tuple(differences))
        if all(choice.node is None for choice in step.choices) and self._answers_last(message):
            raise Wrong("it was to end the connection, and answered")
        return None

    def _answers_last(self, message: Message) -> bool:
        return message.kind in ("result", "error") and message.id == self._talk.last_asked

    def _is_meant(self, choice: Choice, message: Message) -> bool:
        """Whether the answer with this id was expected here: then no other will come."""
        wanted = pattern.member(choice.node, "id") if choice.node is not None else None
        if wanted is None or wanted.kind != "literal" or message.kind == "method":
            return False
        return pattern.fill(str(wanted.value), self._scope) == message.id

    def _ended(self, step: Expect) -> None:
        for choice in step.choices:
            if choice.word == "close":
                self._met(choice, "the end of the connection")
                return
        raise Wrong("it closed the connection")

    def _met(self, choice: Choice, came: str) -> None:
        if choice.skip:
            raise Skipped(f"the peer has it not: {came}")
        if choice.word == "fatal":
            self._wait_for_close()

    def _wait_for_close(self) -> None:
        """Nothing may follow a fatal_error but the end."""
        deadline = time.monotonic() + self._closing
        while not self._talk.ended:
            if not self._talk.pump(deadline):
                raise Wrong(f"it said fatal_error and did not close within {self._closing:g} s")

    # --- acting

    def _act(self, step: Action) -> None:
        words = step.arguments
        match step.word:
            case "handshake":
                self._handshake()
            case "alive":
                self._alive()
            case "quiet" | "never" | "wait":
                self._let_pass(float(words[0]), *words[1:], may_speak=step.word == "wait")
            case "split":
                self._talk.piece = int(words[0])
            case "mute":
                self._talk.mute = True
            case "ask":
                self._start_asking(words[0], words[1])
            case _:
                self._switch(step.word, *words)

    def _switch(self, word: str, name: str = "first") -> None:
        """Another connection, or none."""
        if word == "drop":
            self._talk.wire.close(abort=True)
            del self._lines[self._now]
        elif word == "on":
            if name not in self._lines:
                raise Wrong(f"the connection {name} was never made")
            self._now = name
        else:
            self._connect(name)

    def _handshake(self) -> None:
        talk = self._talk
        if talk.side == "endpoint":
            identity = f"h-{secrets.token_hex(4)}"
            params = json.dumps(self._door.hello())
            talk.send_line(f'{{"version":"v1","id":"{identity}","method":"handshake","params":{params}}}')
            answer = self._answer_to(identity, "handshake")
            if answer.kind != "result" or not isinstance(answer.value["result"].get("id"), str):
                raise Wrong(f"the handshake was answered with {show(answer.value)}")
            return
        command = next((one for one in talk.inbox if one.value.get("method") == "handshake"), None)
        if command is None:
            raise Wrong("it did not say a handshake")
        talk.inbox.remove(command)
        result = json.dumps(self._door.welcome(talk.hello))
        talk.send_line(f'{{"version":"v1","id":"{command.id}","result":{result}}}')

    def _alive(self) -> None:
        """A ping that comes back shows that the peer lives, and that all it said before is here."""
        identity, token = f"ping-{secrets.token_hex(4)}", secrets.token_hex(8)
        self._talk.send_line(
            f'{{"version":"v1","id":"{identity}","method":"ping","params":{{"token":"{token}"}}}}'
        )
        answer = self._answer_to(identity, "ping")
        if answer.value.get("result") != {"token": token}:
            raise Wrong(f"a ping was answered with {show(answer.value)}")

    def _answer_to(self, identity: str, method: str) -> Message:
        talk, deadline = self._talk, time.monotonic() + self._within
        while True:
            for message in talk.inbox:
                if message.id == identity and message.kind in ("result", "error"):
                    talk.inbox.remove(message)
                    return message
            if talk.fatal is not None:
                raise Wrong(f"it ended the connection: {talk.fatal}")
            if talk.ended:
                raise Wrong(f"it closed the connection and owes the answer to {method}")
            if not talk.pump(deadline):
                raise Wrong(f"{method} was not answered within {self._within:g} s")

    def _let_pass(self, seconds: float, method: str = "", *, may_speak: bool) -> None:
        """Take in what comes for so long; nothing may (of ``method``, when it is given)."""
        self._talk.pump_for(seconds)
        if may_speak:
            return
        if self._talk.ended:
            raise Wrong("it closed the connection")
        for one in self._talk.inbox:
            said = one.value.get("method")
            # Its pings are no news.
            if said == method or (not method and said != "ping"):
                raise Wrong(f"it was not to say {show(one.value)}")

    def _start_asking(self, method: str, template: str) -> None:
        if self._ask is None:
            raise Skipped("nobody can make the endpoint ask (--ask)")
        params = json.loads(expand(template, self._scope))
        task_id = str(self._scope["run"])
        self._asking.append(Asking(self._ask, (str(self._scope["node"]), method, task_id, params)))

    def _settle(self) -> None:
        """At the end: every command has its answer, once, unless the connection was to end."""
        talk = self._talk
        if not talk.open:
            return
        deadline = time.monotonic() + self._within
        while talk.owed.total() and talk.open:
            if not talk.pump(deadline):
                waiting = ", ".join(sorted(identity for identity, count in talk.owed.items() if count))
                raise Wrong(f"it owes the answer to {waiting} after {self._within:g} s")
        if not talk.open:
            raise Wrong("it ended the connection, which was to live")
        self._alive()
