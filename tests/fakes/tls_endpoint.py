"""A small endpoint over real TLS on 127.0.0.1, with certificates of its own, that a test scripts."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import io
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from teeth_protocol.connection import Closed, Role
from teeth_stream import Peer

DEADLINE = 30.0
Reply = Callable[["Visit", str, Mapping[str, Any]], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate authority and one server certificate for 127.0.0.1 (or another address)."""

    folder: Path
    digest: str

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "chain.pem", self.folder / "key.pem")
        return context


def make_authority(folder: Path, *, address: str = "127.0.0.1") -> Authority:
    folder.mkdir(parents=True)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test endpoint")])
    san = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    ca = _sign(ca_name, ca_key, ca_name, ca_key, x509.BasicConstraints(ca=True, path_length=0))
    leaf = _sign(name, key, ca_name, ca_key, san)
    pem = ca.public_bytes(Encoding.PEM)
    (folder / "ca.pem").write_bytes(pem)
    (folder / "chain.pem").write_bytes(leaf.public_bytes(Encoding.PEM) + pem)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    digest = hashlib.sha256(ca.public_bytes(Encoding.DER)).hexdigest()
    return Authority(folder=folder, digest=f"sha256:{digest}")


def _sign(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(extension, critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


@dataclass(slots=True)
class Visit:
    """One connection: what was heard, in order, and the Peer to speak with."""

    peer: Peer
    heard: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    over: asyncio.Future[Closed] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def hear(self, method: str, params: Mapping[str, Any]) -> None:
        async with self.news:
            self.heard.append((method, dict(params)))
            self.news.notify_all()

    async def until(self, found: Callable[[list[tuple[str, dict[str, Any]]]], Any]) -> Any:
        """What ``found`` gives once it gives something."""
        async with asyncio.timeout(DEADLINE), self.news:
            await self.news.wait_for(lambda: found(self.heard))
            return found(self.heard)

    def said(self, method: str) -> list[dict[str, Any]]:
        return [params for name, params in self.heard if name == method]

    async def state(self, state: str) -> dict[str, Any]:
        """The first task_status with this state (or phase)."""
        found: dict[str, Any] = await self.until(
            lambda heard: next(
                (p for m, p in heard if m == "task_status" and state in (p["state"], p.get("phase"))), None
            )
        )
        return found

    async def cut(self) -> None:
        """The cable is pulled."""
        self.peer._writer.transport.abort()
        await self.over


class TlsEndpoint:
    """Accepts every handshake and acknowledges everything; ``reply`` can be exchanged at any time."""

    def __init__(self) -> None:
        self.port = 0
        self.reply: Reply = acknowledge
        self.visits: asyncio.Queue[Visit] = asyncio.Queue()
        self.received = 0  # bytes, inside TLS, of connections served raw

    async def visit(self) -> Visit:
        """The next connection that finished its handshake."""
        async with asyncio.timeout(DEADLINE):
            return await self.visits.get()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def handler(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            if method == "handshake":
                await visit.hear(method, params)
                result = await self.reply(visit, method, params)
                self.visits.put_nowait(visit)
                return result
            await visit.hear(method, params)
            return await self.reply(visit, method, params)

        visit = Visit(Peer(Role.ENDPOINT, reader, writer, handler, close_timeout=0.1))
        visit.over.set_result(await visit.peer.run())


async def acknowledge(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {}


@contextlib.asynccontextmanager
async def tls_endpoint(authority: Authority) -> AsyncIterator[TlsEndpoint]:
    """An endpoint that listens on a free port of 127.0.0.1."""
    endpoint = TlsEndpoint()
    async with listening(endpoint._serve, authority.context()) as port:
        endpoint.port = port
        yield endpoint


@contextlib.asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    context: ssl.SSLContext | None,
) -> AsyncIterator[int]:
    """A server on 127.0.0.1 whose connections are all over at the end; yields its port."""
    jobs: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def one() -> None:
            try:
                await serve(reader, writer)
            finally:
                writer.transport.abort()

        jobs.add(asyncio.create_task(one()))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await server.wait_closed()


class Screen(io.StringIO):
    """A console that can be waited on; any thread may write to it."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def write(self, text: str, /) -> int:
        written = super().write(text)
        with contextlib.suppress(RuntimeError):  # a thread that outlives the test
            self._loop.call_soon_threadsafe(self._changed.set)
        return written

    async def says(self, words: str) -> str:
        """The whole text once it holds ``words``."""
        async with asyncio.timeout(DEADLINE):
            while words not in self.getvalue():
                self._changed.clear()
                await self._changed.wait()
        return self.getvalue()
