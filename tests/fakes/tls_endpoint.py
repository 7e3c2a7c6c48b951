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
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from teeth_protocol.connection import Closed, Role
from teeth_protocol.errors import ProblemError
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
        """Asks for a client certificate of this authority and accepts none; one of another fails."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "chain.pem", self.folder / "key.pem")
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cafile=str(self.ca_file))
        context.num_tickets = 0
        return context

    def issue_server(
        self,
        address: str = "127.0.0.1",
        *,
        before: datetime.datetime | None = None,
        after: datetime.datetime | None = None,
    ) -> None:
        """The server's key and certificate, in the place of those before."""
        key, name = ec.generate_private_key(ec.SECP256R1()), "test endpoint"
        san = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        leaf = self._leaf(name, key.public_key(), san, before=before, after=after)
        (self.folder / "chain.pem").write_bytes(leaf.public_bytes(Encoding.PEM) + self.ca_file.read_bytes())
        (self.folder / "key.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )

    def sign(self, request: str, node: str, boot: str, *, lasts: float = 86400.0) -> dict[str, Any]:
        """What a well-behaved endpoint answers an ``enroll``."""
        asked = x509.load_pem_x509_csr(request.encode())
        assert asked.is_signature_valid
        key = asked.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)
        names = x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(f"urn:teeth:{what}") for what in (f"node:{node}", f"boot:{boot}")]
        )
        now = datetime.datetime.now(datetime.UTC)
        leaf = self._leaf("teeth agent", key, names, after=now + datetime.timedelta(seconds=lasts))
        pem = leaf.public_bytes(Encoding.PEM).decode()
        return {"certificate": pem, "time": now.timestamp(), "not_after": now.timestamp() + lasts}

    def _leaf(
        self, name: str, key: ec.EllipticCurvePublicKey, names: x509.ExtensionType, **times: Any
    ) -> x509.Certificate:
        ca_key = load_pem_private_key((self.folder / "ca.key").read_bytes(), None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        ca = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return _sign(subject, key, ca.subject, ca_key, names, **times)


def make_authority(
    folder: Path,
    *,
    address: str = "127.0.0.1",
    before: datetime.datetime | None = None,
    after: datetime.datetime | None = None,
) -> Authority:
    """``before`` and ``after``: when the server's certificate begins and ends; else a day around now."""
    folder.mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "ca.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    # Good at any time of the tests': it is the server's certificate whose time is tried.
    always = {"before": datetime.datetime(1999, 1, 1), "after": datetime.datetime(2199, 1, 1)}
    ca = _sign(name, key.public_key(), name, key, constraints, **always)
    (folder / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    digest = hashlib.sha256(ca.public_bytes(Encoding.DER)).hexdigest()
    authority = Authority(folder=folder, digest=f"sha256:{digest}")
    authority.issue_server(address, before=before, after=after)
    return authority


def _sign(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
    *,
    before: datetime.datetime | None = None,
    after: datetime.datetime | None = None,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(before or now - datetime.timedelta(days=1))
        .not_valid_after(after or now + datetime.timedelta(days=1))
        .add_extension(extension, critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


@dataclass(slots=True)
class Visit:
    """One connection: what was heard, in order, and the Peer to speak with.

    ``identity``: the names in the client certificate, None for a stranger.
    """

    peer: Peer
    identity: tuple[str, ...] | None = None
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
    """Enrols everybody, accepts every handshake of an enrolled agent and acknowledges everything.

    ``reply`` (all commands but ``enroll``) and ``enrol`` can be exchanged at any time.
    """

    def __init__(self, authority: Authority) -> None:
        self.port = 0
        self.authority = authority
        self.reply: Reply = acknowledge
        self.enrol: Reply = self.certify
        self.lasts = 86400.0  # seconds, of a client certificate
        self.visits: asyncio.Queue[Visit] = asyncio.Queue()
        self.enrolments: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def visit(self) -> Visit:
        """The next connection that finished its handshake."""
        async with asyncio.timeout(DEADLINE):
            return await self.visits.get()

    async def enrolment(self) -> dict[str, Any]:
        """The params of the next ``enroll``."""
        async with asyncio.timeout(DEADLINE):
            return await self.enrolments.get()

    async def certify(self, visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if params.get("only") == "time":
            return {"time": datetime.datetime.now(datetime.UTC).timestamp()}
        node, boot = visit.identity or (params["id"], params["boot_id"])
        return self.authority.sign(params["csr"], node, boot, lasts=self.lasts)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def handler(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            await visit.hear(method, params)
            if method == "enroll":
                self.enrolments.put_nowait(dict(params))
                return await self.enrol(visit, method, params)
            if method == "handshake":
                if visit.identity is None:
                    raise ProblemError("not_enrolled", "a handshake without a certificate")
                if visit.identity != (params["id"], params["boot_id"]):
                    raise ProblemError("wrong_identity", "the certificate names another")
                result = await self.reply(visit, method, params)
                self.visits.put_nowait(visit)
                return result
            return await self.reply(visit, method, params)

        peer = Peer(Role.ENDPOINT, reader, writer, handler, close_timeout=0.1)
        visit = Visit(peer, identity=_identity(writer))
        visit.over.set_result(await visit.peer.run())


def _identity(writer: asyncio.StreamWriter) -> tuple[str, ...] | None:
    certificate = writer.get_extra_info("peercert")
    if not certificate:
        return None
    return tuple(value.split(":", 3)[3] for kind, value in certificate["subjectAltName"] if kind == "URI")


async def acknowledge(visit: Visit, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {}


@contextlib.asynccontextmanager
async def tls_endpoint(
    authority: Authority, *, context: ssl.SSLContext | None = None
) -> AsyncIterator[TlsEndpoint]:
    """An endpoint that listens on a free port of 127.0.0.1."""
    endpoint = TlsEndpoint(authority)
    async with listening(endpoint._serve, context or authority.context()) as port:
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
