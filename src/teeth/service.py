"""The endpoint and the boot server as one running thing: where the parts are joined."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import sqlalchemy as sa

from teeth.boot.door import BOOT_FILES, TRANSFERS, boot_app
from teeth.boot.grants import TTL, Grant, GrantBook, GrantRecord, GrantRefused
from teeth.boot.grants import Claim as GrantClaim
from teeth.boot.images import ImageFile
from teeth.boot.ipxe import BootTarget, command_line, write_first_hop
from teeth.boot.transfers import Transfers
from teeth.endpoint import ca
from teeth.endpoint.admission import Admission, AdmissionLimits
from teeth.endpoint.certifier import Certifier
from teeth.endpoint.certify import CertificateBook, Issued, signing_key
from teeth.endpoint.clientcert import LIFETIME, ClientSigner
from teeth.endpoint.database import Database
from teeth.endpoint.dispatch import Seat
from teeth.endpoint.enrol import Claim, Registrar
from teeth.endpoint.events import BootServed, Subscription, TaskChanged
from teeth.endpoint.httpserver import listening_socket, serve
from teeth.endpoint.hub import Hub
from teeth.endpoint.landing import landing_app, landing_script, new_ticket, with_landing
from teeth.endpoint.logs import log_to, note
from teeth.endpoint.nearby import Nearby
from teeth.endpoint.neighbourhood import Neighbourhood
from teeth.endpoint.nodestore import Node
from teeth.endpoint.pages import Pages
from teeth.endpoint.server import AgentListener
from teeth.endpoint.stores import SqlStores
from teeth.endpoint.taskstate import Task, TaskState
from teeth.endpoint.tls import ServerTls
from teeth.endpoint.transcript import Transcript
from teeth.errors import UsageError
from teeth.images.store import ImageStore, StoredImage
from teeth.images.store import signing_key as image_key
from teeth.signing import public_key_digest, public_raw
from teeth_protocol import methods
from teeth_protocol.errors import ProblemError

Address = tuple[str, int]
_log = logging.getLogger(__name__)
_ANY: Address = ("127.0.0.1", 0)
T = TypeVar("T")
_CHORES = 60.0  # seconds between two looks for nodes that fell silent


# A line on a serial console costs milliseconds: the kernel says what matters (notices and worse), no more.
KERNEL_ARGUMENTS = ("console=tty0", "console=ttyS0,115200", "loglevel=6")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """One endpoint's settings. Ports of 0 take any free one.

    ``data``       its folder: CA, certificate, store. Everything that must survive a restart.
    ``listen``     where agents dial (TLS); ``boot``: plain HTTP; ``landing``: HTTPS.
    ``advertise``  the host by which machines reach us, when that is not the address we listen on.
    ``names``      further names and addresses for the certificate.
    ``certificate_lifetime``  of a client certificate, in seconds.
    ``admission``  what is taken on before it is known who dials.
    ``plaintext``  a listener without TLS and without authority, for development; loopback only.
    ``nearby``     caches of images, and networks whose machines may fetch images from each other.
    ``ramdisk``    folder with vmlinuz and initramfs, None when nothing is booted from here.
    ``images``     further images, beside those of the store in ``data``.
    ``image_caches``  ``http://HOST:PORT`` of caches in front of the boot door, asked for images before it.
    ``image_transfers``  how many images leave at the same time; who comes later is told when to come again.
    ``require_signed_images``  machines that boot from here take only images that the store's key signed.
    """

    data: Path
    listen: Address = _ANY
    boot: Address = _ANY
    landing: Address = _ANY
    advertise: str | None = None
    names: tuple[str, ...] = ()
    ramdisk: Path | None = None
    images: tuple[ImageFile, ...] = ()
    image_caches: tuple[str, ...] = ()
    image_transfers: int = TRANSFERS
    require_signed_images: bool = False
    kernel_arguments: tuple[str, ...] = KERNEL_ARGUMENTS
    certificate_lifetime: float = LIFETIME
    plaintext: Address | None = None
    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    nearby: Nearby = field(default_factory=Nearby)
    transcript: Path | None = None
    log: Path | None = None


class Endpoint:
    """A running endpoint: ``async with Endpoint(config) as endpoint:``. Use it from that event loop only.

    Starting raises TeethError with one clear line (a port that is taken, a data folder in use, a ramdisk that
    is missing) and leaves nothing behind.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self.agent_port = 0
        self.boot_port = 0
        self.landing_port = 0
        self.plaintext_port: int | None = None
        self.ca_digest = ""
        self.ca_file = config.data / "ca.crt"
        self._stack = contextlib.AsyncExitStack()
        self._images = {image.id: image for image in config.images}
        self._image_store = ImageStore(config.data)

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # --- boots

    @property
    def boot_url(self) -> str:
        """``http://HOST:PORT`` of the boot door, as machines see it."""
        return f"http://{self._reachable(self.config.boot, self.boot_port)}"

    def write_first_hop(self, folder: Path) -> Path:
        """The script for a TFTP folder that brings a machine's iPXE to the boot door."""
        return write_first_hop(folder, self.boot_url)

    async def grant(self, mac: str | None = None, *, uuid: str | None = None, ttl: float = TTL) -> Grant:
        """Let one machine boot the ramdisk once within ``ttl`` seconds: the one with this MAC and this SMBIOS
        UUID, or any where neither is given. An unused grant for the same machine is withdrawn."""
        return await self._hub.db.call(self._grants.create, mac, uuid=uuid, ttl=ttl)

    async def grants(self) -> list[GrantRecord]:
        """Every grant of the last month, newest first, without tokens."""
        return await self._hub.db.call(self._grants.listing)

    async def withdraw_grant(self, grant_id: str) -> GrantRecord:
        """Close an open grant before its time. Raises TeethError when there is none of this id."""
        return await self._hub.db.call(self._grants.withdraw, grant_id)

    def kernel_command_line(self, grant: Grant) -> str:
        """What the boot door's script would put on the kernel's command line, for a boot without iPXE."""
        return command_line(self._target, token=grant.token, mac=grant.mac)

    def image(self, name: str) -> dict[str, Any]:
        """The ``image`` member of a prepare_image command: of a configured image by its id, or of one of the
        store by its name, its id or the beginning of its digest. Raises UsageError for none."""
        if name in self._images:
            return self._images[name].params(self.boot_url)
        return self._image_store.find(name).params((*self.config.image_caches, self.boot_url))

    # --- tasks

    async def run_task(
        self,
        node_id: str,
        method: str,
        params: Mapping[str, Any],
        *,
        task_id: str | None = None,
        hold: bool = False,
    ) -> str:
        """See Hub.run_task: the task is on disk when its id is returned."""
        return await self._hub.run_task(node_id, method, params, task_id=task_id, hold=hold)

    async def run_image(
        self,
        node_id: str,
        params: Mapping[str, Any],
        *,
        report_files: Sequence[str] = (),
        task_id: str | None = None,
        hold: bool = False,
    ) -> str:
        """``standbye.run_image`` whose task is complete when the started system has phoned home.

        ``params`` as on the wire; a one-time landing script is added to its config drive's vendor data, and
        reports the contents of ``report_files`` (absolute paths in the started system) with the rest.
        """
        drive = params.get("config_drive")
        if not isinstance(drive, Mapping):
            raise UsageError("run_image needs a config_drive")
        vendor_data = drive.get("vendor_data")
        if vendor_data is not None and not isinstance(vendor_data, Mapping):
            raise UsageError("vendor_data must be an object for a landing to be added to it")
        ticket = new_ticket(f"https://{self._reachable(self.config.landing, self.landing_port)}")
        script = landing_script(ticket, ca_pem=self._authority.pem, files=report_files)
        sent = {**params, "config_drive": {**drive, "vendor_data": with_landing(vendor_data, script)}}
        return await self._hub.run_task(
            node_id,
            methods.RUN_IMAGE,
            params,
            task_id=task_id,
            sent=sent,
            landing_hash=ticket.token_hash,
            hold=hold,
        )

    async def release(self, task_id: str) -> None:
        """Lift the hold of a task that was asked with ``hold``: see Hub.run_task."""
        await self._hub.release(task_id)

    async def cancel_task(self, task_id: str) -> Task:
        """See Hub.cancel_task: what can still be stopped is; returns the task as it stands."""
        return await self._hub.cancel_task(task_id)

    async def settle_task(self, task_id: str, state: str, msg: str) -> Task:
        """See Hub.settle_task: an operator says what became of an unknown task ("complete" or "error")."""
        return await self._hub.settle_task(task_id, TaskState(state), msg)

    async def task(self, task_id: str) -> Task:
        return await self._hub.task(task_id)

    async def tasks(self, node_id: str | None = None) -> list[Task]:
        return await self._hub.db.call(self._hub.tasks.listing, node_id)

    def task_events(self, task_id: str) -> AsyncIterator[TaskChanged]:
        """The task as it stands, then every change, up to the one that ends it."""
        return self._hub.task_events(task_id)

    async def wait_task(self, task_id: str) -> Task:
        """The task once it is over; bound it with asyncio.timeout."""
        return await self._hub.wait_task(task_id)

    # --- nodes

    async def node(self, node_id: str) -> Node | None:
        return await self._hub.db.call(self._hub.nodes.node, node_id)

    async def nodes(self) -> list[Node]:
        return await self._hub.db.call(self._hub.nodes.listing)

    async def forget_node(self, node_id: str, *, force: bool = False) -> None:
        """Let the node's id go: its session ends, its certificates open nothing, another machine may enrol
        under it. What is known of the node goes with it, its tasks stay on record. Raises TeethError when
        there is none, or when tasks of it are open (see Hub.forget for what ``force`` makes of them)."""
        remove = functools.partial(self._registrar.forget, force=force)
        await self._hub.forget(node_id, remove, force=force)

    async def logs(self, node_id: str) -> list[dict[str, Any]]:
        return await self._hub.db.call(self._hub.nodes.logs, node_id)

    async def call(
        self, node_id: str, method: str, params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A command that is no task (``status``, ``inventory``, ``cancel_task``)."""
        return await self._hub.call(node_id, method, params)

    def connected(self) -> list[str]:
        return self._hub.connected()

    def session(self, node_id: str) -> Seat | None:
        """The session of a connected node, as it is at this moment: read it, do not keep it."""
        return self._hub.seat(node_id)

    def images(self) -> list[str]:
        """Ids of the configured images, and of those that are in the store now."""
        return sorted({*self._images, *(one.id for one in self._image_store.listing())})

    def image_names(self) -> list[str]:
        """By which people call them: a configured image's id, a stored one's name."""
        return sorted({*self._images, *(one.name for one in self._image_store.listing())})

    def stored_image(self, identity: str) -> StoredImage | None:
        """What is known of an image of the store, by its whole id."""
        return self._image_store.get(identity)

    async def look(self, question: Callable[[Pages], T]) -> T:
        """What ``question`` reads from the store, a bounded piece at a time, in the store's own thread."""
        return await self._hub.db.call(question, self._pages)

    def subscribe(self) -> Subscription:
        """Everything that happens from now on, as typed events."""
        return self._hub.feed.subscribe()

    # --- certificates of erasure

    @property
    def certificate_key(self) -> str:
        """The public key that verifies them, as PEM."""
        return self._certificates.public_pem

    async def certificates(
        self,
        *,
        task_id: str | None = None,
        node_id: str | None = None,
        serial: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> list[Issued]:
        """See CertificateBook.listing. Erases that ended just now are certified before this answers."""
        await self._certifier.certify()
        look = functools.partial(
            self._certificates.listing,
            task_id=task_id,
            node_id=node_id,
            serial=serial,
            after=after,
            limit=limit,
        )
        return await self._hub.db.call(look)

    async def certificate(self, sequence: int) -> Issued | None:
        """The certificate of this number in the chain."""
        return await self._hub.db.call(self._certificates.get, sequence)

    # --- starting

    async def _start(self) -> None:
        config, enter = self.config, self._stack.enter_context
        _check_ramdisk(config.ramdisk)
        enter(log_to(config.log))
        wanted = {"agents": config.listen, "boot": config.boot, "landing": config.landing}
        if config.plaintext is not None:
            _require_loopback(config.plaintext[0])
            wanted["plaintext"] = config.plaintext
        sockets = {purpose: enter(listening_socket(*at, purpose)) for purpose, at in wanted.items()}
        ports = {purpose: sock.getsockname()[1] for purpose, sock in sockets.items()}
        self.agent_port, self.boot_port, self.landing_port = (
            ports["agents"], ports["boot"], ports["landing"],
        )  # fmt: skip
        self.plaintext_port = ports.get("plaintext")
        db = Database(config.data)
        self._stack.callback(db.close)
        self._authority = ca.load_or_create(config.data)
        self.ca_digest = self._authority.digest
        transcript = enter(contextlib.closing(Transcript(config.transcript)))
        self._grants = GrantBook(db.engine)
        self._pages = Pages(db.engine)
        signer = ClientSigner(self._authority, lifetime=config.certificate_lifetime)
        self._registrar = Registrar(db.engine, _Tokens(self._grants), signer)
        near = Neighbourhood(config.nearby, self.boot_url)
        self._hub = Hub(SqlStores(db), self._registrar.admit, transcript, fit=near.fit)
        self._stack.push_async_callback(self._hub.close)
        await self._hub.recover()
        sharing = asyncio.create_task(near.follow(self._hub, enter(self._hub.feed.subscribe())))
        self._stack.push_async_callback(_cancel, sharing)
        self._certificates = CertificateBook(db.engine, signing_key(config.data), ca=self.ca_digest)
        self._certifier = Certifier(self._hub.db, self._certificates)
        await self._certifier.certify()
        certifying = asyncio.create_task(self._certifier.follow(enter(self._hub.feed.subscribe())))
        self._stack.push_async_callback(_cancel, certifying)
        self._target = BootTarget(
            base_url=self.boot_url,
            endpoints=(self._reachable(config.listen, self.agent_port),),
            ca_digest=self.ca_digest,
            arguments=config.kernel_arguments,
            image_key=_image_key(config) if config.require_signed_images else None,
        )
        await self._open_doors(sockets)
        chores = asyncio.create_task(self._chores())
        self._stack.push_async_callback(_cancel, chores)

    async def _open_doors(self, sockets: Mapping[str, socket.socket]) -> None:
        enter = self._stack.enter_async_context
        self._tls = ServerTls(self._authority, self.config.data, self._names())
        door = boot_app(
            target=self._target,
            grants=self._grants,
            ramdisk=self.config.ramdisk,
            images={image.id: image.path for image in self.config.images},
            on_served=self._served,
            store=self._image_store,
            transfers=Transfers(self.config.image_transfers),
        )
        await enter(serve(door, sockets["boot"], purpose="boot"))
        await enter(
            serve(landing_app(self._hub.land), sockets["landing"], self._tls.context(), purpose="landing")
        )
        limits = self.config.admission
        listener = AgentListener(self._hub, self._registrar, admission=Admission(limits))
        await enter(listener.listen(sockets["agents"], self._tls.context(mutual=True)))
        if "plaintext" in sockets:
            plain = AgentListener(self._hub, self._registrar, admission=Admission(limits), plain=True)
            await enter(plain.listen(sockets["plaintext"], None))

    def _names(self) -> list[str]:
        config = self.config
        hosts = [config.listen[0], config.landing[0], *config.names, "localhost", "127.0.0.1"]
        if config.advertise is not None:
            hosts.append(config.advertise)
        return [host for host in hosts if host not in ("0.0.0.0", "::")]  # noqa: S104 - left out, not bound

    def _reachable(self, address: Address, port: int) -> str:
        host = self.config.advertise or address[0]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _served(self, file: str, sent: int) -> None:
        self._hub.feed.publish(BootServed(file=file, bytes=sent, at=time.time()))

    async def _chores(self) -> None:
        while True:
            await asyncio.sleep(_CHORES)
            try:
                await self.look_after()
            except Exception:  # a full disk, say: the next time it may do better, and the rest goes on
                _log.exception("the endpoint's regular work failed")

    async def look_after(self) -> None:
        """What is to be done now and then; a running endpoint does it by itself, every minute."""
        await self._hub.notice_silence()
        await self._certifier.certify()
        await self._hub.db.call(self._grants.tidy)
        if self._tls.renew():
            note(_log, logging.INFO, "the server certificate was renewed")


class _Tokens:
    """The grant book as enrolment sees it: its refusals are the wire's."""

    def __init__(self, grants: GrantBook) -> None:
        self._grants = grants

    def burn(self, connection: sa.Connection, token: str, claim: Claim) -> bool:
        shown = GrantClaim(
            node_id=claim.node_id, boot_id=claim.boot_id, spki=claim.spki, macs=frozenset(claim.macs),
            uuid=claim.uuid,
        )  # fmt: skip
        with _refusals():
            return self._grants.burn(connection, token, shown)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except GrantRefused as error:
        raise ProblemError(error.code, error.message) from error


def _require_loopback(host: str) -> None:
    """Raises UsageError unless ``host`` is one that only this computer can reach."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise UsageError(
            f"the plaintext listener takes loopback addresses only, not {host}",
            hint="127.0.0.1 or ::1: whoever reaches it needs no token",
        )


def _image_key(config: EndpointConfig) -> str:
    unsigned = [image.id for image in config.images]
    if unsigned:
        raise UsageError(
            f"the image {unsigned[0]} is not signed, and machines are to take signed ones only",
            hint="teeth image add it, instead of --image",
        )
    return public_key_digest(public_raw(image_key(config.data)))


def _check_ramdisk(folder: Path | None) -> None:
    missing = [] if folder is None else [name for name in BOOT_FILES if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"the ramdisk in {folder} lacks {' and '.join(missing)}", hint="run make image")


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
