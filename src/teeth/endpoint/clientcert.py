"""Client certificates: what an agent asks with, and what the endpoint's CA answers."""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections.abc import Callable

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from teeth.endpoint.ca import Authority, issue_leaf
from teeth_protocol.fields import FieldError

LIFETIME = 86400.0  # seconds; short, so that nothing needs to be revoked
NODE_URN = "urn:teeth:node:"
BOOT_URN = "urn:teeth:boot:"
# A request for P-256 with a short subject is some 500 bytes of PEM; what is longer wants something else.
MAX_CSR = 2048


def read_csr(pem: str) -> ec.EllipticCurvePublicKey:
    """The key that a PEM certificate request asks to have certified. Nothing else in it is looked at.

    Raises FieldError when it is too long, unreadable, not for P-256 or not signed by its own key.
    """
    if len(pem) > MAX_CSR:
        raise FieldError(f"params.csr: expected at most {MAX_CSR} characters")
    try:
        request = x509.load_pem_x509_csr(pem.encode("ascii"))
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise FieldError("params.csr: expected a certificate request in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FieldError("params.csr: expected a P-256 key")
    try:
        signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm):
        signed = False
    if not signed:
        raise FieldError("params.csr: not signed by its own key")
    return key


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """sha256, in hex, of the key's SubjectPublicKeyInfo in DER."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


class ClientSigner:
    """Signs agents' requests with the endpoint's CA."""

    def __init__(
        self, authority: Authority, *, lifetime: float = LIFETIME, clock: Callable[[], float] = time.time
    ) -> None:
        self._authority = authority
        self._lifetime = lifetime
        self._clock = clock

    def sign(self, csr: str, node_id: str, boot_id: str) -> tuple[str, str, float]:
        """(certificate as PEM, key digest, end of validity in epoch seconds) for a machine's boot.

        Who it is comes from the caller alone: a request's subject and extensions are not looked at. Raises
        FieldError as read_csr.
        """
        key = read_csr(csr)
        now = dt.datetime.fromtimestamp(int(self._clock()), dt.UTC)  # a certificate knows whole seconds
        names = [x509.UniformResourceIdentifier(urn) for urn in (NODE_URN + node_id, BOOT_URN + boot_id)]
        leaf = issue_leaf(
            self._authority, key, common="teeth agent", names=names, usage=ExtendedKeyUsageOID.CLIENT_AUTH,
            lifetime=dt.timedelta(seconds=self._lifetime), now=now,
        )  # fmt: skip
        pem = leaf.public_bytes(serialization.Encoding.PEM).decode("ascii")
        return pem, key_digest(key), leaf.not_valid_after_utc.timestamp()
