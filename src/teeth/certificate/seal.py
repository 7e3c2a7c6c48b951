"""Signing and opening: Ed25519 over the canonical JSON (RFC 8785) of a certificate's body."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from teeth.errors import TeethError
from teeth_protocol.strictjson import JsonError, loads

# A record comes home in one line of 256 KiB; task and machine add little.
SIZE_LIMIT = 1 << 20
_DEPTH = 24
_VALUES = 100_000
_ALGORITHM = "Ed25519"


class BadCertificate(TeethError):
    """It is not what the endpoint signed."""

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One that was opened: its signature is good. ``digest`` is what the next one's ``previous`` says."""

    body: Mapping[str, Any]
    digest: str

    @property
    def sequence(self) -> int:
        return int(self.body["sequence"])


def seal(body: Mapping[str, Any], key: Ed25519PrivateKey) -> str:
    """One line of JSON: ``{"certificate": body, "signature": {...}}``.

    Raises ValueError for what has no canonical form, such as a number beyond 2**53.
    """
    signed = rfc8785.dumps(dict(body))
    signature = {
        "algorithm": _ALGORITHM,
        "key": key_digest(key.public_key()),
        "value": base64.b64encode(key.sign(signed)).decode("ascii"),
    }
    return rfc8785.dumps({"certificate": dict(body), "signature": signature}).decode("utf-8")


def open_sealed(text: bytes, key: Ed25519PublicKey) -> Certificate:
    """Read one line and check its signature. Raises BadCertificate saying what is wrong."""
    if len(text) > SIZE_LIMIT:
        raise BadCertificate(f"a certificate has at most {SIZE_LIMIT} bytes, this one {len(text)}")
    try:
        whole = loads(text, max_depth=_DEPTH, max_values=_VALUES)
    except JsonError as error:
        raise BadCertificate(f"this is not a certificate: {error}") from error
    body, signature = _parts(whole)
    if signature.get("algorithm") != _ALGORITHM:
        raise BadCertificate(f"it is not signed with {_ALGORITHM}")
    if signature.get("key") != key_digest(key):
        raise BadCertificate(
            f"it is signed by another key ({str(signature.get('key'))[:80]})",
            hint=f"the key that was given is {key_digest(key)}",
        )
    try:
        signed = rfc8785.dumps(body)
        key.verify(base64.b64decode(str(signature.get("value")), validate=True), signed)
    except (InvalidSignature, binascii.Error, ValueError) as error:
        raise BadCertificate("the signature does not match: it was changed after it was signed") from error
    if not isinstance(body.get("sequence"), int) or not isinstance(body.get("previous"), str):
        raise BadCertificate("it has no place in a chain")
    return Certificate(body=body, digest="sha256:" + hashlib.sha256(signed).hexdigest())


def _parts(whole: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    if not isinstance(whole, dict) or whole.keys() != {"certificate", "signature"}:
        raise BadCertificate(
            "this is not a certificate: it has not just the members certificate and signature"
        )
    body, signature = whole["certificate"], whole["signature"]
    if not isinstance(body, dict) or not isinstance(signature, dict):
        raise BadCertificate("this is not a certificate: its members are not objects")
    return body, signature


def key_digest(key: Ed25519PublicKey) -> str:
    """``sha256:`` and the hex digest of the key's SubjectPublicKeyInfo."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + hashlib.sha256(der).hexdigest()


def read_public_key(pem: bytes, name: str) -> Ed25519PublicKey:
    """Raises TeethError, naming the file as ``name``."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TeethError(
            f"{name} is not a public key in PEM", hint="teeth certificate key prints the endpoint's"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise TeethError(f"{name} is not an Ed25519 key", hint="teeth certificate key prints the endpoint's")
    return key
