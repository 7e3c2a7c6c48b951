"""The two ways to whom is tested: dial an endpoint, or wait for an agent that dials."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import ssl
import tempfile
import time
from pathlib import Path
from typing import Any

from teeth.conformance.conversation import Conversation, Tasks
from teeth.conformance.safety import Guard
from teeth.conformance.tls import (
    Address,
    Authority,
    Credential,
    client_context,
    load_credential,
    new_request,
    present,
    reason,
    show_address,
)
from teeth.conformance.wire import Wire
from teeth.conformance.wrong import Wrong
from teeth.errors import TeethError, UsageError

_TIMEOUT = 10.0
_FIRST_WORD = 10.0  # from a connection to the agent's handshake
_VERSION = "teeth conformance kit"


class NobodyThereError(TeethError):
    """There is nobody to test (any more)."""

    exit_code = 2


class EndpointDoor:
    """Dials an endpoint: in plain text with a new name for every run, or by TLS with a certificate's."""

    def __init__(self, address: Address, context: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._context = context
        self._node = f"kit-{secrets.token_hex(4)}"
        self._boot = ""
        self._macs: tuple[str, ...] = ()
        self._keys: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def tls(
        cls,
        address: Address,
        *,
        ca: Path | None = None,
        digest: str | None = None,
        credential: Credential | None = None,
        token: str | None = None,
        mac: str | None = None,
    ) -> EndpointDoor:
        """By TLS, with a certificate that is there or one that ``token`` gets. Raises UsageError."""
        door = cls(address, client_context(address, ca=ca, digest=digest))
        assert door._context is not None
        door._macs = (mac,) if mac else ()
        if credential is not None:
            door._node, door._boot = credential.node or door._node, credential.boot
            present(door._context, credential)
        elif token is not None:
            door._enroll(token)
        return door

    def connect(self, held: frozenset[str]) -> Conversation:
        return Conversation(
            Wire(self._dial()), "endpoint", held=held, answer=_answer_of_an_agent, tasks=Tasks()
        )

    def hello(self) -> dict[str, Any]:
        hello: dict[str, Any] = {"id": self._node, "version": _VERSION}
        if self._boot:
            hello["boot_id"] = self._boot
        if self._macs:
            hello["macs"] = list(self._macs)
        return hello

    def welcome(self, hello: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - as Door has it
        raise AssertionError("an endpoint says no handshake")

    def names(self) -> dict[str, str]:
        return {"node": self._node, "boot": self._boot or "plain"}

    def close(self) -> None:
        if self._keys is not None:
            self._keys.cleanup()

    def _dial(self) -> socket.socket:
        where = show_address(self._address)
        try:
            plain = socket.create_connection(self._address, timeout=_TIMEOUT)
        except OSError as error:
            raise NobodyThereError(f"nobody listens at {where}: {reason(error)}") from None
        if self._context is None:
            return plain
        try:
            return self._context.wrap_socket(plain, server_hostname=self._address[0])
        except OSError as error:
            plain.close()
            raise NobodyThereError(f"no TLS with {where}: {reason(error)}") from None

    def _enroll(self, token: str) -> None:
        """Spend the token for a certificate; every later connection shows it."""
        assert self._context is not None
        self._keys = tempfile.TemporaryDirectory(prefix="teeth-conformance-")
        folder = Path(self._keys.name)
        request, key = new_request(folder)
        self._boot = f"kit-{secrets.token_hex(8)}"
        params = {
            "id": self._node, "boot_id": self._boot, "macs": list(self._macs), "token": token, "csr": request
        }  # fmt: skip
        talk = self.connect(frozenset())
        try:
            talk.send_line(json.dumps({"version": "v1", "id": "e", "method": "enroll", "params": params}))
            talk.pump(time.monotonic() + _TIMEOUT)
        except Wrong as error:
            raise UsageError(f"the endpoint's answer to enroll cannot be read: {error}") from None
        finally:
            talk.wire.close()
        answer = talk.inbox[0].value if talk.inbox else {}
        certificate = (answer.get("result") or {}).get("certificate")
        if not isinstance(certificate, str):
            why = (answer.get("error") or {}).get("msg") or answer.get("fatal_error") or "no answer"
            raise UsageError(f"the endpoint did not enrol us: {why}")
        (folder / "certificate.pem").write_text(certificate)
        present(self._context, load_credential(folder / "certificate.pem", key))


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
        self._context: ssl.SSLContext | None = None
        self._authority = Authority(address[0])
        self.digest = ""
        if tls:
            self._context = self._authority.context(credential)
            self.digest = self._authority.digest if credential is None else ""
        try:
            self._listener = socket.create_server(
                address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            )
        except OSError as error:
            raise UsageError(f"cannot listen on {show_address(address)}: {reason(error)}") from None
        self.address: Address = self._listener.getsockname()[:2]

    def connect(self, held: frozenset[str]) -> Conversation:
        """The next connection with a handshake. Raises NobodyThereError when the agent stays away."""
        if self._gone:
            raise NobodyThereError("the agent did not dial again")
        deadline = time.monotonic() + self._patience
        while True:
            talk = self._accept(deadline, held | {"handshake", "enroll"})
            if talk is not None and self._begins(talk):
                return talk
            if talk is not None:
                talk.wire.close()

    def hello(self) -> dict[str, Any]:
        raise AssertionError("an agent is not told a handshake")

    def welcome(self, hello: dict[str, Any]) -> dict[str, Any]:
        return {"id": hello.get("id", "agent"), "version": _VERSION, "time": time.time(), "tasks": []}

    def names(self) -> dict[str, str]:
        return {"node": "agent", "boot": "boot"}

    def close(self) -> None:
        self._listener.close()
        self._authority.close()

    def _accept(self, deadline: float, held: frozenset[str]) -> Conversation | None:
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
            Wire(sock, Guard().check), "agent", held=held, answer=_answer_of_an_endpoint,
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


def _answer_of_an_agent(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """What an agent that knows only the seed, and has no task of ours, says to an endpoint."""
    if method == "ping":
        return {"result": params}
    if method == "status":
        return {"result": {"uptime": 1.0, "version": _VERSION}}
    return {"error": {"msg": f"the conformance kit has no {method}", "code": "unknown_method"}}


def _answer_of_an_endpoint(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "ping":
        return {"result": params}
    if method in ("log", "task_status"):
        return {"result": {}}
    return {"error": {"msg": f"the conformance kit has no {method}", "code": "unknown_method"}}
