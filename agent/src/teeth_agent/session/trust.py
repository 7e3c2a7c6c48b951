"""Whom the agent believes: one certificate authority, pinned in the ramdisk or named by digest."""

from __future__ import annotations

import hashlib
import socket
import ssl
from pathlib import Path
from typing import Any

from teeth_agent.errors import AgentError

_PROBE_TIMEOUT = 10.0
_NO_CHECK_TIME = 0x200000  # x509_vfy.h; Python's ssl has no name for it


class TrustError(AgentError):
    """The endpoint is not who the boot server said it would be."""

    code = "wrong_ca"


def pinned_context(ca: bytes | Path) -> ssl.SSLContext:
    """TLS 1.3 only, this one authority only (DER bytes or a PEM file), host name checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if isinstance(ca, bytes):
        context.load_verify_locations(cadata=ca)
    else:
        context.load_verify_locations(cafile=str(ca))
    return context


def ignoring_time(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same context, now checking chain and name but not the time: X509_V_FLAG_NO_CHECK_TIME."""
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    return context


def fetch_authority(host: str, port: int, digest: str, *, timeout: float = _PROBE_TIMEOUT) -> bytes:
    """The DER of the authority whose "sha256:HEX" is ``digest``, out of the endpoint's own chain.

    The connection that fetches it is not verified and carries not one byte of ours: what makes the result
    trustworthy is its digest, which came by the kernel command line. Blocks. Raises TrustError, OSError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((host, port), timeout=timeout) as plain,
        context.wrap_socket(plain) as tls,
    ):
        chain = _chain(tls)
    wanted = digest.removeprefix("sha256:")
    for certificate in chain:
        if hashlib.sha256(certificate).hexdigest() == wanted:
            return certificate
    raise TrustError(
        f"{host}:{port} shows another certificate authority than this boot was told to trust: "
        f"{digest[:23]}..."
    )


def _chain(tls: ssl.SSLSocket) -> list[bytes]:
    """The chain as the peer sent it, in DER. Public since Python 3.13; before, one attribute deeper."""
    if hasattr(tls, "get_unverified_chain"):
        return list(tls.get_unverified_chain())
    inner: Any = tls._sslobj  # type: ignore[attr-defined]
    return [
        ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in inner.get_unverified_chain()
    ]
