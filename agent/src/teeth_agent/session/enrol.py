"""The key and the certificate by which an endpoint knows this boot of this machine."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from teeth_agent.errors import AgentError, ToolError
from teeth_agent.tools import openssl
from teeth_protocol.fields import Fields

_log = logging.getLogger(__name__)

# What names us is what the endpoint writes into the certificate; a request's subject is not looked at.
_SUBJECT = "/CN=teeth agent"
_MAX_ABOUT = 1024


def boot_clock() -> float:
    """Seconds since this boot began, those in which it was suspended too: a certificate ages meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A certificate of this boot and its key; ``handle`` is for the dialer alone.

    ``issued`` is a reading of the Keys' clock; an endpoint takes it for ``lasts`` seconds from then.
    """

    handle: Any = field(repr=False)
    issued: float
    lasts: float


class Keys(Protocol):
    """Makes this boot's key and keeps what was issued for it. The simulation's are plain values."""

    def now(self) -> float:
        """Seconds on a clock that nobody sets, and that goes on over a restart of the agent's process."""
        ...

    async def load(self) -> Credential | None:
        """What an earlier process of this boot has left, unless it has expired."""
        ...

    async def csr(self) -> str:
        """A request (PEM) for a certificate, signed by this boot's one key. Raises AgentError."""
        ...

    async def keep(self, certificate: str, lasts: float) -> Credential:
        """Keep what was issued for the key and will be taken for ``lasts`` seconds. Raises AgentError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The handle of a real credential: two PEM files."""

    certificate: Path
    key: Path


class FileKeys:
    """The Keys of a real machine: openssl makes them, files in memory (a tmpfs) keep them for this boot.

    ``folder`` is ours alone (0700, files 0600). What it holds of another boot is not used.
    """

    def __init__(self, folder: Path, *, boot_id: str, now: Callable[[], float] = boot_clock) -> None:
        self._folder = folder
        self._boot_id = boot_id
        self._now = now
        self._guard = threading.Lock()
        self._request: str | None = None
        self._files = TlsFiles(certificate=folder / "certificate.pem", key=folder / "key.pem")

    def now(self) -> float:
        return self._now()

    def prepare_folder(self) -> None:
        """Make the folder, or close it to others. Raises AgentError."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
        except OSError as error:
            raise AgentError(f"{self._folder} cannot be made: {error.strerror}", code="no_key") from None

    async def load(self) -> Credential | None:
        return await asyncio.to_thread(self._load)

    async def csr(self) -> str:
        return await asyncio.to_thread(self._csr)

    async def keep(self, certificate: str, lasts: float) -> Credential:
        return await asyncio.to_thread(self._keep, certificate, lasts)

    def _csr(self) -> str:
        """One key for the whole boot: an answer that was lost is asked for again with the same one."""
        with self._guard:
            if self._request is None:
                self.prepare_folder()
                if not self._files.key.exists() or (request := self._request_for_key()) is None:
                    self._make_key()
                    request = openssl.request(str(self._files.key), _SUBJECT)
                self._request = request
            return self._request

    def _request_for_key(self) -> str | None:
        """For the key that an earlier process has made; None when it is no key that openssl can read."""
        try:
            return openssl.request(str(self._files.key), _SUBJECT)
        except ToolError as error:
            if error.code != ToolError.code:
                raise
            _log.warning("the key of an earlier process is not usable: %s", error)
            return None

    def _make_key(self) -> None:
        # Renamed when whole, so that a process that is killed here leaves no half of a key.
        fresh = self._files.key.with_suffix(".new")
        openssl.generate_key(str(fresh))
        fresh.chmod(0o600)
        fresh.replace(self._files.key)
        self._files.certificate.unlink(missing_ok=True)

    def _keep(self, certificate: str, lasts: float) -> Credential:
        credential = Credential(handle=self._files, issued=self._now(), lasts=lasts)
        about = {"boot_id": self._boot_id, "issued": credential.issued, "lasts": lasts}
        with self._guard:
            fresh = self._files.certificate.with_suffix(".new")
            # One file, so that the certificate and what is known of it cannot be of two times: PEM readers
            # pass over what stands before the certificate.
            _write_private(fresh, f"{json.dumps(about)}\n{certificate}")
            _check_pair(fresh, self._files.key)
            fresh.replace(self._files.certificate)
        return credential

    def _load(self) -> Credential | None:
        try:
            with self._files.certificate.open(encoding="ascii") as file:
                about = Fields(json.loads(file.readline(_MAX_ABOUT)), "certificate")
            issued, lasts = float(about.number("issued")), float(about.number("lasts"))
            if about.text("boot_id") != self._boot_id or not 0 <= self._now() - issued < lasts:
                return None
            _check_pair(self._files.certificate, self._files.key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AgentError) as error:  # FieldError is a ValueError
            _log.warning("the certificate of an earlier process is not usable: %s", error)
            return None
        return Credential(handle=self._files, issued=issued, lasts=lasts)


def _write_private(path: Path, text: str) -> None:
    try:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(text, encoding="ascii")
    except (OSError, UnicodeError) as error:
        raise AgentError(f"the certificate cannot be kept: {error}", code="bad_certificate") from None


def _check_pair(certificate: Path, key: Path) -> None:
    """Raises AgentError unless the certificate is one and belongs to the key."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        reason = getattr(error, "reason", None) or str(error)
        raise AgentError(
            f"the certificate does not belong to this boot's key: {reason}", code="bad_certificate"
        ) from None
