"""Who a peer is, by the client certificate that TLS has verified."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from teeth.endpoint.clientcert import BOOT_URN, NODE_URN, key_digest
from teeth_protocol.messages import valid_id


class IdentityError(ValueError):
    """A certificate of our CA that names no node and boot: it was not made for an agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIdentity:
    """A node's boot. ``spki``: sha256 of its public key, hex. ``not_after`` in epoch seconds."""

    node_id: str
    boot_id: str
    spki: str
    not_after: float


def peer_identity(der: bytes) -> PeerIdentity:
    """The identity in a verified certificate's DER: exactly one node and one boot, and nothing beside them.

    Raises IdentityError.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise IdentityError("a client certificate without an agent's names") from error
    texts = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(texts) != 2 or len(list(names)) != 2:
        raise IdentityError("a client certificate of another form than an agent's")
    return PeerIdentity(
        node_id=_only(texts, NODE_URN),
        boot_id=_only(texts, BOOT_URN),
        spki=key_digest(key),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )


def _only(texts: list[str], urn: str) -> str:
    found = [text.removeprefix(urn) for text in texts if text.startswith(urn)]
    if len(found) != 1 or not valid_id(found[0]):
        raise IdentityError(f"a client certificate without one {urn} name")
    return found[0]
