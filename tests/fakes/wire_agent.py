"""A small agent on the real wire: real TLS, the real protocol, scripted answers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from teeth_protocol import capabilities
from teeth_protocol.connection import Closed, Role
from teeth_protocol.errors import ProblemError
from teeth_stream import Peer

Answer = Callable[[Mapping[str, Any]], dict[str, Any]]


def trusting(ca_file: Path) -> ssl.SSLContext:
    """TLS as the agent speaks it: 1.3, one CA, host name checked, strict as Python 3.13 is by default."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cafile=str(ca_file))
    return context


def request_for(key: ec.EllipticCurvePrivateKey, common: str = "whoever") -> str:
    """A certificate request in PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def present(context: ssl.SSLContext, certificate: str, key: ec.EllipticCurvePrivateKey) -> None:
    """Let the context show a client certificate (PEM)."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with tempfile.NamedTemporaryFile() as file:
        file.write(private + certificate.encode())
        file.flush()
        context.load_cert_chain(file.name)


@dataclass
class WireAgent:
    """``answers`` maps a method to what is answered; commands that came are in ``commands``, in order.

    ``certificate`` is what it enrolled for; None until then.
    """

    token: str
    node_id: str = "node-1"
    boot_id: str = "boot-1"
    macs: tuple[str, ...] = ("52:54:00:00:00:01",)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    offers: dict[str, Any] = field(default_factory=capabilities.offer)
    answers: dict[str, Answer] = field(default_factory=lambda: {"inventory": lambda _: {"disks": []}})

    uuid: str | None = None
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: str | None = None
    commands: asyncio.Queue[tuple[str, dict[str, Any]]] = field(default_factory=asyncio.Queue)

    def hello(self) -> dict[str, Any]:
        return {
            "id": self.node_id,
            "version": "test",
            "boot_id": self.boot_id,
            "macs": list(self.macs),
            "tasks": self.tasks,
            "timings": {"kernel": 1.5},
            **self.offers,
        }

    def claim(self, **changes: Any) -> dict[str, Any]:
        """The params of a first ``enroll``."""
        claim = {
            "id": self.node_id,
            "boot_id": self.boot_id,
            "macs": list(self.macs),
            "uuid": self.uuid,
            "token": self.token,
            "csr": request_for(self.key),
        }
        return {**claim, **changes}

    async def enrol(self, port: int, ca_file: Path, **changes: Any) -> dict[str, Any]:
        """Get a certificate for the token, over a connection of its own. Raises RemoteError."""
        async with self.dial(port, ca_file, stranger=True) as dialled:
            answer = await dialled.peer.call("enroll", self.claim(**changes))
        self.certificate = answer["certificate"]
        return answer

    @contextlib.asynccontextmanager
    async def dial(self, port: int, ca_file: Path, *, stranger: bool = False) -> AsyncIterator[Dialled]:
        """A connection without a handshake; with the certificate, if there is one."""
        context = trusting(ca_file)
        if self.certificate is not None and not stranger:
            present(context, self.certificate, self.key)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="127.0.0.1"
        )
        peer = Peer(Role.AGENT, reader, writer, self._answer)
        ended = asyncio.create_task(peer.run())
        try:
            yield Dialled(agent=self, peer=peer, ended=ended, writer=writer)
        finally:
            peer.hang_up()
            await ended

    @contextlib.asynccontextmanager
    async def session(self, port: int, ca_file: Path) -> AsyncIterator[Dialled]:
        """A connection with an accepted handshake; it enrols first, if it has not."""
        if self.certificate is None:
            await self.enrol(port, ca_file)
        async with self.dial(port, ca_file) as dialled:
            dialled.welcome = await dialled.peer.call("handshake", self.hello())
            yield dialled

    async def command(self, method: str) -> dict[str, Any]:
        """The params of the next command of this method; others are passed over."""
        async with asyncio.timeout(10):
            while True:
                came, params = await self.commands.get()
                if came == method:
                    return params

    async def _answer(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        self.commands.put_nowait((method, dict(params)))
        if method not in self.answers:
            raise ProblemError("unknown_method", f"no {method}")
        return self.answers[method](params)


@dataclass
class Dialled:
    agent: WireAgent
    peer: Peer
    ended: asyncio.Task[Closed]
    writer: asyncio.StreamWriter
    welcome: dict[str, Any] = field(default_factory=dict)

    async def status(self, task_id: str, state: str, **members: Any) -> dict[str, Any]:
        return await self.peer.call("task_status", {"task_id": task_id, "state": state, **members})

    async def end(self) -> Closed:
        """How the connection ended; waits for it."""
        async with asyncio.timeout(10):
            return await asyncio.shield(self.ended)

    def vanish(self) -> None:
        """The machine is gone without a word."""
        self.writer.transport.abort()
