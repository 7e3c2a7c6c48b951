"""The way to an endpoint: dial it, in plain text or by TLS."""

from __future__ import annotations

import json
import secrets
import socket
import ssl
import tempfile
import time
from pathlib import Path
from typing import Any

from teeth.conformance.conversation import Conversation, Holds
from teeth.conformance.tasks import Tasks
from teeth.conformance.tls import (
    Address,
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
KIT = "teeth conformance kit"


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
            try:
                door._enroll(token)
            except TeethError:
                door.close()
                raise
        return door

    def connect(self, holds: Holds) -> Conversation:
        return Conversation(
            Wire(self._dial()), "endpoint", holds=holds, answer=_answer_of_an_agent, tasks=Tasks()
        )

    def hello(self) -> dict[str, Any]:
        hello: dict[str, Any] = {"id": self._node, "version": KIT}
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
        talk = self.connect(lambda _: False)
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


def _answer_of_an_agent(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """What an agent that knows only the seed, and has no task of ours, says to an endpoint."""
    if method == "ping":
        return {"result": params}
    if method == "status":
        return {"result": {"uptime": 1.0, "version": KIT}}
    return {"error": {"msg": f"the conformance kit has no {method}", "code": "unknown_method"}}
