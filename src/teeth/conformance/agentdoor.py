"""The way to an agent: listen, and hand out the connections that it dials."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from typing import Any

from teeth.conformance.conversation import Conversation, Holds
from teeth.conformance.doors import KIT, NobodyThereError
from teeth.conformance.safety import Guard
from teeth.conformance.tasks import Tasks
from teeth.conformance.tls import Address, Authority, Credential, reason, show_address
from teeth.conformance.wire import Wire
from teeth.conformance.wrong import Wrong
from teeth.errors import UsageError

_TIMEOUT = 10.0
_OURS = frozenset({"handshake", "enroll"})  # answered by the door, or by ! handshake
_FIRST_WORD = 10.0  # from a connection to the agent's handshake


class AgentDoor:
    """Listens, and hands out the connections that one agent dials; serves ``enroll`` in between."""

    def __init__(
        self,
        address: Address,
        *,
        tls: bool = False,
        credential: Credential | None = None,
        patience: float = 60.0,
        plan_safe: bool = False,
    ) -> None:
        """``patience``: seconds to wait for the agent to dial. Raises UsageError when it cannot listen."""
        self._patience = patience
        self._plan_safe = plan_safe
        self._tasks = Tasks()
        self._gone = False
        try:
            self._listener = socket.create_server(
                address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            )
        except OSError as error:
            raise UsageError(f"cannot listen on {show_address(address)}: {reason(error)}") from None
        self.address: Address = self._listener.getsockname()[:2]
        self.digest = ""
        self._authority = Authority(address[0])
        self._context: ssl.SSLContext | None = None
        if not tls:
            return
        try:
            self._context = self._authority.context(credential)
        except UsageError:
            self.close()
            raise
        self.digest = self._authority.digest if credential is None else ""

    def connect(self, holds: Holds) -> Conversation:
        """The next connection with a handshake. Raises NobodyThereError when the agent stays away."""
        if self._gone:
            raise NobodyThereError("the agent did not dial again")
        deadline = time.monotonic() + self._patience
        while True:
            talk = self._accept(deadline, lambda command: command["method"] in _OURS or holds(command))
            if talk is not None and self._begins(talk):
                return talk
            if talk is not None:
                talk.wire.close()

    def hello(self) -> dict[str, Any]:
        raise AssertionError("an agent is not told a handshake")

    def welcome(self, hello: dict[str, Any]) -> dict[str, Any]:
        return {"id": hello.get("id", "agent"), "version": KIT, "time": time.time(), "tasks": []}

    def names(self) -> dict[str, str]:
        return {"node": "agent", "boot": "boot"}

    def close(self) -> None:
        self._listener.close()
        self._authority.close()

    def _accept(self, deadline: float, holds: Holds) -> Conversation | None:
        self._listener.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            plain, _ = self._listener.accept()
        except TimeoutError:
            self._gone = True
            raise NobodyThereError(
                f"no agent said a handshake at {show_address(self.address)} within {self._patience:g} s"
            ) from None
        plain.settimeout(_TIMEOUT)
        sock: socket.socket = plain
        if self._context is not None:
            try:
                sock = self._context.wrap_socket(plain, server_side=True)
            except OSError:
                plain.close()
                return None
        return Conversation(
            Wire(sock, Guard().check), "agent", holds=holds, answer=_answer_of_an_endpoint,
            tasks=self._tasks, plan_safe=self._plan_safe,
        )  # fmt: skip

    def _begins(self, talk: Conversation) -> bool:
        """Whether a handshake was said. What comes to enrol is served; what has hung up is passed over."""
        deadline = time.monotonic() + _FIRST_WORD
        # A broken first message is broken again in the next connection, which a transcript then watches.
        with contextlib.suppress(Wrong):
            while talk.pump(deadline) and talk.open:
                last = talk.inbox[-1].value
                if last.get("method") == "handshake":
                    return True
                if last.get("method") == "enroll":
                    self._enroll(talk, last)
        return False

    def _enroll(self, talk: Conversation, command: dict[str, Any]) -> None:
        try:
            answer: dict[str, Any] = {"result": self._authority.answer(command.get("params") or {})}
        except ValueError as error:
            answer = {"error": {"code": "bad_params", "msg": f"params.csr: {error}"}}
        talk.send_line(json.dumps({"version": "v1", "id": command["id"], **answer}))


def _answer_of_an_endpoint(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "ping":
        return {"result": params}
    if method in ("log", "task_status"):
        return {"result": {}}
    return {"error": {"msg": f"the conformance kit has no {method}", "code": "unknown_method"}}
